import { Readable } from 'node:stream'
import { type Content, contentOf, type Reply, reply, replyWith } from './reply.ts'

export type Fault =
  /** Answers instead of the registry, like a proxy. The request has no effect. */
  | {
      readonly kind: 'status'
      readonly status: number
      readonly body?: string
      readonly headers?: Readonly<Record<string, string>>
    }
  /** Breaks the connection before the request's body is read. The request has no effect. */
  | { readonly kind: 'reset' }
  /** Breaks the connection instead of answering, after the request has taken effect. */
  | { readonly kind: 'lose' }
  /** Does not answer until the client disconnects or the registry is closed. The request has no effect. */
  | { readonly kind: 'hang' }
  /** Handles the request only after this promise has settled. */
  | { readonly kind: 'hold'; readonly until: Promise<unknown> }
  /** Changes the byte in the middle of the answer's body. */
  | { readonly kind: 'corrupt' }
  /** Breaks the connection halfway through the answer's body. */
  | { readonly kind: 'truncate' }
  /** Replaces these headers of the answer, names in lower case; undefined removes one. */
  | { readonly kind: 'headers'; readonly headers: Readonly<Record<string, string | undefined>> }

/** The result for the client: an answer, or none. */
export type Outcome = Reply | 'reset' | 'hang'

/** Handles the request with the fault. */
export async function underFault(fault: Fault | undefined, handle: () => Promise<Reply>): Promise<Outcome> {
  if (fault === undefined) return await handle()
  switch (fault.kind) {
    case 'status':
      return answerOf(fault.status, fault.body, fault.headers)
    case 'reset':
    case 'hang':
      return fault.kind
    case 'hold':
      await fault.until
      return await handle()
    case 'lose':
      await handle()
      return 'reset'
    default:
      return altered(await handle(), fault)
  }
}

type Alteration = Extract<Fault, { kind: 'corrupt' | 'truncate' | 'headers' }>

function altered(answer: Reply, fault: Alteration): Reply {
  if (fault.kind === 'headers') return { ...answer, headers: replaced(answer.headers, fault.headers) }
  if (answer.body === undefined) return answer
  return { ...answer, body: fault.kind === 'corrupt' ? corrupted(answer.body) : truncated(answer.body) }
}

function answerOf(status: number, body: string | undefined, headers: Readonly<Record<string, string>> = {}): Reply {
  if (body === undefined) return reply(status, headers)
  return replyWith(status, contentOf(Buffer.from(body)), headers)
}

function replaced(
  headers: Readonly<Record<string, string>>,
  changes: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const entries = Object.entries({ ...headers, ...changes })
  return Object.fromEntries(entries.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])))
}

function corrupted(body: Content): Content {
  return { size: body.size, open: () => Readable.from(flipByte(body.open(), body.size >> 1)) }
}

async function* flipByte(chunks: AsyncIterable<Buffer>, position: number): AsyncGenerator<Buffer> {
  let offset = 0
  for await (const chunk of chunks) {
    const copy = Buffer.from(chunk)
    const index = position - offset
    if (index >= 0 && index < copy.length) copy.writeUInt8(copy.readUInt8(index) ^ 1, index)
    offset += chunk.length
    yield copy
  }
}

function truncated(body: Content): Content {
  return { size: body.size, open: () => Readable.from(firstHalf(body)) }
}

async function* firstHalf(body: Content): AsyncGenerator<Buffer> {
  const half = body.size >> 1
  if (half > 0) yield* body.open({ start: 0, end: half - 1 })
  // Ends the connection, because the content-length promises more.
  throw new Error('The answer was to be cut off here')
}
