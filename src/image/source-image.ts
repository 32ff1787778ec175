import type { Digest } from '../oci/digest.ts'
import type { Descriptor, ImageConfig } from '../oci/document.ts'
import { ImageError } from './image-error.ts'

/** An image as Nix built it, read but for its layers' content. */
export interface SourceImage {
  /** The names that the archive gives the image, such as `app:nix`; often one, sometimes none. */
  readonly names: readonly string[]
  readonly config: ImageConfig
  /** The hash of the config's bytes, which Docker calls the image's ID. */
  readonly configDigest: Digest
  readonly configBytes: Buffer
  /** Lowest first, one for each diff ID of the config. */
  readonly layers: readonly SourceLayer[]
  /** Of an OCI layout, whose manifest is there already. */
  readonly manifest?: LayoutManifest
}

/** The manifest that an OCI layout came with. */
export interface LayoutManifest {
  readonly bytes: Buffer
  readonly mediaType: string
  readonly annotations: Readonly<Record<string, string>>
  /** Whether the layout has no other image. */
  readonly alone: boolean
}

/** A layer of the image, in the order of the config. */
export interface SourceLayer {
  /** The member of the archive, or the file of the layout, that holds it; links followed. */
  readonly name: string
  /** Of an OCI layout: how the manifest lists it. */
  readonly blob?: Descriptor
}

/** A member of an archive, or a file of a layout, that may be a layer. */
export interface LayerMember {
  readonly name: string
  /** In bytes. */
  readonly size: number
  /** The content in chunks, each valid until the next; once, and before `take` resolves. */
  content(): AsyncIterable<Buffer>
}

/** Gets each of them as it comes by; what it leaves unread is passed over. */
export type TakeLayer = (member: LayerMember) => Promise<void>

/** What an archive or a layout holds, by names without `./` in front. */
export interface Contents {
  /** Returns nothing if there is nothing by that name. */
  member(name: string): Promise<Member | undefined>
  /**
   * Returns the content of a small file of JSON: the documents of an image are among those.
   * @throws ImageError if all documents together are too large
   */
  document(name: string): Promise<Buffer | undefined>
}

/** What an archive or a folder has by a name. */
export interface Member {
  readonly type: 'file' | 'hard-link' | 'symbolic-link' | 'folder' | 'other'
  /** The name of what a link leads to. */
  readonly target: string
  /** In bytes. */
  readonly size: number
}

/** The error of an image that is not what it should be. @param why what is wrong with it */
export function damaged(path: string, why: string, cause?: unknown): ImageError {
  return new ImageError({ message: `${path} is not a whole image: ${why}`, cause })
}

/** Without `./` in front and without `x/../`. */
export function memberName(name: string): string {
  const parts: string[] = []
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else parts.push(part)
  }
  return parts.join('/')
}

/** The first of many names, for people, and how many more there are. */
export function listOf(names: readonly string[], separator = ', '): string {
  const shown = names.slice(0, 8).join(separator)
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown || 'nothing'
}
