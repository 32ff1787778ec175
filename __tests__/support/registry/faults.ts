import { Readable } from 'node:stream'
import { type Content, contentOf, type Reply, reply, replyWith } from './reply.ts'

export type Fault =
  /** Answered in the registry's place, as by a proxy in front of it. The request has no effect. */
  | {
      readonly kind: 'status'
      readonly status: number
      readonly body?: string
      readonly headers?: Readonly<Record<string, string>>
    }
  /** The connection breaks before the body of the request is read. The request has no effect. */
  | { readonly kind: 'reset' }
  /** The connection breaks in place of the answer, when the request has had its effect. */
  | { readonly kind: 'lose' }
  /** No answer comes until the client gives up or the registry is closed. The request has no effect. */
  | { readonly kind: 'hang' }
  /** The request is handled only once this has settled. */
  | { readonly kind: 'hold'; readonly until: Promise<unknown> }
  /** The byte in the middle of the answer's body is another. */
  | { readonly kind: 'corrupt' }
  /** The connection breaks halfway through the answer's body. */
  | { readonly kind: 'truncate' }
  /** The answer has these headers, names in lower case, in place of its own; undefined takes one away. */
  | { readonly kind: 'headers'; readonly headers: Readonly<Record<string, string | undefined>> }

/** What the client gets: an answer, or none. */
export type Outcome = Reply | 'reset' | 'hang'

/** Handles the request as the fault has it. */
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
  // Ends the connection: the sender has promised more by content-length.
  throw new Error('The answer was to be cut off here')
}
