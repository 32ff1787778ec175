import { type ArchiveCompression, compressionOf, isTar } from './decompress.ts'

/** Content of which it is known how it is compressed; that of Nix's layers is a plain tar. */
export interface Probed {
  readonly compression?: ArchiveCompression | undefined
  /** All of it, in chunks that are each valid until the next. */
  readonly content: AsyncIterable<Buffer>
}

/** Tells by its first bytes how content is compressed: other tools than Nix's put compressed layers into archives. */
export async function probe(content: AsyncIterable<Buffer>): Promise<Probed> {
  const chunks = content[Symbol.asyncIterator]()
  let start: Buffer = Buffer.alloc(0)
  while (start.length < HEADER) {
    const { done, value } = await chunks.next()
    if (done) break
    // A copy, for the chunk is gone with the next.
    start = Buffer.concat([start, value])
  }
  async function* whole(): AsyncGenerator<Buffer> {
    try {
      if (start.length > 0) yield start
      for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield next.value
    } finally {
      await chunks.return?.()
    }
  }
  return { compression: isTar(start) ? undefined : compressionOf(start), content: whole() }
}

/** What tells a tar is in its first header. */
const HEADER = 512
