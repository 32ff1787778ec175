import { constants, createZstdCompress, type ZstdCompress } from 'node:zlib'
import { type Codec, createBlockBuffers } from './codec.ts'

/**
 * zstd's window is several MiB: layers in blocks of 1 MiB are 5 % larger than in one piece, in blocks of 2 MiB 2 %. Each
 * core has a block in memory.
 */
const BLOCK_SIZE = 2 * 1024 * 1024
const BUFFERS = createBlockBuffers(BLOCK_SIZE)

/**
 * Returns a codec that writes one frame per block: https://www.rfc-editor.org/rfc/rfc8878#section-3
 * @param level from 1 to 19
 */
export function createZstdCodec(level: number): Codec {
  const empty = Buffer.alloc(0)
  return {
    buffers: BUFFERS,
    header: empty,
    compress: (block) => compressFrame(block, level),
    trailer: () => empty,
  }
}

/** The size of the chunks of output. Large, because each chunk waits for a thread. */
const CHUNK = BLOCK_SIZE / 2

/** Idle compressors by level. Creating one takes as long as compressing a good part of a block. */
const idleCompressors = new Map<number, ZstdCompress[]>()

async function compressFrame(block: Buffer, level: number): Promise<Buffer> {
  const idle = idleCompressors.get(level) ?? []
  idleCompressors.set(level, idle)
  const params = { [constants.ZSTD_c_compressionLevel]: level }
  const compressor = idle.pop() ?? createZstdCompress({ params, chunkSize: CHUNK })
  const chunks: Buffer[] = []
  const collect = (chunk: Buffer) => void chunks.push(chunk)
  const done = Promise.withResolvers<void>()
  compressor.on('data', collect).once('error', done.reject)
  compressor.write(block)
  // Ends the frame. The next one is independent of it.
  compressor.flush(constants.ZSTD_e_end, done.resolve)
  await done.promise
  compressor.off('data', collect).off('error', done.reject)
  idle.push(compressor)
  BUFFERS.giveBack(block)
  // A copy, because the chunks share memory with later results.
  return Buffer.concat(chunks)
}
