import type { IncomingHttpHeaders } from 'node:http'
import type { Reply } from './reply.ts'
import type { Store } from './store.ts'

/** A parsed request for the handler of its route. */
export interface Call {
  readonly method: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  /** Empty for routes without a repository. */
  readonly repository: string
  /** A tag, a digest or an upload ID; empty for routes without one. */
  readonly reference: string
  readonly body: AsyncIterable<Buffer>
  readonly store: Store
  /** Whether the registry lists referrers. */
  readonly referrers: boolean
  /** Returns the `Location` for a path of this registry. */
  readonly locate: (path: string) => string
  /** Returns the `Location` for bytes, which may be on another host. */
  readonly locateBytes: (path: string) => string
  /** Whether this server returns bytes directly, rather than redirecting to their location. */
  readonly servesBytes: boolean
}

export type Handler = (call: Call) => Promise<Reply> | Reply

const digest = /^sha256:[0-9a-f]{64}$/

export function isDigest(text: string): boolean {
  return digest.test(text)
}
