import { readSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'

/** Reads bytes in order, from a stream or from a file, in which skipping is free. */
export interface ByteReader {
  /** Returns at least one and at most `most` bytes, or none at the end. They are valid until the next call. */
  next(most: number): Promise<Buffer>
  /** Returns how many bytes were skipped: fewer than `length` only at the end. */
  skip(length: number): Promise<number>
  /** Closes the source, even if bytes are left. */
  close(): Promise<void>
}

/** Reads exactly `length` bytes, fewer only at the end. */
export async function readExactly(reader: ByteReader, length: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let missing = length
  while (missing > 0) {
    const chunk = await reader.next(missing)
    if (chunk.length === 0) break
    chunks.push(Buffer.from(chunk))
    missing -= chunk.length
  }
  return Buffer.concat(chunks)
}

export function streamReader(stream: AsyncIterable<Buffer>): ByteReader {
  const chunks = stream[Symbol.asyncIterator]()
  let rest: Buffer = Buffer.alloc(0)

  async function next(most: number): Promise<Buffer> {
    while (rest.length === 0) {
      const { done, value } = await chunks.next()
      if (done) return rest
      rest = value
    }
    const taken = rest.subarray(0, most)
    rest = rest.subarray(taken.length)
    return taken
  }

  async function skip(length: number): Promise<number> {
    let skipped = 0
    while (skipped < length) {
      const chunk = await next(length - skipped)
      if (chunk.length === 0) break
      skipped += chunk.length
    }
    return skipped
  }

  return {
    next,
    skip,
    async close() {
      await chunks.return?.()
    },
  }
}

const FILE_CHUNK = 1024 * 1024

/**
 * Reads a file, in which skipping moves the position. Closing the reader closes the file.
 * @param size of the file, in bytes
 */
export function fileReader(file: FileHandle, size: number): ByteReader {
  const buffer = Buffer.allocUnsafe(FILE_CHUNK)
  let position = 0
  return {
    async next(most) {
      // Synchronous, because an asynchronous read would wait for a thread of the pool that compresses layers.
      const bytesRead = readSync(file.fd, buffer, 0, Math.min(most, FILE_CHUNK), position)
      position += bytesRead
      return buffer.subarray(0, bytesRead)
    },
    async skip(length) {
      const skipped = Math.min(length, Math.max(0, size - position))
      position += skipped
      return skipped
    },
    close: () => file.close(),
  }
}
