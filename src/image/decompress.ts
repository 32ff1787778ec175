import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { constants, createGunzip, createZstdDecompress } from 'node:zlib'
import { which } from '@actions/io'
import { messageOf } from '../errors.ts'
import { startStreaming } from '../process/stream.ts'
import { ImageError } from './image-error.ts'
import { splitFrames } from './zstd-frames.ts'

/** How an archive can be compressed as a whole. */
export type ArchiveCompression = 'gzip' | 'zstd' | 'xz'

/** The compression that a file's first bytes tell of. */
export function compressionOf(start: Buffer): ArchiveCompression | undefined {
  const hex = start.toString('hex', 0, 6)
  if (hex.startsWith('1f8b')) return 'gzip'
  // A frame, or one to be skipped, which pzstd begins with.
  if (hex.startsWith('28b52ffd') || /^5.2a4d18/.test(hex)) return 'zstd'
  return hex === 'fd377a585a00' ? 'xz' : undefined
}

/** Whether the first bytes, at least 262, are a tar's. */
export function isTar(start: Buffer): boolean {
  return start.toString('latin1', 257, 262) === 'ustar'
}

/**
 * The bytes as they were before compression.
 * @param path of the archive, for errors
 * @param windowLog how far back zstd may refer, as a power of two, all of which is kept in memory
 * @throws ImageError where they are damaged, or xz is to be unpacked and there is no program for it
 */
export function decompress(
  compression: ArchiveCompression,
  bytes: AsyncIterable<Buffer>,
  path: string,
  windowLog = WINDOW_LOG,
): AsyncIterable<Buffer> {
  // Large, for each step waits for a thread among those that compress.
  const options = { chunkSize: 1024 * 1024 }
  if (compression === 'xz') return byXz(bytes, path)
  return compression === 'gzip'
    ? byStream(createGunzip(options), bytes, path)
    : byStream(
        createZstdDecompress({ ...options, params: { [constants.ZSTD_d_windowLogMax]: windowLog } }),
        splitFrames(bytes),
        path,
        windowLog,
      )
}

/** 128 MiB: zstd's own default and what `zstd --long` uses. The format allows 2 GiB and more. */
const WINDOW_LOG = 27
/**
 * For layers while an archive is decompressed as well, which may take 128 MiB itself: 8 MiB, which all levels up to 19
 * need at most, and all decoders should allow. https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1.1.2
 */
export const INNER_WINDOW_LOG = 23

async function* byStream(
  plain: NodeJS.ReadWriteStream,
  bytes: AsyncIterable<Buffer>,
  path: string,
  windowLog = WINDOW_LOG,
): AsyncGenerator<Buffer> {
  const failure = settled(pipeline(Readable.from(bytes), plain))
  try {
    yield* plain as AsyncIterable<Buffer>
  } catch (error) {
    // Whatever fails, the file, a copy or the decompression, the pipeline has the reason.
    throw explained((await failure) ?? error, path, windowLog)
  }
  const error = await failure
  // Node stops reading at zeros behind gzip's end, which tapes have; what it had yet to read is not missed.
  if (error !== undefined && codeOf(error) !== 'ERR_STREAM_PREMATURE_CLOSE') throw explained(error, path, windowLog)
}

function codeOf(error: unknown): string {
  return String((error as NodeJS.ErrnoException).code)
}

function explained(error: unknown, path: string, windowLog: number): unknown {
  if (codeOf(error) === 'ZSTD_error_frameParameter_windowTooLarge')
    return new ImageError({
      message: `${path} can't be decompressed: zstd would need more than ${2 ** windowLog / 1024 / 1024} MiB of memory for its window`,
      detail: messageOf(error),
      hint:
        windowLog === WINDOW_LOG
          ? 'Compress it without `--long`, or with at most `--long=27`.'
          : 'Compress its layers without `--long` and with a level of at most 19, or do not compress the archive around them.',
      cause: error,
    })
  return /^(Z_|ZSTD_)/.test(codeOf(error)) ? damaged(path, messageOf(error), error) : error
}

/** More than xz takes for what its highest level, -9, has compressed: 65 MiB. */
const XZ_MEMORY = '160MiB'

/** Node has no xz. */
async function* byXz(bytes: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  const program = await which('xz')
  if (program === '')
    throw new ImageError({
      message: `${path} is compressed with xz, and there is no program "xz" to unpack it`,
      hint: "Install it (on Debian and Ubuntu: apt-get install xz-utils), or let Nix compress with gzip or zstd: dockerTools' `compressor`.",
    })
  const args = ['--decompress', '--stdout', `--memlimit-decompress=${XZ_MEMORY}`]
  const xz = startStreaming(program, args, { trust: 'nix', reads: true })
  const fed = settled(pipeline(Readable.from(bytes), xz.input))
  try {
    yield* xz.output
    const [{ failure, log }, feeding] = await Promise.all([xz.ended, fed])
    // Where the program gave up, feeding it fails as well; any other failure to feed it comes first.
    if (feeding !== undefined && !GIVEN_UP.has(codeOf(feeding))) throw feeding
    if (failure !== undefined) throw damaged(path, log === '' ? failure : log)
    if (feeding !== undefined) throw feeding
  } finally {
    xz.end()
  }
}

const GIVEN_UP = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_DESTROYED'])

function damaged(path: string, detail: string, cause?: unknown): ImageError {
  return new ImageError({ message: `${path} is damaged: it can't be decompressed`, detail, cause })
}

/** How it failed, once it is over. */
async function settled(work: Promise<unknown>): Promise<unknown> {
  try {
    await work
    return undefined
  } catch (error) {
    return error
  }
}
