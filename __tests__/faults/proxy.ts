import { once } from 'node:events'
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
  request as send,
} from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { FAULTS, type FaultName } from './faults.ts'

/** The request that gets a fault. */
export interface Target {
  /** The kind of the request, from the proxy's `kindOf`: `PUT blob`. */
  readonly kind: string
  /** The number of the request among those of its kind, from 1. */
  readonly nth: number
  readonly fault: FaultName
  /** Whether all later requests of the kind fail as well. */
  readonly lasting: boolean
}

/** A complete answer. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: Buffer
}

/** A request with its body. */
export interface Received {
  readonly method: string
  readonly url: URL
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

export interface ProxyOptions {
  /** The host to forward requests to. */
  readonly backend: string
  /** Names the kind of a request. Undefined: the request never gets a fault. */
  readonly kindOf: (method: string, url: URL) => string | undefined
  /** Answers instead of the backend, for example as a token service. */
  readonly answer?: (received: Received) => Promise<Answer | undefined>
  readonly target?: Target | undefined
  /** Receives the pending work of the backend. */
  readonly hold: <Result>(work: Promise<Result>) => Promise<Result>
}

export interface FaultProxy {
  /** Host and port, as in a URL: `127.0.0.1:43215`. */
  readonly host: string
  /** The number of requests of each kind, in the order of their first requests. */
  readonly counts: ReadonlyMap<string, number>
  /** Returns the number of requests that got the fault. */
  readonly hits: () => number
  readonly close: () => Promise<void>
}

/** A request and its connection, for faults. */
export interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly socket: Socket
  readonly host: string
  /** Reads the request's body. */
  read(): Promise<Received>
  /** Forwards the request to the backend. */
  forward(): Promise<Answer>
  /** Sends an answer. */
  reply(answer: Answer): void
  /** Writes raw bytes to the connection. */
  write(bytes: Buffer | string): Promise<void>
  /** Breaks open connections and refuses new ones, for this many milliseconds or, if undefined, forever. */
  refuse(milliseconds: number | undefined): void
  /** Breaks all connections to this host for this many milliseconds. */
  breakDown(milliseconds: number): void
}

/** Starts a proxy in front of a backend, on a free port of 127.0.0.1, that applies a fault to one kind of request. */
export async function startFaultProxy(options: ProxyOptions): Promise<FaultProxy> {
  const { backend, kindOf, target } = options
  const agent = new Agent({ keepAlive: true })
  const counts = new Map<string, number>()
  const sockets = new Set<Socket>()
  let hits = 0
  let downUntil = 0
  let closed = false

  const server = createServer((request, response) => {
    serve(request, response).catch(() => request.socket.destroy())
  })
  server.keepAliveTimeout = 0
  server.requestTimeout = 0
  server.on('clientError', (_, socket) => socket.destroy())
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket)).on('error', () => undefined)
    if (Date.now() < downUntil) socket.resetAndDestroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const host = `127.0.0.1:${port}`

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '' } = request
    const url = new URL(request.url ?? '/', `http://${host}`)
    const exchange = exchangeOf(request, response, url)
    const kind = kindOf(method, url)
    if (kind !== undefined) counts.set(kind, (counts.get(kind) ?? 0) + 1)
    if (kind === undefined || kind !== target?.kind || !isHit(target, counts.get(kind) ?? 0))
      return exchange.reply(await exchange.forward())
    hits++
    await FAULTS[target.fault].apply(exchange, target.lasting)
  }

  function exchangeOf(request: IncomingMessage, response: ServerResponse, url: URL): Exchange {
    const { method = '', headers, socket } = request
    let body: Promise<Buffer> | undefined
    const read = async (): Promise<Received> => {
      body ??= buffer(request)
      return { method, url, headers, body: await body }
    }
    return {
      request,
      response,
      socket,
      host,
      read,
      forward: async () => {
        const received = await read()
        return (
          (await options.answer?.(received)) ??
          rewrite(await options.hold(forward(received, backend, agent)), backend, host)
        )
      },
      reply: ({ status, headers: given, body: content }) => {
        const length = status === 204 || status === 304 || given['content-length'] !== undefined
        const all = { ...given, ...(!length && { 'content-length': String(content.length) }) }
        response.writeHead(status, all as Record<string, string>)
        response.end(method === 'HEAD' ? undefined : content)
      },
      write: (bytes) => new Promise((resolve) => void socket.write(bytes, () => resolve())),
      refuse: (milliseconds) => {
        server.close()
        for (const one of sockets) one.resetAndDestroy()
        if (milliseconds === undefined) return
        setTimeout(() => {
          if (!closed) server.listen(port, '127.0.0.1')
        }, milliseconds)
      },
      breakDown: (milliseconds) => {
        downUntil = Date.now() + milliseconds
        for (const one of sockets) one.resetAndDestroy()
      },
    }
  }

  return {
    host,
    counts,
    hits: () => hits,
    close: async () => {
      closed = true
      for (const one of sockets) one.destroy()
      agent.destroy()
      if (!server.listening) return
      server.close()
      await once(server, 'close')
    },
  }
}

function isHit({ nth, lasting }: Target, count: number): boolean {
  return count === nth || (lasting && count > nth)
}

async function forward({ method, url, headers, body }: Received, backend: string, agent: Agent): Promise<Answer> {
  const { connection: _, 'transfer-encoding': __, authorization, ...rest } = headers
  // The proxy checks the credentials for the registry. The other services check theirs themselves.
  const own = url.pathname.startsWith('/v2/') ? {} : { authorization }
  const all = { ...rest, ...(own.authorization && own), 'content-length': String(body.length) }
  const path = `${url.pathname}${url.search}`
  const forwarded = send(`http://${backend}${path}`, { method, headers: all, agent })
  forwarded.end(body)
  const [answer] = (await once(forwarded, 'response')) as [IncomingMessage]
  const { connection: ___, 'keep-alive': ____, 'transfer-encoding': _____, ...kept } = answer.headers
  return { status: answer.statusCode ?? 0, headers: kept, body: await buffer(answer) }
}

/** Replaces the address of the backend in its answers with that of the proxy. */
function rewrite(answer: Answer, backend: string, host: string): Answer {
  if (!String(answer.headers['content-type']).includes('json')) return answer
  const text = answer.body.toString()
  if (!text.includes(`http://${backend}/`)) return answer
  const body = Buffer.from(text.replaceAll(`http://${backend}/`, `http://${host}/`))
  return { ...answer, headers: { ...answer.headers, 'content-length': String(body.length) }, body }
}
