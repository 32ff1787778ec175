import { createCipheriv } from 'node:crypto'
import { zstdDecompressSync } from 'node:zlib'

/** Incompressible bytes, equal for equal arguments. */
export function noise(size: number, seed = 1): Buffer {
  const key = Buffer.alloc(16, seed)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size))
}

/** The frames of a zstd file, in order. */
export function unzstd(bytes: Buffer): Buffer {
  return bytes.length === 0 ? bytes : zstdDecompressSync(bytes)
}
