import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { open, readdir, realpath } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { Readable, type Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { lastLines } from '../failure.ts'
import { readArchive } from './archive.ts'
import { type ByteReader, fileReader, readExactly, streamReader } from './byte-reader.ts'
import { type ArchiveCompression, compressionOf, decompress, isTar } from './decompress.ts'
import { readDescription } from './description.ts'
import { ImageError } from './image-error.ts'
import { readLayoutFolder } from './oci-layout.ts'
import { probe } from './probe.ts'
import { listOf, type SourceImage, type TakeLayer } from './source-image.ts'
import { BLOCK, mayBeTar } from './tar.ts'

/** What Nix built, by the form that it has. */
export interface ImageSource {
  readonly path: string
  /**
   * `script`: a program that writes a tar to its standard output (streamLayeredImage). `layout`: an OCI layout that
   * is a folder. `nix2container`: a description, which its own program makes a layout of.
   */
  readonly format: 'tar' | 'script' | 'layout' | 'nix2container' | ArchiveCompression
  /** Of the layers that a description lists. */
  readonly diffIds?: readonly string[]
}

/**
 * Tells what Nix built by its first bytes; names say nothing. A folder stands for the one image in it.
 * @throws ImageError for everything that is no image that can be read
 */
export async function findSource(path: string): Promise<ImageSource> {
  const start = await readStart(path)
  if (start === 'folder') return findInFolder(path)
  const format = formatOf(start)
  if (format === undefined)
    throw new ImageError({ what: `${path} is no image`, words: describeStart(start, 'the file'), help: BUILDERS })
  if (format === 'nix2container') return describedBy(path)
  const unpacked = await readUnpackedStart(path, format)
  if (unpacked !== undefined && !mayBeTar(unpacked))
    throw new ImageError({
      what: `${path} is no image: it is compressed with ${format}, and what is in it is no tar`,
      words: describeStart(unpacked, 'unpacked, it'),
      help: BUILDERS,
    })
  return { path, format }
}

/** Who looks on while an image is read. */
export interface Onlookers {
  /** Gets the bytes of the tar, which `docker load` takes from any version on, and is ended after the last. */
  readonly copy?: Writable
  /** Gets each member that may be a layer. */
  readonly take?: TakeLayer | undefined
}

/** Whether an image can be read more than once, and what is passed over costs nothing. */
export function isSeekable({ format }: ImageSource): boolean {
  return format === 'tar' || format === 'layout'
}

/**
 * Reads the image, all of its bytes once; of a plain tar that nobody copies, only those that are asked for.
 * @throws ImageError where it is damaged or no image
 */
export async function readImage(source: ImageSource, { copy, take }: Onlookers = {}): Promise<SourceImage> {
  if (source.format === 'layout') return readLayoutFolder(source.path, take)
  const reader = await openReader(source, copy)
  try {
    const archive = await readArchive(reader, source.path, take)
    await readToEnd(reader)
    return archive
  } finally {
    await reader.close()
  }
}

const BUILDERS =
  'Build a docker archive (dockerTools.buildImage or buildLayeredImage), plain or compressed with gzip, zstd or xz, a script that streams one (dockerTools.streamLayeredImage), an image of nix2container, or an OCI layout.'

async function describedBy(path: string): Promise<ImageSource> {
  const description = await readDescription(path)
  if ('diffIds' in description) return { path, format: 'nix2container', ...description }
  throw new ImageError({
    what: `${path} is no image`,
    words: `it begins like JSON, and is not what nix2container's buildImage makes: ${description.fault}`,
    help: BUILDERS,
  })
}

async function readStart(path: string, most = BLOCK): Promise<Buffer | 'folder'> {
  const file = await open(path).catch((cause: NodeJS.ErrnoException) => {
    throw new ImageError({ what: `There is no image at ${path}`, words: cause.message, help: BUILDERS, cause })
  })
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(most), 0, most, 0)
    return buffer.subarray(0, bytesRead)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EISDIR') return 'folder'
    throw error
  } finally {
    await file.close()
  }
}

/** Of a compressed file, in bytes; the first block of zstd's, without which nothing can be unpacked, is half as large. */
const PACKED_START = 256 * 1024

/** The first block of what is in a compressed file. Nothing where it can't be told: whoever reads the file says why. */
async function readUnpackedStart(path: string, format: ImageSource['format']): Promise<Buffer | undefined> {
  if (!isCompressed(format)) return undefined
  const packed = await readStart(path, PACKED_START)
  if (packed === 'folder') return undefined
  const reader = streamReader(decompress(format, Readable.from([packed]), path))
  try {
    return await readExactly(reader, BLOCK)
  } catch {
    return undefined
  } finally {
    await reader.close()
  }
}

async function findInFolder(path: string): Promise<ImageSource> {
  const names = (await readdir(path)).sort()
  if (names.includes('index.json') && names.includes('oci-layout')) return { path, format: 'layout' }
  const sources = new Map<string, ImageSource>()
  // One after the other: of thousands at once some can't be opened, and an image among them would be passed over.
  for (const name of names) {
    const source = await sourceAt(join(path, name))
    const place = source && (await realpath(source.path))
    // Of a file that has several names, by links, the first counts.
    if (source && place && !sources.has(place)) sources.set(place, source)
  }
  const images = [...sources.values()].filter((source) => !isForItself(source))
  const [only, ...more] = images
  if (only !== undefined && more.length === 0) return only
  if (only !== undefined)
    throw new ImageError({
      what: `${path} is a folder with ${images.length} images in it`,
      words: `by their first bytes: ${listOf(images.map((image) => basename(image.path)))}`,
      help: 'Build each of them by its own attribute.',
    })
  const others = [...sources.values()].map((source) => basename(source.path))
  throw new ImageError({
    what: `${path} is a folder with no image in it`,
    words: `it holds ${listOf(names)}`,
    help:
      others.length === 0
        ? BUILDERS
        : `In a folder an archive or an OCI layout counts. A script that streams an image, and what nix2container's buildImage makes, count only as the result itself: if ${listOf(others)} is one, build that, not a folder around it.`,
  })
}

