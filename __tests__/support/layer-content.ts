import { createCipheriv } from 'node:crypto'
import { zstdDecompressSync } from 'node:zlib'

/** Bytes that don't compress; the same for the same arguments. */
export function noise(size: number, seed = 1): Buffer {
  const key = Buffer.alloc(16, seed)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size))
}

/** All frames of a zstd file, one after the other. */
export function unzstd(bytes: Buffer): Buffer {
  return bytes.length === 0 ? bytes : zstdDecompressSync(bytes)
}
