import { createHash, type Hash } from 'node:crypto'
import { constants, crc32, createZstdCompress, deflateRawSync, type ZstdCompress } from 'node:zlib'
import type { Digest } from '../oci/digest.ts'
import type { LayerFormat } from '../oci/media-type.ts'
import { BLOCK_LIMIT } from './deflate/deflate.ts'
import { createDeflatePool } from './deflate/pool.ts'
import type { Semaphore } from './semaphore.ts'

/** How layers are compressed: https://github.com/opencontainers/image-spec/blob/main/layer.md#gzip-media-types */
export interface Compression {
  readonly format: LayerFormat
  readonly level: number
}

/** What is known of a layer once all of it has been read. */
export interface UncompressedLayer {
  /** Of the tar, before compression. */
  readonly diffId: Digest
  /** Of the tar, in bytes. */
  readonly size: number
}

/** Takes the bytes of a compressed layer in their order. */
export type Write = (bytes: Buffer) => Promise<void>

/** A layer all of whose bytes have been read, while the last of them are still being compressed. */
export interface Compressing {
  readonly layer: UncompressedLayer
  /** Settles when the last byte has been written. */
  readonly written: Promise<void>
}

/**
 * Compresses a layer in blocks, each by itself on whichever core is free, and writes them in order. The result
 * hangs on nothing but the content and the settings: not on the machine's load, nor on how many cores it has.
 * Resolves as soon as all is read, so that the next layer's blocks keep the cores busy.
 * @param slots bounds how many blocks there are at once, over all layers
 */
export async function compressLayer(
  content: AsyncIterable<Buffer>,
  compression: Compression,
  slots: Semaphore,
  write: Write,
): Promise<Compressing> {
  const diffId = createHash('sha256')
  const codec = compression.format === 'gzip' ? gzip(compression.level) : zstd(compression.level)
  let size = 0
  // A chain, so that blocks are written in the order in which they were read, whichever is ready first.
  let chain = write(codec.header)
  chain.catch(() => undefined)
  try {
    for await (const block of blocksOf(content, codec.blocks)) {
      size += block.length
      diffId.update(block)
      await slots.acquire()
      chain = writeNext(chain, codec.compress(block), slots, write)
      // Whoever awaits `written` learns of it; until the next block has been read, nobody waits for this one.
      chain.catch(() => undefined)
    }
  } catch (error) {
    // Nobody may write any more once this has failed.
    await chain.catch(() => undefined)
    throw error
  }
  const written = chain.then(() => write(codec.trailer(size)))
  written.catch(() => undefined)
  return { layer: { diffId: digestFrom(diffId), size }, written }
}

async function writeNext(
  before: Promise<void>,
  compressed: Promise<Buffer>,
  slots: Semaphore,
  write: Write,
): Promise<void> {
  try {
    // Both, even where one fails: nothing may be written any more once this has.
    await Promise.allSettled([before, compressed])
    await before
    await write(await compressed)
  } finally {
    slots.release()
  }
}

/** Reads a layer only to learn its diff ID. */
export async function hashLayer(content: AsyncIterable<Buffer>): Promise<UncompressedLayer> {
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of content) {
    hash.update(chunk)
    size += chunk.length
  }
  return { diffId: digestFrom(hash), size }
}

/** Memory for blocks, to be filled again: memory that is given up costs more time than it saves. */
interface Blocks {
  take(): Buffer
  /** @param block what has been taken, or the part of it that was filled */
  giveBack(block: Buffer): void
}

/** @param size of each, in bytes */
function createBlocks(size: number): Blocks {
  const spare: Buffer[] = []
  return {
    take: () => spare.pop() ?? Buffer.allocUnsafeSlow(size),
    giveBack: ({ buffer }) => void spare.push(Buffer.from(buffer, 0, size)),
  }
}

/** Blocks of the same size but for the last, however the content comes: their borders are part of the result. */
async function* blocksOf(content: AsyncIterable<Buffer>, blocks: Blocks): AsyncGenerator<Buffer> {
  let block = blocks.take()
  let filled = 0
  for await (const chunk of content) {
    for (let at = 0; at < chunk.length; ) {
      const copied = chunk.copy(block, filled, at)
      at += copied
      filled += copied
      if (filled < block.length) continue
      yield block
      block = blocks.take()
      filled = 0
    }
  }
  if (filled > 0) yield block.subarray(0, filled)
  else blocks.giveBack(block)
}

interface Codec {
  readonly blocks: Blocks
  readonly header: Buffer
  /** The block may be filled anew once the result is there. */
  readonly compress: (block: Buffer) => Promise<Buffer>
  /** @param size of all the blocks together, in bytes */
  readonly trailer: (size: number) => Buffer
}

/** Deflate looks 32 KiB back, so that larger blocks would give nothing for their memory. */
const GZIP_BLOCKS = createBlocks(BLOCK_LIMIT)

