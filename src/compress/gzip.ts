import { promisify } from 'node:util'
import { constants, crc32, deflateRaw, deflateRawSync, inflateRaw } from 'node:zlib'
import { type Codec, createBlockBuffers } from './codec.ts'
import { BLOCK_LIMIT, createDeflatePool, type Deflate } from './deflate-pool.ts'

/** Deflate's window is 32 KiB, so larger blocks would compress hardly better. */
const BUFFERS = createBlockBuffers(BLOCK_LIMIT)

/**
 * Returns a codec for one gzip member, which all decoders support. Each compressed block ends with an empty stored block,
 * so that the next one begins at a byte boundary, as in pigz (https://www.rfc-editor.org/rfc/rfc1952,
 * https://zlib.net/pigz/).
 * @param level from 1 to 9
 */
export function createGzipCodec(level: number): Codec {
  let checksum = 0
  return {
    // No modification time, no file name, operating system "unknown".
    header: Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]),
    take: async () => BUFFERS.take(),
    async compress(block) {
      checksum = crc32(block, checksum)
      if (isIncompressible(block)) return storeBlock(block)
      return level <= FAST_LEVELS ? deflateFast(block, level) : deflateWithZlib(block, level)
    },
    async end(size) {
      const trailer = Buffer.alloc(10)
      // An empty final deflate block.
      trailer.writeUInt16LE(0x0003, 0)
      trailer.writeUInt32LE(checksum, 2)
      trailer.writeUInt32LE(size % 2 ** 32, 6)
      return trailer
    },
  }
}

/** Up to this level the compressor of wasm/ is faster than zlib at about the same size. */
const FAST_LEVELS = 4

/** One compressed block in this many is verified. */
const VERIFICATION_PERIOD = 64

/** Does not keep the process from exiting. */
const deflatePool = createDeflatePool()
const verifiedDeflate = verifySample(deflatePool.compress)

async function deflateFast(filled: Buffer, level: number): Promise<Buffer> {
  const { compressed, block } = await verifiedDeflate(filled, level)
  BUFFERS.giveBack(block)
  return compressed
}

/**
 * Wraps a compressor to decompress the first and then every 64th result with zlib and to compare it with the original.
 * Without this check, only pulling the image would reveal a fault in the compressor.
 */
export function verifySample(compress: Deflate): Deflate {
  let count = 0
  return async (filled, level) => {
    const isVerified = count++ % VERIFICATION_PERIOD === 0
    const deflated = await compress(filled, level)
    if (isVerified) await assertInflatesTo(deflated.block, deflated.compressed, level)
    return deflated
  }
}

async function assertInflatesTo(block: Buffer, compressed: Buffer, level: number): Promise<void> {
  const options = { finishFlush: constants.Z_SYNC_FLUSH, chunkSize: BLOCK_LIMIT, maxOutputLength: BLOCK_LIMIT }
  const inflated = await promisify(inflateRaw)(compressed, options).catch(() => undefined)
  if (inflated?.equals(block)) return
  // Not an ActionError: the user can't have caused it.
  throw new Error(
    `a block of a layer, compressed at level ${level}, does not decompress to its original content. The image was not published. Levels from ${FAST_LEVELS + 1} on use another compressor`,
  )
}

async function deflateWithZlib(block: Buffer, level: number): Promise<Buffer> {
  // A large chunk, because each chunk of output waits for a thread.
  const options = { level, finishFlush: constants.Z_SYNC_FLUSH, chunkSize: BLOCK_LIMIT }
  const compressed = await promisify(deflateRaw)(block, options)
  BUFFERS.giveBack(block)
  // A copy, because the result keeps the whole chunk in memory.
  return Buffer.from(compressed)
}

/** Wraps bytes in stored blocks of at most 65535 bytes: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.4 */
function storeBlock(block: Buffer): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < block.length; at += 0xffff) {
    const bytes = block.subarray(at, at + 0xffff)
    const header = Buffer.alloc(5)
    header.writeUInt16LE(bytes.length, 1)
    header.writeUInt16LE(bytes.length ^ 0xffff, 3)
    parts.push(header, bytes)
  }
  const stored = Buffer.concat(parts)
  BUFFERS.giveBack(block)
  return stored
}

/** The bytes of a block that are counted, and the bytes that are compressed, to find out whether it compresses. */
const SAMPLE = 16 * 1024

/**
 * Reports whether a block, such as a compressed file, is stored rather than compressed, which would take longest and save
 * nothing: all byte values must be about equally frequent, and a sample must not get smaller.
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
