import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { constants, createGunzip, createZstdDecompress } from 'node:zlib'
import { messageOf } from '../failure.ts'
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
 * @throws ImageError where they are damaged, or xz is to be unpacked and there is no program for it
 */
export function decompress(
  compression: ArchiveCompression,
  bytes: AsyncIterable<Buffer>,
  path: string,
): AsyncIterable<Buffer> {
  // Large, for each step waits for a thread among those that compress.
  const options = { chunkSize: 1024 * 1024 }
  if (compression === 'xz') return byProgram('xz', bytes, path)
  return compression === 'gzip'
    ? byStream(createGunzip(options), bytes, path)
    : byStream(createZstdDecompress({ ...options, params: LONG }), splitFrames(bytes), path)
}

/** What `zstd --long` has packed, which by itself takes back no more than 128 MB: up to what its format has room for. */
const LONG = { [constants.ZSTD_d_windowLogMax]: 31 }

async function* byStream(
  plain: NodeJS.ReadWriteStream,
  bytes: AsyncIterable<Buffer>,
  path: string,
): AsyncGenerator<Buffer> {
  const failure = settled(pipeline(Readable.from(bytes), plain))
  try {
    yield* plain as AsyncIterable<Buffer>
  } catch (error) {
    // Whatever fails, the file, a copy or the decompression, the pipeline has the reason.
    throw explained((await failure) ?? error, path)
  }
  const error = await failure
  if (error !== undefined) throw explained(error, path)
}

function explained(error: unknown, path: string): unknown {
  return /^(Z_|ZSTD_)/.test(String((error as NodeJS.ErrnoException).code))
    ? damaged(path, messageOf(error), error)
    : error
}

/** Node has no xz. */
async function* byProgram(program: string, bytes: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  const child = spawn(program, ['--decompress', '--stdout'], { stdio: ['pipe', 'pipe', 'pipe'] })
  const words: string[] = []
  child.stderr.setEncoding('utf8').on('data', (text: string) => words.push(text))
  const ended = once(child, 'close').then(
    ([code]) => (code === 0 ? undefined : words.join('').trim() || `status ${code}`),
    (error: NodeJS.ErrnoException) => error,
  )
  const fed = settled(pipeline(Readable.from(bytes), child.stdin))
  try {
    yield* child.stdout as AsyncIterable<Buffer>
    const [failure, feeding] = await Promise.all([ended, fed])
    if (failure instanceof Error)
      throw new ImageError({
        what: `${path} is compressed with xz, and there is no program "xz" to unpack it`,
        words: failure.message,
        help: "Install it (on Debian and Ubuntu: apt-get install xz-utils), or let Nix compress with gzip or zstd: dockerTools' `compressor`.",
      })
    // Where the program gave up, feeding it fails as well; any other failure to feed it comes first.
    if (feeding !== undefined && !GIVEN_UP.has(String((feeding as NodeJS.ErrnoException).code))) throw feeding
    if (failure !== undefined) throw damaged(path, failure)
    if (feeding !== undefined) throw feeding
  } finally {
    child.kill()
  }
}

const GIVEN_UP = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'])

function damaged(path: string, words: string, cause?: unknown): ImageError {
  return new ImageError({ what: `${path} is damaged: it can't be decompressed`, words, cause })
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
