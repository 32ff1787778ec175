import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { ImageError } from '../errors.ts'
import { contentOf, openRegularFile, resolveWithin } from '../fs/regular-file.ts'
import type { Platform } from '../oci/platform.ts'
import { startStreaming } from '../process/stream.ts'
import { formatBytes } from '../text.ts'
import { readArchive } from './archive.ts'
import { type ByteReader, fileReader, streamReader } from './byte-reader.ts'
import { decompress, peekCompression } from './decompress.ts'
import { readLayoutFolder } from './layout-folder.ts'
import type { ImageSource } from './source.ts'
import { type ImageReader, type OpenImage, openImageReader, type SourceImage } from './source-image.ts'

export interface ReadOptions {
  /** Selects the image if an OCI layout has several. */
  readonly platform?: Platform | undefined
  /** Receives the bytes of the tar, decompressed, and is ended after the last one. `docker load` reads such a copy. */
  readonly copy?: Writable | undefined
}

/**
 * Opens an archive or a layout. Reads all bytes of an archive once; of a plain tar without a copy, only those that are
 * requested. Reading throws an ImageError if the archive is damaged or not an image.
 */
export function openImage(source: ImageSource, options: ReadOptions = {}): OpenImage {
  const { format, path, root } = source
  const reader = format === 'layout' ? readLayoutFolder(path, root, options.platform) : readArchiveAt(source, options)
  return openImageReader(reader)
}

/**
 * Reads an image without its layers.
 * @throws ImageError if it is damaged or not an image
 */
export async function readImage(source: ImageSource, options: ReadOptions = {}): Promise<SourceImage> {
  return openImage(source, options).image()
}

/** Reports whether an image can be read several times, and skipping layers costs nothing. */
export function isSeekable({ format }: ImageSource): boolean {
  return format === 'tar' || format === 'layout'
}

async function* readArchiveAt(source: ImageSource, { platform, copy }: ReadOptions): ImageReader {
  const reader = await openByteReader(source, copy)
  try {
    const image = yield* readArchive(reader, source.path, platform)
    await readPadding(reader, source.path)
    return image
  } finally {
    await reader.close()
  }
}

async function openByteReader(source: ImageSource, copy: Writable | undefined): Promise<ByteReader> {
  const { path, root, format } = source
  if (format === 'layout' || format === 'nix2container' || format === 'layered')
    throw new Error(`${path} is not an archive`)
  if (format === 'tar' && copy === undefined) {
    const { handle, size } = await openRegularFile(path, root)
    return fileReader(handle, size)
  }
  const { compression, content } =
    format === 'script'
      ? await peekCompression(runScript(source))
      : {
          compression: format === 'tar' ? undefined : format,
          content: contentOf(await openRegularFile(path, root), path),
        }
  const tar = compression === undefined ? content : decompress(compression, content, path)
  return streamReader(copy === undefined ? tar : copyTo(copy, tar))
}

/** The limit of what follows a tar, in bytes. GNU tar pads to 10 KiB unless larger records are requested. */
const PADDING_LIMIT = 16 * 1024 * 1024

/**
 * Reads the rest after the end of a tar: padding, which a copy must have too, and a compressor's checksum.
 * @throws ImageError if it is longer than any padding
 */
async function readPadding(reader: ByteReader, path: string): Promise<void> {
  for (let read = 0; read <= PADDING_LIMIT; ) {
    const skipped = await reader.skip(1024 * 1024)
    if (skipped === 0) return
    read += skipped
  }
  throw new ImageError({
    message: `${path} continues for more than ${formatBytes(PADDING_LIMIT)} after the end of the image's tar`,
    hint: 'Nothing was published. Write nothing after the tar.',
  })
}

async function* copyTo(copy: Writable, bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of bytes) {
    // Not "drain": a stream that the reading side has closed never emits it, but still runs the callback.
    await new Promise<void>((resolve, reject) => {
      copy.write(chunk, (error) => (error ? reject(error) : resolve()))
    })
    yield chunk
  }
  copy.end()
  await finished(copy, { readable: false })
}

/**
 * Matches the errors of a script whose interpreter is for another processor. If the system can't start it, a shell reads
 * it as its own script (https://man7.org/linux/man-pages/man3/exec.3.html, ENOEXEC).
 */
const OTHER_PROCESSOR = /Exec format error|ENOEXEC|cannot execute binary|: not found|[Ss]yntax error/

const FOREIGN_SCRIPT =
  'The script runs on this runner. If it was built for another system, add docker/setup-qemu-action before Nix is installed, use a runner of that system, or build the image with dockerTools.buildLayeredImage.'

/** Yields the standard output of a script, and throws if the script fails. */
async function* runScript({ path, root }: ImageSource): AsyncGenerator<Buffer> {
  const place = await resolveWithin(path, root)
  const script = startStreaming(place ?? path, [], { trust: 'no-logins' })
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
