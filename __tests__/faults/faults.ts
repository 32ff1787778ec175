import { STATUS_CODES } from 'node:http'
import type { Answer, Exchange } from './proxy.ts'

/** A fault of a request. */
export interface Fault {
  /** Breaks the exchange. */
  readonly apply: (exchange: Exchange, lasting: boolean) => Promise<void> | void
  /** The duration of a single fault, in milliseconds. */
  readonly lasts?: number
  /** Reports whether a kind of request can have the fault. Absent: all kinds. */
  readonly suits?: (kind: string) => boolean
  /** Whether the request still succeeds, but slowly. */
  readonly harmless?: boolean
  /** Whether the fault always passes. */
  readonly passesOnly?: boolean
}

const HTML = Buffer.from('<html><head><title>Welcome</title></head><body><h1>Please sign in</h1></body></html>')
const LIMIT = { message: 'You have exceeded a secondary rate limit. Please wait a few minutes before you try again.' }

const hasAnswerBody = (kind: string) => !/^HEAD|^DELETE upload/.test(kind)
const hasRequestBody = (kind: string) => /^PUT|^Put|^Create|^Finalize|^List|^GetSigned|^DeleteArtifact/.test(kind)
const readsContent = (kind: string) => /^GET (?!\/v2)|^Get|^List|^Create|^Finalize|^DeleteArtifact|compare/.test(kind)
const isRegistry = (kind: string) => /^(GET|HEAD|POST|PUT|DELETE) (?!compare)/.test(kind)
const isArtifact = (kind: string) => !/^(GET|HEAD|POST|PUT|DELETE) /.test(kind)
const hasDigest = (kind: string) => /^(HEAD|GET|PUT) (manifest|blob|upload)/.test(kind)

