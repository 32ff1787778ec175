import { createHash, type Hash } from 'node:crypto'
import { availableParallelism } from 'node:os'
import type { LayerFormat } from '../oci/manifest.ts'
import type { Digest } from '../oci/reference.ts'
import { createSemaphore, type Semaphore } from '../promises.ts'
import type { Codec } from './codec.ts'
import { createGzipCodec } from './gzip.ts'
import { createZstdCodec, zstdBlocksAtOnce } from './zstd.ts'

/** How layers are compressed: https://github.com/opencontainers/image-spec/blob/main/layer.md#gzip-media-types */
export interface Compression {
  readonly format: LayerFormat
  readonly level: number
}

/** The digest and size of a layer's uncompressed tar. */
export interface UncompressedLayer {
  readonly diffId: Digest
  /** In bytes. */
  readonly size: number
}

/** Takes the bytes of a compressed layer in order. */
export type Write = (bytes: Buffer) => Promise<void>

/** A layer that has been read completely, while its last blocks are still being compressed. */
export interface Compressing {
  readonly layer: UncompressedLayer
  /** Settles when the last byte has been written. */
  readonly written: Promise<void>
}

/**
 * Creates the semaphore of `compressLayer` for all layers of an image. In gzip, some more blocks than cores, so that no
 * core waits for the next block to be read. One thread can't feed more than 8.
 */
export function createBlockSemaphore({ format, level }: Compression): Semaphore {
  return createSemaphore(format === 'zstd' ? zstdBlocksAtOnce(level) : Math.min(availableParallelism(), 8) + 3)
}

/**
 * Compresses a layer in blocks or frames of blocks, in parallel, and writes them in order. The output is
 * deterministic: it depends only on the content and the settings. Resolves as soon as the content has been read, so that
 * the next layer's blocks keep the cores busy.
 * @param blocks limits the blocks that are in memory at once, over all layers
 */
export async function compressLayer(
  content: AsyncIterable<Buffer>,
  { format, level }: Compression,
  blocks: Semaphore,
  write: Write,
): Promise<Compressing> {
  const diffId = createHash('sha256')
  const codec = format === 'gzip' ? createGzipCodec(level) : createZstdCodec(level)
  let size = 0
  // A chain of promises, so that blocks are written in order, whichever is compressed first.
  let chain = write(codec.header)
  chain.catch(() => undefined)
  try {
    for await (const block of splitIntoBlocks(content, codec.take)) {
      size += block.length
      diffId.update(block)
      await blocks.acquire()
      chain = writeNext(chain, codec.compress(block), blocks, write)
      // `written` reports the error. Until then, it must not count as unhandled.
      chain.catch(() => undefined)
    }
  } catch (error) {
    // Nothing may be written after this function has failed.
    await Promise.allSettled([chain, codec.end(size)])
    throw error
  }
  const trailer = codec.end(size)
  const written = Promise.all([trailer, chain]).then(([bytes]) => write(bytes))
  written.catch(() => undefined)
  return { layer: { diffId: digestFrom(diffId), size }, written }
}

async function writeNext(
  before: Promise<void>,
  compressed: Promise<Buffer>,
  blocks: Semaphore,
  write: Write,
): Promise<void> {
  try {
    // Wait for both even if one fails: nothing may be written after this function has failed.
    await Promise.allSettled([before, compressed])
    await before
    await write(await compressed)
  } finally {
    blocks.release()
  }
}

/** Reads a layer to compute its diff ID. */
export async function hashLayer(content: AsyncIterable<Buffer>): Promise<UncompressedLayer> {
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of content) {
    hash.update(chunk)
    size += chunk.length
  }
  return { diffId: digestFrom(hash), size }
}

/** Yields blocks that are full, except for the last one. Chunk boundaries must not affect the output. */
async function* splitIntoBlocks(content: AsyncIterable<Buffer>, take: Codec['take']): AsyncGenerator<Buffer> {
  let block: Buffer | undefined
  let filled = 0
  for await (const chunk of content) {
    for (let at = 0; at < chunk.length; ) {
      // Not earlier: a layer that isn't being read yet must not keep others waiting.
      block ??= await take()
      const copied = chunk.copy(block, filled, at)
      at += copied
      filled += copied
      if (filled < block.length) continue
      yield block
      block = undefined
      filled = 0
    }
  }
  if (block !== undefined) yield block.subarray(0, filled)
}

function digestFrom(hash: Hash): Digest {
  return `sha256:${hash.digest('hex')}`
}
