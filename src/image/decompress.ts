import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { constants, createGunzip, createZstdDecompress, type ZstdDecompress } from 'node:zlib'
import { which } from '@actions/io'
import { ImageError, messageOf } from '../errors.ts'
import { startStreaming } from '../process/stream.ts'

/** How an archive or a layer is compressed. */
export type ArchiveCompression = 'gzip' | 'zstd' | 'xz'

/** Detects the compression from a file's first bytes. */
export function compressionOf(start: Buffer): ArchiveCompression | undefined {
  const hex = start.toString('hex', 0, 6)
  if (hex.startsWith('1f8b')) return 'gzip'
  // pzstd begins with a skippable frame.
  if (hex.startsWith('28b52ffd') || /^5.2a4d18/.test(hex)) return 'zstd'
  return hex === 'fd377a585a00' ? 'xz' : undefined
}

/** Reports whether a file is a tar, by its first bytes; needs at least 262. */
export function isTar(start: Buffer): boolean {
  return start.toString('latin1', 257, 262) === 'ustar'
}

/**
 * Detects the compression of content from its first bytes. Nix's layers are plain tars; other tools put compressed
 * layers into archives.
 * @returns all of the content, in chunks that are each valid until the next one is read
 */
export async function peekCompression(
  content: AsyncIterable<Buffer>,
): Promise<{ readonly compression: ArchiveCompression | undefined; readonly content: AsyncIterable<Buffer> }> {
  const chunks = content[Symbol.asyncIterator]()
  let start: Buffer = Buffer.alloc(0)
  while (start.length < TAR_HEADER) {
    const { done, value } = await chunks.next()
    if (done) break
    // A copy, because the chunk is invalid once the next one is read.
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

/** In bytes. */
const TAR_HEADER = 512

/**
 * Decompresses an archive or a layer.
 * @param path of the archive, for errors
 * @param windowLog the largest zstd window, as a power of two, all of which is kept in memory
 * @throws ImageError if the bytes are damaged, or xz is needed and not installed
 */
export function decompress(
  compression: ArchiveCompression,
  bytes: AsyncIterable<Buffer>,
  path: string,
  windowLog = WINDOW_LOG,
): AsyncIterable<Buffer> {
  switch (compression) {
    case 'xz':
      return decompressXz(bytes, path)
    case 'zstd':
      return decompressZstd(bytes, path, windowLog)
    case 'gzip':
      return decompressGzip(bytes, path)
  }
}

/** In bytes. Large, because each chunk waits for a thread of the pool that compresses layers. */
const CHUNK = 1024 * 1024

/** 128 MiB: zstd's own default, and the window of `zstd --long`. The format allows more than 2 GiB. */
const WINDOW_LOG = 27
/**
 * 8 MiB, for layers of an archive that is itself decompressed, which may take 128 MiB already. Levels up to 19 need no
 * more, and all decoders should allow it: https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1.1.2
 */
export const INNER_WINDOW_LOG = 23

async function* decompressGzip(bytes: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: CHUNK })
  const failure = errorOf(pipeline(Readable.from(bytes), gunzip))
  try {
    yield* gunzip
  } catch (error) {
    // The pipeline has the first cause: the file, the copy or the decompressor.
    throw explainZlibError((await failure) ?? error, path)
  }
  const error = await failure
  // Node stops reading at zeros after the end of gzip data, as tapes have them.
  if (error !== undefined && zlibErrorCode(error) !== 'ERR_STREAM_PREMATURE_CLOSE') throw explainZlibError(error, path)
}

/**
 * Decompresses all frames of zstd data; pzstd and Podman's zstd:chunked write several. If a chunk contains the end of a
 * frame, Node ignores the rest of the chunk (https://github.com/nodejs/node/issues/64741), which therefore goes to a new
 * decompressor.
 */
