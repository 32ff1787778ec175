import { once } from 'node:events'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** A proxy that delays and counts requests to a registry. */
export interface Proxy {
  readonly host: string
  count(): number
  close(): Promise<void>
}

/**
 * Starts a proxy in front of a registry.
 * @param delay of each request, in milliseconds
 */
export async function startProxy(target: string, delay: number): Promise<Proxy> {
  let count = 0
  const server = createServer(async (incoming, outgoing) => {
    count++
    await sleep(delay)
    const onward = request(`http://${target}${incoming.url}`, { method: incoming.method, headers: incoming.headers })
    onward.on('response', (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    onward.on('error', () => outgoing.destroy())
    incoming.pipe(onward)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    count: () => count,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
