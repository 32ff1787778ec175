import { ImageError } from '../errors.ts'
import type { Descriptor, ImageConfig } from '../oci/manifest.ts'
import type { Digest } from '../oci/reference.ts'

/** An image on disk, as Nix built it: its documents, without the content of its layers. */
export interface SourceImage {
  /** The names that a docker archive gives the image, such as `app:nix`. Often one, sometimes none. */
  readonly names: readonly string[]
  readonly config: ImageConfig
  /** The digest of `configBytes`, which Docker calls the image ID. */
  readonly configDigest: Digest
  readonly configBytes: Buffer
  /**
   * The names of the files that hold the layers, links followed: lowest layer first, one per diff ID of the config.
   * Several layers can have the same file.
   */
  readonly layerNames: readonly string[]
  /** Only for an OCI layout. */
  readonly manifest?: LayoutManifest
  /** The bytes of manifest.json. Only for a docker archive. */
  readonly archiveManifest?: Buffer
  /** By layer name: what identifies the content of layers that were made from store paths. */
  readonly recipes?: ReadonlyMap<string, Digest>
}

/** The manifest of an image in an OCI layout. */
export interface LayoutManifest {
  readonly bytes: Buffer
  readonly mediaType: string
  readonly annotations: Readonly<Record<string, string>>
  /** One per layer of the image. */
  readonly layers: readonly Descriptor[]
  /** Whether the layout has no other image. */
  readonly alone: boolean
}

/** A file of an archive or an OCI layout that may be a layer. */
export interface LayerFile {
  readonly name: string
  /** In bytes, as stored. */
  readonly size: number
  /**
   * Reads the file as stored, at most once, before the next file is requested.
   * Each chunk is valid until the next one is read.
   */
  content(): AsyncIterable<Buffer>
}

/** Yields the files that may be layers in the order in which they are stored, and returns the image. */
export type ImageReader = AsyncGenerator<LayerFile, SourceImage, void>

/** An image that the caller reads at its own pace. Nothing is opened before the first request. */
export interface OpenImage {
  /** Yields the files that may be layers, once. The bytes of a file that the caller does not read are skipped. */
  readonly layers: AsyncIterable<LayerFile>
  /** Skips the files that are left and returns the image. In a stream, its documents may follow the layers. */
  image(): Promise<SourceImage>
}

/** Adapts a reader to consumers that use `for await`, which discards a generator's return value. */
export function openImageReader(reader: ImageReader): OpenImage {
  let image: SourceImage | undefined
  async function* readLayers(): AsyncGenerator<LayerFile, void, void> {
    image = yield* reader
  }
  const layers = readLayers()
  return {
    layers,
    async image() {
      while (!(await layers.next()).done);
      if (image === undefined) throw new Error('the image was closed before its end')
      return image
    },
  }
}

/** Access to the files of an archive or a layout by name. Names have no leading `./`. */
export interface Contents {
  /** Returns undefined if no file has that name. */
  member(name: string): Promise<Member | undefined>
  /**
   * Returns the content of a small JSON file, undefined for any other file.
   * @throws ImageError if all documents together are too large
   */
  document(name: string): Promise<Buffer | undefined>
}

export interface Member {
  readonly type: 'file' | 'hard-link' | 'symbolic-link' | 'folder' | 'other'
  /** The name of the file that a link points to. */
  readonly target: string
  /** In bytes. */
  readonly size: number
}

export function damagedImage(path: string, problem: string, cause?: unknown): ImageError {
  return new ImageError({ message: `${path} is not a complete image: ${problem}`, cause })
}

/** Removes a leading `./`, and every `x/../`. */
export function memberName(name: string): string {
  const parts: string[] = []
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else parts.push(part)
  }
  return parts.join('/')
}

/** Formats the first eight names for a message, and the number of the others. */
export function formatNames(names: readonly string[], separator = ', '): string {
  const shown = names.slice(0, 8).join(separator)
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown || 'nothing'
}
