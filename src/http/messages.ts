import type { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import type { Work } from './budget.ts'

/** A request. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  readonly url: URL
  /** The server that caused the request, such as by a redirect. It can't direct requests to addresses nearer than its own. */
  readonly initiator?: URL
  readonly headers: Readonly<Record<string, string>>
  /** A stream can be sent only once. */
  readonly body?: Uint8Array | Readable | undefined
  /** How long to wait for the answer once the request has been sent, in milliseconds. The default is 60 s. */
  readonly timeoutMs?: number
  /** The purpose of the request, used in messages after "Can't": `read ghcr.io/owner/app:latest`. */
  readonly operation: string
  /** Reads the body of the answer, of at most so many bytes, as part of the request, so that a failure is retried. */
  readonly limit?: number
  /** The maximum number of attempts. Answers with status 429 don't count. */
  readonly attempts?: number
  /** The work that the request belongs to, which is retried as a whole. The request itself is sent once. */
  readonly work?: Work
}

/**
 * The headers of an answer by their names in lower case. Several values of one header are joined with commas. Not `Headers`,
 * whose first use makes Node.js load its own copy of undici.
 */
export type ResponseHeaders = ReadonlyMap<string, string>

/** An answer with a status below 400. */
export interface HttpSuccess {
  readonly ok: true
  readonly url: URL
  readonly status: number
  readonly headers: ResponseHeaders
  /** Must be passed to `read` or `drain`, unless the request had a limit. */
  readonly body: Dispatcher.ResponseData['body']
  /** The whole body if the request had a limit. Undefined if the body is larger. */
  readonly content?: Buffer | undefined
}

/** An answer with a status of 400 or above, or an HTML page in place of data, after all attempts. */
export interface HttpFailure {
  readonly ok: false
  readonly url: URL
  readonly status: number
  readonly headers: ResponseHeaders
  /** The first 64 KiB of the body. */
  readonly text: string
  /** The number and duration of the attempts, if there were several: `9 attempts in 118 s`. */
  readonly tries?: string
}

export type HttpReply = HttpSuccess | HttpFailure
