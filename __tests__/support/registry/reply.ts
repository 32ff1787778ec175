import { Readable } from 'node:stream'

/** Bytes that can be read from the start any number of times. */
export interface Content {
  readonly size: number
  /** Streams all bytes, or those from `start` to `end`, inclusive. */
  readonly open: (range?: ByteRange) => Readable
}

export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** A handler's answer. It has not been sent yet, so that a fault can still change it. */
export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body?: Content
}

/** An answer without a body. */
export function reply(status: number, headers: Readonly<Record<string, string>> = {}): Reply {
  return { status, headers }
}

/** An answer with a body. The sender sets `content-length`. */
export function replyWith(status: number, body: Content, headers: Readonly<Record<string, string>>): Reply {
  return { status, headers, body }
}

export function replyJson(status: number, value: unknown, headers: Readonly<Record<string, string>> = {}): Reply {
  const body = contentOf(Buffer.from(`${JSON.stringify(value)}\n`))
  return replyWith(status, body, { 'content-type': 'application/json; charset=utf-8', ...headers })
}

export function replyText(status: number, text: string, headers: Readonly<Record<string, string>> = {}): Reply {
  const body = contentOf(Buffer.from(`${text}\n`))
  return replyWith(status, body, { 'content-type': 'text/plain; charset=utf-8', ...headers })
}

export interface RegistryError {
  readonly code: keyof typeof messages
  readonly detail?: unknown
}

/** The error answer of the specification: `{"errors": [{code, message, detail}]}`. */
export function refuse(status: number, ...errors: readonly RegistryError[]): Reply {
  return replyJson(status, { errors: errors.map(({ code, detail }) => ({ code, message: messages[code], detail })) })
}

export function contentOf(bytes: Buffer): Content {
  return {
    size: bytes.length,
    open: (range) => Readable.from([range === undefined ? bytes : bytes.subarray(range.start, range.end + 1)]),
  }
}

/** Reads all bytes of a content that is known to be small. */
export async function readAll(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const all: Buffer[] = []
  for await (const chunk of chunks) all.push(chunk)
  return Buffer.concat(all)
}

// The messages of Docker Distribution 2.8, registry/api/v2/errors.go.
const messages = {
  BLOB_UNKNOWN: 'blob unknown to registry',
  BLOB_UPLOAD_INVALID: 'blob upload invalid',
  BLOB_UPLOAD_UNKNOWN: 'blob upload unknown to registry',
  DIGEST_INVALID: 'provided digest did not match uploaded content',
  MANIFEST_BLOB_UNKNOWN: 'blob unknown to registry',
  MANIFEST_INVALID: 'manifest invalid',
  MANIFEST_UNKNOWN: 'manifest unknown',
  NAME_INVALID: 'invalid repository name',
  NAME_UNKNOWN: 'repository name not known to registry',
  RANGE_INVALID: 'invalid content range',
  UNAUTHORIZED: 'authentication required',
  UNKNOWN: 'unknown error',
} as const
