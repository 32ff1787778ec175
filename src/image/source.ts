import { realpath } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { Readable, type Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { contentOf, isFolder, listFolder, openRegularFile, readWhole, resolveWithin } from '../fs/regular-file.ts'
import type { Platform } from '../oci/platform.ts'
import { startStreaming } from '../process/stream.ts'
import { formatBytes } from '../units.ts'
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
  /** The folder in which everything must be that belongs to the image, once links are followed. */
  readonly root: string
  /**
   * `script`: a program that writes a tar to its standard output (streamLayeredImage). `layout`: an OCI layout that
   * is a folder. `nix2container`: a description, which its own program makes a layout of.
   */
  readonly format: 'tar' | 'script' | 'layout' | 'nix2container' | ArchiveCompression
  /** Of the layers that a description lists. */
  readonly diffIds?: readonly string[]
  /** The platform whose image is read if an OCI layout has several images. */
  readonly platform?: Platform
}

/**
 * Tells what Nix built by its first bytes; names say nothing. A folder stands for the one image in it.
 * @param path a store path
 * @param root as in `ImageSource`
 * @throws ImageError for everything that is not an image that can be read
 */
export async function findSource(path: string, root = dirname(path)): Promise<ImageSource> {
  const start = await readStart(path, root)
  if (start === 'folder') return findInFolder(path, root)
  const format = formatOf(start)
  if (format === undefined)
    throw new ImageError({ message: `${path} is no image`, detail: describeStart(start, 'the file'), hint: BUILDERS })
  if (format === 'nix2container') return describedBy(path, root)
  const unpacked = await readUnpackedStart(path, root, format)
  if (unpacked !== undefined && !mayBeTar(unpacked))
    throw new ImageError({
      message: `${path} is no image: it is compressed with ${format}, and what is in it is no tar`,
      detail: describeStart(unpacked, 'unpacked, it'),
      hint: BUILDERS,
    })
  return { path, root, format }
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
  if (source.format === 'layout') return readLayoutFolder(source.path, source.root, take, source.platform)
  const reader = await openReader(source, copy)
  try {
    const archive = await readArchive(reader, source.path, take, source.platform)
    await readToEnd(reader, source.path)
    return archive
  } finally {
    await reader.close()
  }
}

const BUILDERS =
  'Build a docker archive (dockerTools.buildImage or buildLayeredImage), plain or compressed with gzip, zstd or xz, a script that streams one (dockerTools.streamLayeredImage), an image of nix2container, or an OCI layout.'

async function describedBy(path: string, root: string): Promise<ImageSource> {
  const description = await readDescription(path, root)
  if ('diffIds' in description) return { path, root, format: 'nix2container', ...description }
  throw new ImageError({
    message: `${path} is no image`,
    detail: `it begins like JSON, and is not what nix2container's buildImage makes: ${description.fault}`,
    hint: BUILDERS,
  })
}

async function readStart(path: string, root: string, most = BLOCK): Promise<Buffer | 'folder'> {
  const place = await resolveWithin(path, root)
  if (place === undefined) throw new ImageError({ message: `There is no image at ${path}`, hint: BUILDERS })
  if (await isFolder(place)) return 'folder'
  const { handle, size } = await openRegularFile(place, root)
  try {
    return await readWhole({ handle, size: Math.min(most, size) }, path)
  } finally {
    await handle.close()
  }
}

/** Of a compressed file, in bytes; the first block of zstd's, without which nothing can be unpacked, is half as large. */
const PACKED_START = 256 * 1024

