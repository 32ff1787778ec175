import { createHash } from 'node:crypto'

/** Returns the sha256 digest of content, as in a registry. Independent of the code under test. */
export function digestOf(bytes: Buffer | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
