import type { IncomingHttpHeaders } from 'node:http'
import type { Reply } from './reply.ts'
import type { Store } from './store.ts'

/** A request, taken apart for the handler of its route. */
export interface Call {
  readonly method: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  /** Empty for the routes that have none. */
  readonly repository: string
  /** A tag, a digest or the id of an upload; empty for the routes that have none. */
  readonly reference: string
  readonly body: AsyncIterable<Buffer>
  readonly store: Store
  /** The `Location` for a path of this registry. */
  readonly locate: (path: string) => string
  /** The `Location` for bytes, which may lie on another host. */
  readonly locateBytes: (path: string) => string
  /** Whether bytes are served right here, rather than by a redirect to where they lie. */
  readonly servesBytes: boolean
}

export type Handler = (call: Call) => Promise<Reply> | Reply

const digest = /^sha256:[0-9a-f]{64}$/

export function isDigest(text: string): boolean {
  return digest.test(text)
}