/** The first block of what is in a compressed file. Nothing where it can't be told: whoever reads the file says why. */
async function readUnpackedStart(
  path: string,
  root: string,
  format: ImageSource['format'],
): Promise<Buffer | undefined> {
  if (!isCompressed(format)) return undefined
  const packed = await readStart(path, root, PACKED_START)
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

async function findInFolder(path: string, root: string): Promise<ImageSource> {
  const names = await listFolder(path, root)
  if (names.includes('index.json') && names.includes('oci-layout')) return { path, root, format: 'layout' }
  const sources = new Map<string, ImageSource>()
  // One after the other: of thousands at once some can't be opened, and an image among them would be passed over.
  for (const name of names) {
    const source = await sourceAt(join(path, name), root)
    const place = source && (await realpath(source.path))
    // Of a file that has several names, by links, the first counts.
    if (source && place && !sources.has(place)) sources.set(place, source)
  }
  const images = [...sources.values()].filter((source) => !isForItself(source))
  const [only, ...more] = images
  if (only !== undefined && more.length === 0) return only
  if (only !== undefined)
    throw new ImageError({
      message: `${path} is a folder with ${images.length} images in it`,
      detail: `by their first bytes: ${listOf(images.map((image) => basename(image.path)))}`,
      hint: 'Build each of them by its own attribute.',
    })
  const others = [...sources.values()].map((source) => basename(source.path))
  throw new ImageError({
    message: `${path} is a folder with no image in it`,
    detail: `it holds ${listOf(names)}`,
    hint:
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
async function sourceAt(path: string, root: string): Promise<ImageSource | undefined> {
  const start = await readStart(path, root).catch(() => undefined)
  if (start === 'folder') {
    const parts = ['index.json', 'oci-layout'].map((name) => resolveWithin(join(path, name), root))
    const found = await Promise.all(parts).catch(() => [undefined])
    return found.includes(undefined) ? undefined : { path, root, format: 'layout' }
  }
  const format = start && formatOf(start)
  if (format === undefined) return undefined
  const unpacked = await readUnpackedStart(path, root, format)
  return unpacked === undefined || mayBeTar(unpacked) ? { path, root, format } : undefined
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

/** Says what a file is, without a byte of it: it may be a file that nobody should see. */
function describeStart(start: Buffer, subject: string): string {
  if (start.length === 0) return `${subject} is empty`
  const known = KNOWN_STARTS.find(([hex]) => start.toString('hex').startsWith(hex))
  if (known !== undefined) return `${subject} is ${known[1]}`
  const compression = compressionOf(start)
  if (compression !== undefined) return `${subject} is compressed with ${compression}`
  return `${subject} is ${/^[\x20-\x7e\s]*$/.test(start.toString('latin1')) ? 'text' : 'binary data of an unknown format'}`
}

/** https://en.wikipedia.org/wiki/List_of_file_signatures */
const KNOWN_STARTS = [
  ['7f454c46', 'a program (ELF)'],
  ['504b0304', 'a ZIP archive'],
  ['425a68', 'compressed with bzip2'],
  ['04224d18', 'compressed with lz4'],
  ['5d0000', 'compressed with lzma'],
  ['514649fb', 'a disk image (QCOW2)'],
  ['68737173', 'a file system (squashfs)'],
] as const

async function openReader(source: ImageSource, copy: Writable | undefined): Promise<ByteReader> {
  const { path, root, format } = source
  if (format === 'layout' || format === 'nix2container') throw new Error(`${path} is not an archive`)
  if (format === 'tar' && copy === undefined) {
    const { handle, size } = await openRegularFile(path, root)
    return fileReader(handle, size)
  }
  const { compression, content } =
    format === 'script'
      ? await probe(outputOf(source))
      : {
          compression: format === 'tar' ? undefined : format,
          content: contentOf(await openRegularFile(path, root), path),
        }
  const plain = compression === undefined ? content : decompress(compression, content, path)
  return streamReader(copy === undefined ? plain : copyTo(copy, plain))
}

/** More padding than any tar has, in bytes: GNU tar fills up to 10 KiB, unless it is asked for larger records. */
const PADDING_LIMIT = 16 * 1024 * 1024

/**
 * Reads what follows the end of a tar: padding, which a copy must have as well, and a compressor's checksum.
 * @throws ImageError if there is no end to it
 */
async function readToEnd(reader: ByteReader, path: string): Promise<void> {
  for (let read = 0; read <= PADDING_LIMIT; ) {
    const skipped = await reader.skip(1024 * 1024)
    if (skipped === 0) return
    read += skipped
  }
  throw new ImageError({
    message: `${path} goes on for more than ${formatBytes(PADDING_LIMIT)} after the end of the image's tar`,
    hint: 'Nothing was published. Write nothing after the tar.',
  })
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
async function* outputOf({ path, root }: ImageSource): AsyncGenerator<Buffer> {
  const place = await resolveWithin(path, root)
  const script = startStreaming(place ?? path, [], { trust: 'script' })
  try {
    yield* script.output
    const { failure, log } = await script.ended
    if (failure === undefined) return
    const detail = [failure, log].filter(Boolean).join('\n')
    throw new ImageError({
      message: `${path} should write an image to its standard output, but failed`,
      detail,
      hint: OTHER_PROCESSOR.test(detail) ? FOREIGN_SCRIPT : undefined,
    })
  } finally {
    script.end()
  }
}
