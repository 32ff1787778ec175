import { createHash } from 'node:crypto'

/** As registries name what they hold; worked out without the code that is tested. */
export function digestOf(bytes: Buffer | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