/** A description is nothing without the program that belongs to it; and a script may be one for something else. */
function isForItself({ format }: ImageSource): boolean {
  return format === 'nix2container' || format === 'script'
}

/** What may be an image, and what certainly is none passed over: pages of a manual are compressed, too. */
async function sourceAt(path: string): Promise<ImageSource | undefined> {
  const start = await readStart(path).catch(() => undefined)
  if (start === 'folder') {
    const names = await readdir(path)
    return names.includes('index.json') && names.includes('oci-layout') ? { path, format: 'layout' } : undefined
  }
  const format = start && formatOf(start)
  if (format === undefined) return undefined
  const unpacked = await readUnpackedStart(path, format)
  return unpacked === undefined || mayBeTar(unpacked) ? { path, format } : undefined
}

function formatOf(start: Buffer): ImageSource['format'] | undefined {
  // Before all others: a tar's first bytes are a file's name, which can be anything.
  if (isTar(start)) return 'tar'
  const compression = compressionOf(start)
  if (compression !== undefined) return compression
  if (start.toString('latin1', 0, 2) === '#!') return 'script'
  return start[0] === 0x7b ? 'nix2container' : undefined
}

function isCompressed(format: ImageSource['format']): format is ArchiveCompression {
  return format === 'gzip' || format === 'zstd' || format === 'xz'
}

function describeStart(start: Buffer, subject: string): string {
  if (start.length === 0) return `${subject} is empty`
  const text = start.toString('utf8').split('\n')[0] ?? ''
  if (/^[\x20-\x7e\t]+$/.test(text)) return `${subject} begins with "${text.slice(0, 60)}"`
  const compression = compressionOf(start)
  return `${subject} begins with the bytes ${start.toString('hex', 0, 8)}${compression ? `, as ${compression} does` : ''}`
}

/** Large, for each read waits for a thread among those that compress. */
const CHUNK = 1024 * 1024

async function openReader({ path, format }: ImageSource, copy: Writable | undefined): Promise<ByteReader> {
  if (format === 'tar' && copy === undefined) {
    const file = await open(path)
    return fileReader(file, (await file.stat()).size)
  }
  if (format === 'layout' || format === 'nix2container') throw new Error(`${path} is no archive`)
  const { compression, content } =
    format === 'script'
      ? await probe(outputOf(path))
      : {
          compression: format === 'tar' ? undefined : format,
          content: createReadStream(path, { highWaterMark: CHUNK }),
        }
  const plain = compression === undefined ? content : decompress(compression, content, path)
  return streamReader(copy === undefined ? plain : copyTo(copy, plain))
}

/** What follows the end of a tar: padding, which whoever gets the copy must have as well, and a compressor's checksum. */
async function readToEnd(reader: ByteReader): Promise<void> {
  while ((await reader.skip(1024 * 1024)) > 0);
}

async function* copyTo(copy: Writable, bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of bytes) {
    // Not "drain": a stream that the other side has closed never says it, but still calls back.
    await new Promise<void>((resolve, reject) => {
      copy.write(chunk, (error) => (error ? reject(error) : resolve()))
    })
    yield chunk
  }
  copy.end()
  await finished(copy, { readable: false })
}

/**
 * What comes of a script whose interpreter is for another processor: where the system can't start it, a shell is given
 * the script, and makes nothing of it (https://man7.org/linux/man-pages/man3/exec.3.html, ENOEXEC).
 */
const OTHER_PROCESSOR = /Exec format error|ENOEXEC|cannot execute binary|: not found|[Ss]yntax error/

const FOREIGN_SCRIPT =
  'Is it for another system than this runner is? The script runs here, though it may have been built elsewhere: for that, add docker/setup-qemu-action before Nix is installed, take a runner of that system, or build the image with dockerTools.buildLayeredImage.'

/** What a script writes to its standard output; its failure is this stream's. */
async function* outputOf(path: string): AsyncGenerator<Buffer> {
  const child = spawn(path, [], { stdio: ['ignore', 'pipe', 'pipe'] })
  const said: string[] = []
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said.push(text)
    while (said.length > 64) said.shift()
  })
  const ended = once(child, 'close').then(
    ([code, signal]) => (code === 0 ? undefined : `it ended with ${signal ?? `status ${code}`}`),
    (error: Error) => error.message,
  )
  try {
    yield* child.stdout as AsyncIterable<Buffer>
    const failure = await ended
    if (failure === undefined) return
    const words = [failure, lastLines(said.join(''), 15)].join('\n')
    throw new ImageError({
      what: `${path} should write an image to its standard output, but failed`,
      words,
      help: OTHER_PROCESSOR.test(words) ? FOREIGN_SCRIPT : undefined,
    })
  } finally {
    child.kill()
  }
}
