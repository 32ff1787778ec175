import { type ArchiveCompression, compressionOf, isTar } from './decompress.ts'

/** A layer's content, and how it is compressed; most are plain tars. */
export interface ProbedLayer {
  readonly compression?: ArchiveCompression | undefined
  /** All of it, in chunks that are each valid until the next. */
  readonly content: AsyncIterable<Buffer>
}

/** Tells by a layer's first bytes how it is compressed: other tools than Nix's put compressed layers into archives. */
export async function probeLayer(content: AsyncIterable<Buffer>): Promise<ProbedLayer> {
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
