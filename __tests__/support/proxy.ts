import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface TestProxy {
  /** Host and port, as in a URL: `127.0.0.1:43215`. */
  readonly host: string
  /** The requested destinations, as the client wrote them. */
  readonly targets: readonly string[]
  /** The `Proxy-Authorization` of each request that had one. */
  readonly logins: readonly string[]
  readonly close: () => Promise<void>
}

/** A status other than 2xx refuses the request; `silence` never answers, and `break` closes the connection. */
export type ProxyAnswer = 'tunnel' | 'silence' | 'break' | number

/**
 * Starts a tunnelling proxy (RFC 9110, section 9.3.6; without a login, RFC 1928) in this process.
 * @param to the destination of every tunnel, regardless of the request
 * @param answerTo decides the answer to a request, counting from 1
 */
export async function startProxy(to: string, answerTo: (count: number) => ProxyAnswer): Promise<TestProxy> {
  const sockets = new Set<Socket>()
  const targets: string[] = []
  const logins: string[] = []
  const keep = (socket: Socket): Socket => {
    sockets.add(socket)
    return socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
  }
  const tunnel = (socket: Socket, welcome: Uint8Array | string): void => {
    const port = Number(to.split(':')[1])
    const server = keep(connect(port, '127.0.0.1'))
    socket.write(welcome)
    socket.pipe(server).pipe(socket)
    socket.on('close', () => server.destroy())
    server.on('close', () => socket.destroy())
  }
  const answer = (socket: Socket, target: string, welcome: Uint8Array | string): void => {
    const message = answerTo(targets.push(target))
    if (message === 'tunnel') tunnel(socket, welcome)
    else if (message === 'break') socket.destroy()
    else if (message !== 'silence') socket.end(`HTTP/1.1 ${message} No\r\ncontent-length: 0\r\n\r\n`)
  }
  const server = createServer((socket) => {
    keep(socket).once('data', (data) => {
      if (data[0] === SOCKS5) return greet(socket, (target) => answer(socket, target, SOCKS5_WELCOME))
      const [first = '', ...headers] = data.toString('latin1').split('\r\n')
      logins.push(...headers.flatMap((line) => /^proxy-authorization: (.+)$/i.exec(line)?.[1] ?? []))
      answer(socket, first.split(' ')[1] ?? '', 'HTTP/1.1 200 OK\r\n\r\n')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    targets,
    logins,
    close: async () => {
      if (!server.listening) return
      server.close()
      for (const socket of sockets) socket.destroy()
      await once(server, 'close')
    },
  }
}

const SOCKS5 = 5
const SOCKS5_WELCOME = Buffer.of(SOCKS5, 0, 0, 1, 0, 0, 0, 0, 0, 0)

/** Requests no login, then accepts a request for a host by its name. Refuses anything else. */
function greet(socket: Socket, asked: (target: string) => void): void {
  socket.write(Buffer.of(SOCKS5, 0))
  socket.once('data', (data) => {
    const byName = data[3] === 3
    const end = 5 + (data[4] ?? 0)
    if (byName) asked(`${data.toString('latin1', 5, end)}:${data.readUInt16BE(end)}`)
    else socket.destroy()
  })
}
