import { createHash } from 'node:crypto'
import * as v from 'valibot'

/** `sha256:` and 64 lower-case hexadecimal digits. SHA-256 is the algorithm that every registry supports. */
export type Digest = `sha256:${string}`

const DIGEST_PATTERN = /^sha256:[0-9a-f]{64}$/

/** Returns whether a text is a SHA-256 digest. */
export function isDigest(text: string): text is Digest {
  return DIGEST_PATTERN.test(text)
}

/** Returns the digest of bytes. */
export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** The schema of a digest in a document. */
export const DIGEST = v.custom<Digest>(
  (value) => typeof value === 'string' && isDigest(value),
  'is not a sha256 digest',
)
