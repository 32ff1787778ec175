import { createHash } from 'node:crypto'

/** `sha256:` and 64 lower-case hexadecimal digits, the one algorithm that every registry has. */
export type Digest = `sha256:${string}`

const DIGEST_PATTERN = /^sha256:[0-9a-f]{64}$/

/** Whether a text is a digest, which a reference from elsewhere need not be. */
export function isDigest(text: string): text is Digest {
  return DIGEST_PATTERN.test(text)
}

/** The digest of the bytes as they are. */
export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
