import { basename, dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { ImageError } from '../errors.ts'
import { isFolder, listFolder, openRegularFile, readWhole, resolveWithin } from '../fs/regular-file.ts'
import type { Digest } from '../oci/reference.ts'
import { readExactly, streamReader } from './byte-reader.ts'
import { type ArchiveCompression, compressionOf, decompress, isTar } from './decompress.ts'
import { readDescription } from './documents.ts'
import { formatNames, type SourceImage } from './source-image.ts'
import { BLOCK, mayBeTar } from './tar.ts'

/** Where an image is on disk, and in which format. */
export interface ImageSource {
  readonly path: string
  /** The folder that must contain all files of the image, once links are followed. */
  readonly root: string
  /**
   * `script`: a program that writes a tar to its standard output (streamLayeredImage). `layout`: a folder with an OCI
   * layout. `nix2container`: a JSON description, from which nix2container's own program writes a layout. `layered`: a
   * description from which this action reads the layers itself.
   */
  readonly format: 'tar' | 'script' | 'layout' | 'nix2container' | 'layered' | ArchiveCompression
  /** Only for `nix2container`: the layers that the description lists. */
  readonly diffIds?: readonly string[]
  /** Only for `layered`. */
  readonly layered?: LayeredImage
}

/** An image whose layers are read one by one from the Nix store, in any order, without an archive that contains them. */
export interface LayeredImage {
  /** Lowest layer first, without those of the base image. */
  readonly layers: readonly StoreLayer[]
  /** The archive of the base image, whose layers are below. */
  readonly base?: ImageSource | undefined
  /**
   * Returns the image.
   * @param diffIds one per layer
   * @param base what `base` contains
   * @throws NotDescribed if the base image is not supported
   */
  image(diffIds: readonly Digest[], base?: SourceImage): SourceImage
}

/** A layer that is read from the Nix store. */
export interface StoreLayer {
  /** Unique in the image. */
  readonly name: string
  /** The diff ID, if it is known before the layer is read. */
  readonly diffId?: Digest
  /** Identifies the content, if the diff ID is unknown before the layer is read. Equal recipes mean equal layers. */
  readonly recipe?: Digest
  /** The store paths that the layer has files of. Undefined if they are known only once its tar has been read. */
  readonly storePaths?: readonly string[]
  /** Yields the tar. Each chunk is valid until the next one is read. */
  content(): AsyncIterable<Buffer>
}

/**
 * Detects the format of an image from its first bytes, whatever its name. A folder may contain one image.
 * @param path a store path
 * @param root as in `ImageSource`
 * @throws ImageError if there is no image in a format that can be read
 */
export async function findSource(path: string, root = dirname(path)): Promise<ImageSource> {
  const start = await readFileStart(path, root)
  if (start === 'folder') return findInFolder(path, root)
  const format = formatOf(start)
  if (format === undefined)
    throw new ImageError({
      message: `${path} is not an image`,
      detail: describeStart(start, 'the file'),
      hint: BUILDERS,
    })
  if (format === 'nix2container') return describedSource(path, root)
  const content = await readDecompressedStart(path, root, format)
  if (content !== undefined && !mayBeTar(content))
    throw new ImageError({
      message: `${path} is not an image: it is compressed with ${format}, but does not contain a tar`,
      detail: describeStart(content, 'decompressed, it'),
      hint: BUILDERS,
    })
  return { path, root, format }
}

const BUILDERS =
  'Build a docker archive (dockerTools.buildImage or buildLayeredImage), plain or compressed with gzip, zstd or xz, a script that streams one (dockerTools.streamLayeredImage), an image of nix2container, or an OCI layout.'

async function describedSource(path: string, root: string): Promise<ImageSource> {
  const description = await readDescription(path, root)
  if ('diffIds' in description) return { path, root, format: 'nix2container', ...description }
  throw new ImageError({
    message: `${path} is not an image`,
    detail: `it begins like JSON, but nix2container's buildImage did not write it: ${description.fault}`,
    hint: BUILDERS,
  })
}

async function readFileStart(path: string, root: string, most = BLOCK): Promise<Buffer | 'folder'> {
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

/** How many bytes of a compressed file are read to detect its content. zstd's first block has up to half as many. */
const COMPRESSED_START = 256 * 1024

/** Returns the first block of a compressed file's content, undefined if it can't be read: reading the image reports why. */
async function readDecompressedStart(
  path: string,
  root: string,
  format: ImageSource['format'],
): Promise<Buffer | undefined> {
  if (!isCompressed(format)) return undefined
  const compressed = await readFileStart(path, root, COMPRESSED_START)
  if (compressed === 'folder') return undefined
  const reader = streamReader(decompress(format, Readable.from([compressed]), path))
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
  // One at a time: with thousands open at once some opens fail, and an image could be missed.
  for (const name of names) {
    const source = await sourceAt(join(path, name), root)
    const place = source && (await resolveWithin(source.path, root))
    // The first name of a file counts if several links point to it.
    if (source && place && !sources.has(place)) sources.set(place, source)
  }
  const images = [...sources.values()].filter((source) => !countsOnlyAlone(source))
  const [only, ...more] = images
  if (only !== undefined && more.length === 0) return only
  if (only !== undefined)
    throw new ImageError({
      message: `${path} is a folder that contains ${images.length} images`,
      detail: `by their first bytes: ${formatNames(images.map((image) => basename(image.path)))}`,
      hint: 'Build each image by its own attribute.',
    })
  const others = [...sources.values()].map((source) => basename(source.path))
  throw new ImageError({
    message: `${path} is a folder that contains no image`,
    detail: `it contains ${formatNames(names)}`,
    hint:
      others.length === 0
        ? BUILDERS
        : `In a folder, only an archive or an OCI layout counts as an image. If ${formatNames(others)} is a script that streams an image, or an image of nix2container, build it directly instead of a folder that contains it.`,
  })
}

/**
 * Reports whether a source is an image only as the result of the build itself: a description needs the program that
 * belongs to it, and a script in a folder may do anything.
 */
function countsOnlyAlone({ format }: ImageSource): boolean {
  return format === 'nix2container' || format === 'script'
}

/** Returns undefined for files that can't be images, such as compressed manual pages. */
async function sourceAt(path: string, root: string): Promise<ImageSource | undefined> {
  const start = await readFileStart(path, root).catch(() => undefined)
  if (start === 'folder') {
    const parts = ['index.json', 'oci-layout'].map((name) => resolveWithin(join(path, name), root))
    const found = await Promise.all(parts).catch(() => [undefined])
    return found.includes(undefined) ? undefined : { path, root, format: 'layout' }
  }
  const format = start && formatOf(start)
  if (format === undefined) return undefined
  const content = await readDecompressedStart(path, root, format)
  return content === undefined || mayBeTar(content) ? { path, root, format } : undefined
}

function formatOf(start: Buffer): ImageSource['format'] | undefined {
  // First, because a tar begins with a file name, which can look like any other format.
  if (isTar(start)) return 'tar'
  const compression = compressionOf(start)
  if (compression !== undefined) return compression
  if (start.toString('latin1', 0, 2) === '#!') return 'script'
  return start[0] === 0x7b ? 'nix2container' : undefined
}

function isCompressed(format: ImageSource['format']): format is ArchiveCompression {
  return format === 'gzip' || format === 'zstd' || format === 'xz'
}

/** Describes a file without quoting it: its content may be secret. */
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