/** Every fault of the matrix. */
export const FAULTS = {
  'reset before the request is read': { apply: ({ socket }) => void socket.resetAndDestroy() },
  'reset after the request was read': {
    apply: async ({ read, socket }) => {
      await read()
      socket.resetAndDestroy()
    },
  },
  'reset in the middle of the request': {
    suits: hasRequestBody,
    apply: async ({ request, socket }) => {
      await new Promise((resolve) => void request.once('data', resolve))
      socket.resetAndDestroy()
    },
  },
  'answer lost': {
    apply: async ({ forward, socket }) => {
      await forward()
      socket.resetAndDestroy()
    },
  },
  'reset in the middle of the answer': {
    apply: async (exchange) => {
      const bytes = wire(await exchange.forward(), exchange)
      await exchange.write(bytes.subarray(0, bytes.length - Math.max(3, bytes.length >> 2)))
      exchange.socket.resetAndDestroy()
    },
  },
  'connection refused': {
    lasts: 10_000,
    apply: ({ refuse }, lasting) => refuse(lasting ? undefined : 10_000),
  },
  'outage of 60 s': { lasts: 60_000, passesOnly: true, apply: ({ breakDown }) => breakDown(60_000) },
  'no answer': { lasts: 60_000, apply: async ({ read }) => void (await read()) },
  'headers and then nothing': {
    lasts: 60_000,
    suits: hasAnswerBody,
    apply: async (exchange) => {
      const answer = await exchange.forward()
      await exchange.write(head({ ...answer, body: Buffer.alloc(Math.max(answer.body.length, 100)) }))
    },
  },
  'half an answer and then nothing': {
    lasts: 60_000,
    suits: readsContent,
    apply: async (exchange) => {
      const bytes = wire(await exchange.forward(), exchange)
      await exchange.write(bytes.subarray(0, -10))
    },
  },
  'slow answer': {
    lasts: 10_000,
    harmless: true,
    // Uses the response rather than the socket, because the connection serves more requests.
    apply: async ({ forward, request, response }) => {
      const { status, headers, body } = await forward()
      await pause(5_000)
      response.writeHead(status, { 'content-length': String(body.length), ...(headers as Record<string, string>) })
      response.flushHeaders()
      const size = Math.ceil(body.length / 5)
      for (let at = 0; at < body.length && request.method !== 'HEAD'; at += size) {
        response.write(body.subarray(at, at + size))
        await pause(1_000)
      }
      response.end()
    },
  },
  'body cut short': {
    suits: readsContent,
    apply: async (exchange) => {
      const bytes = wire(await exchange.forward(), exchange)
      await exchange.write(bytes.subarray(0, -20))
      exchange.socket.end()
    },
  },
  'half of the body with a matching Content-Length': {
    suits: readsContent,
    apply: async ({ forward, reply }) => {
      const { headers, body, ...answer } = await forward()
      const half = body.subarray(0, body.length >> 1)
      reply({ ...answer, headers: { ...headers, 'content-length': String(half.length) }, body: half })
    },
  },
  'Content-Length too large': {
    suits: hasAnswerBody,
    apply: async (exchange) => {
      const answer = await exchange.forward()
      const longer = { ...answer, body: Buffer.alloc(answer.body.length + 10) }
      await exchange.write(Buffer.concat([Buffer.from(head(longer)), answer.body]))
      exchange.socket.end()
    },
  },
  'damaged body': {
    suits: readsContent,
    apply: async ({ forward, reply }) => {
      const answer = await forward()
      const body = Buffer.from(answer.body)
      const at = body.length >> 1
      if (body.length > 0) body.writeUInt8(body.readUInt8(at) ^ 1, at)
      reply({ ...answer, body })
    },
  },
  'another digest': {
    suits: hasDigest,
    apply: async ({ forward, reply }) => {
      const answer = await forward()
      reply({ ...answer, headers: { ...answer.headers, 'docker-content-digest': `sha256:${'0'.repeat(64)}` } })
    },
  },
  // Only a registry answers 401 to a request that it accepts later.
  '401': {
    suits: (kind) => isRegistry(kind) && kind !== 'GET token',
    apply: async (exchange) => {
      const { headers } = await exchange.read()
      // Like the answer of a registry to an expired token: with the same challenge as for no token.
      const realm = `Bearer realm="http://${exchange.host}/token",service="test-registry",error="invalid_token"`
      const asked = headers.authorization === undefined ? {} : { 'www-authenticate': realm }
      exchange.reply(json(401, { errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] }, asked))
    },
  },
  '403 secondary rate limit': { apply: instead(json(403, LIMIT)) },
  '404': {
    suits: (kind) => kind !== 'GET token',
    apply: instead(json(404, { errors: [{ code: 'NOT_FOUND', message: 'not found' }] })),
  },
  '408': { apply: instead(text(408, 'Request Timeout')) },
  '409': { suits: isArtifact, apply: instead(json(409, { code: 'conflict', msg: 'conflict' })) },
  '429': { apply: instead(json(429, { errors: [{ code: 'TOOMANYREQUESTS', message: 'too many requests' }] })) },
  '429, Retry-After in seconds': { lasts: 7_000, apply: instead(text(429, 'slow down', { 'retry-after': '7' })) },
  '429, Retry-After as a date': {
    lasts: 20_000,
    apply: async ({ read, reply }) => {
      await read()
      reply(text(429, 'slow down', { 'retry-after': new Date(Date.now() + 20_000).toUTCString() }))
    },
  },
  '429, Retry-After broken': { apply: instead(text(429, 'slow down', { 'retry-after': '12.5ms' })) },
  '500': { apply: instead(json(500, { errors: [{ code: 'UNKNOWN', message: 'internal error' }] })) },
  '502': { apply: instead(html(502)) },
  '503': { apply: instead(html(503)) },
  '504': { apply: instead(html(504)) },
  '520': { apply: instead(html(520)) },
  '200 with HTML': { apply: instead(html(200)) },
  '200 with nothing': { apply: instead({ status: 200, headers: {}, body: Buffer.alloc(0) }) },
  'redirect to a sign-in page': {
    apply: async ({ read, reply, host }) => {
      await read()
      reply({ status: 302, headers: { location: `http://${host}/login` }, body: Buffer.alloc(0) })
    },
  },
} as const satisfies Readonly<Record<string, Fault>>

export type FaultName = keyof typeof FAULTS

export const FAULT_NAMES = Object.keys(FAULTS) as readonly FaultName[]

/** The page that a redirect leads to. */
export const SIGN_IN_PAGE: Answer = html(200)

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, milliseconds))
}

function instead(answer: Answer): Fault['apply'] {
  return async ({ read, reply }) => {
    await read()
    reply(answer)
  }
}

function json(status: number, value: unknown, headers: Answer['headers'] = {}): Answer {
  const body = Buffer.from(JSON.stringify(value))
  return { status, headers: { 'content-type': 'application/json', ...headers }, body }
}

function text(status: number, detail: string, headers: Answer['headers'] = {}): Answer {
  return { status, headers: { 'content-type': 'text/plain', ...headers }, body: Buffer.from(detail) }
}

function html(status: number): Answer {
  return { status, headers: { 'content-type': 'text/html' }, body: HTML }
}

/** Returns the bytes of an answer on the connection. */
function wire(answer: Answer, { request }: Exchange): Buffer {
  const start = Buffer.from(head(answer, request.method === 'HEAD'))
  return request.method === 'HEAD' ? start : Buffer.concat([start, answer.body])
}

function head({ status, headers, body }: Answer, keepLength = false): string {
  const { 'content-length': length = '0', ...rest } = headers
  const lines = Object.entries({ ...rest, 'content-length': keepLength ? length : String(body.length) }).flatMap(
    ([name, value]) => (value === undefined ? [] : [value].flat().map((one) => `${name}: ${one}\r\n`)),
  )
  return `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Unknown'}\r\n${lines.join('')}\r\n`
}