/**
 * One gzip member, which every reader takes: each block ends in an empty stored block, so that the next begins on a
 * byte, as pigz does it (https://www.rfc-editor.org/rfc/rfc1952, https://zlib.net/pigz/).
 */
function gzip(level: number): Codec {
  let checksum = 0
  return {
    blocks: GZIP_BLOCKS,
    // No time, no name; the system is "unknown".
    header: Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]),
    async compress(block) {
      checksum = crc32(block, checksum)
      return isIncompressible(block) ? storedBlocks(block) : deflateBlock(block, level)
    },
    trailer(size) {
      const trailer = Buffer.alloc(10)
      // An empty final block.
      trailer.writeUInt16LE(0x0003, 0)
      trailer.writeUInt32LE(checksum, 2)
      trailer.writeUInt32LE(size % 2 ** 32, 6)
      return trailer
    },
  }
}

/** zstd looks back some MiB: blocks of one come to 5 % more than a layer in one piece, blocks of two to 2 %. Each core has one. */
const ZSTD_BLOCK = 2 * 1024 * 1024
const ZSTD_BLOCKS = createBlocks(ZSTD_BLOCK)

/** A frame for each block, one after the other: https://www.rfc-editor.org/rfc/rfc8878#section-3 */
function zstd(level: number): Codec {
  const empty = Buffer.alloc(0)
  return {
    blocks: ZSTD_BLOCKS,
    header: empty,
    compress: (block) => compressFrame(block, level),
    trailer: () => empty,
  }
}

/** Results come in pieces of this size, and each piece waits for a thread anew. */
const OUTPUT = ZSTD_BLOCK / 2

/** Compressors that are free, by their levels. To make one takes as long as a good part of a block. */
const spareCompressors = new Map<number, ZstdCompress[]>()

async function compressFrame(block: Buffer, level: number): Promise<Buffer> {
  const spare = spareCompressors.get(level) ?? []
  spareCompressors.set(level, spare)
  const params = { [constants.ZSTD_c_compressionLevel]: level }
  const compressor = spare.pop() ?? createZstdCompress({ params, chunkSize: OUTPUT })
  const chunks: Buffer[] = []
  const collect = (chunk: Buffer) => void chunks.push(chunk)
  const done = Promise.withResolvers<void>()
  compressor.on('data', collect).once('error', done.reject)
  compressor.write(block)
  // Ends the frame, which the next has nothing to do with.
  compressor.flush(constants.ZSTD_e_end, done.resolve)
  await done.promise
  compressor.off('data', collect).off('error', done.reject)
  spare.push(compressor)
  ZSTD_BLOCKS.giveBack(block)
  // A copy, for the pieces share memory with results that are needed longer.
  return Buffer.concat(chunks)
}

/** Ends with the process, which it doesn't keep from ending. */
const deflatePool = createDeflatePool()

async function deflateBlock(filled: Buffer, level: number): Promise<Buffer> {
  const { compressed, block } = await deflatePool.compress(filled, level)
  GZIP_BLOCKS.giveBack(block)
  return compressed
}

/** Deflate's way to take bytes as they are, 65535 at a time: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.4 */
function storedBlocks(block: Buffer): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < block.length; at += 0xffff) {
    const bytes = block.subarray(at, at + 0xffff)
    const header = Buffer.alloc(5)
    header.writeUInt16LE(bytes.length, 1)
    header.writeUInt16LE(bytes.length ^ 0xffff, 3)
    parts.push(header, bytes)
  }
  const stored = Buffer.concat(parts)
  GZIP_BLOCKS.giveBack(block)
  return stored
}

/** How many bytes of a block are looked at, and on how many deflate is tried, before it is taken as it is. */
const SAMPLE = 16 * 1024

/**
 * Whether deflate would get nothing out of a block: a picture, an archive, a key. It is slowest where it is of no use,
 * so such blocks are stored. A block like that has all bytes about equally often, and gets no shorter when tried.
 */
function isIncompressible(block: Buffer): boolean {
  if (block.length < 4 * SAMPLE) return false
  const counts = new Uint32Array(256)
  const step = Math.floor(block.length / SAMPLE)
  for (let at = 0; at < SAMPLE; at++) {
    const byte = block[at * step] ?? 0
    counts[byte] = (counts[byte] ?? 0) + 1
  }
  const bits = counts.reduce((sum, count) => (count === 0 ? sum : sum - count * Math.log2(count / SAMPLE)), 0)
  if (bits < 7.9 * SAMPLE) return false
  const middle = Math.floor(block.length / 2)
  return deflateRawSync(block.subarray(middle, middle + SAMPLE), { level: 1 }).length > 0.98 * SAMPLE
}

function digestFrom(hash: Hash): Digest {
  return `sha256:${hash.digest('hex')}`
}