async function* decompressZstd(bytes: AsyncIterable<Buffer>, path: string, windowLog: number): AsyncGenerator<Buffer> {
  const chunks = bytes[Symbol.asyncIterator]()
  const params = { [constants.ZSTD_d_windowLogMax]: windowLog }
  let rest: Buffer = Buffer.alloc(0)
  try {
    do {
      const decompressor = createZstdDecompress({ chunkSize: CHUNK, params })
      const feeding = feed(decompressor, rest, chunks)
      // The decompressor fails with the same error.
      feeding.catch(() => undefined)
      yield* decompressor
      rest = await feeding
    } while (rest.length > 0)
  } catch (error) {
    throw explainZlibError(error, path, windowLog)
  } finally {
    // Not awaited: if the caller stops early, `feed` may be waiting for a chunk that never comes.
    chunks.return?.().catch(() => undefined)
  }
}

/**
 * Writes chunks until the decompressor ends inside one of them, or there are no more.
 * @returns the part of the last chunk that the decompressor did not read
 */
async function feed(decompressor: ZstdDecompress, first: Buffer, chunks: AsyncIterator<Buffer>): Promise<Buffer> {
  try {
    for (let chunk: Buffer | undefined = first; chunk !== undefined; chunk = await nextChunk(chunks)) {
      if (chunk.length === 0) continue
      const before = decompressor.bytesWritten
      await new Promise<void>((resolve, reject) => {
        decompressor.write(chunk, (error) => (error ? reject(error) : resolve()))
      })
      const read = decompressor.bytesWritten - before
      if (read < chunk.length) return chunk.subarray(read)
    }
    decompressor.end()
    return Buffer.alloc(0)
  } catch (error) {
    decompressor.destroy(error instanceof Error ? error : new Error(messageOf(error)))
    throw error
  }
}

async function nextChunk(chunks: AsyncIterator<Buffer>): Promise<Buffer | undefined> {
  const { done, value } = await chunks.next()
  return done ? undefined : value
}

function zlibErrorCode(error: unknown): string {
  return String((error as NodeJS.ErrnoException).code)
}

function explainZlibError(error: unknown, path: string, windowLog = WINDOW_LOG): unknown {
  if (zlibErrorCode(error) === 'ZSTD_error_frameParameter_windowTooLarge')
    return new ImageError({
      message: `${path} can't be decompressed: its zstd window is larger than ${2 ** windowLog / 1024 / 1024} MiB`,
      detail: messageOf(error),
      hint:
        windowLog === WINDOW_LOG
          ? 'Compress it without `--long`, or with at most `--long=27`.'
          : 'Compress its layers without `--long` and with a level of at most 19, or leave the archive uncompressed.',
      cause: error,
    })
  return /^(Z_|ZSTD_)/.test(zlibErrorCode(error)) ? decompressionError(path, messageOf(error), error) : error
}

/** Decompressing data of the highest level, -9, takes 65 MiB. */
const XZ_MEMORY = '160MiB'

/** Runs the program `xz`, because Node.js does not support the format. */
async function* decompressXz(bytes: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  const program = await which('xz')
  if (program === '')
    throw new ImageError({
      message: `${path} is compressed with xz, but the program "xz" is not installed`,
      hint: 'Install it (on Debian and Ubuntu: apt-get install xz-utils), or compress with gzip or zstd: set `compressor` of dockerTools.',
    })
  const args = ['--decompress', '--stdout', `--memlimit-decompress=${XZ_MEMORY}`]
  const xz = startStreaming(program, args, { trust: 'no-secrets', reads: true })
  const fed = errorOf(pipeline(Readable.from(bytes), xz.input))
  try {
    yield* xz.output
    const [{ failure, log }, feeding] = await Promise.all([xz.ended, fed])
    // A program that fails closes its input, which is not the cause. Any other failure to feed it is.
    if (feeding !== undefined && !INPUT_CLOSED.has(zlibErrorCode(feeding))) throw feeding
    if (failure !== undefined) throw decompressionError(path, log === '' ? failure : log)
    if (feeding !== undefined) throw feeding
  } finally {
    xz.end()
  }
}

const INPUT_CLOSED = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_DESTROYED'])

function decompressionError(path: string, detail: string, cause?: unknown): ImageError {
  return new ImageError({ message: `${path} is damaged: it can't be decompressed`, detail, cause })
}

/** Returns what a promise rejects with, undefined if it resolves. */
async function errorOf(work: Promise<unknown>): Promise<unknown> {
  try {
    await work
    return undefined
  } catch (error) {
    return error
  }
}
