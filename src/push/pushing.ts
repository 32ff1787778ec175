import type { BuildInfo } from '../cache/build-info.ts'
import type { ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { Digest } from '../oci/digest.ts'
import type { LayerFormat } from '../oci/media-type.ts'
import type { Platform } from '../oci/platform.ts'
import type { Repository } from '../oci/reference.ts'
import type { ImageManifest } from '../registry/image.ts'

/** An image that is to be pushed, by whatever means. */
export interface Pushing {
  readonly source: ImageSource
  /** At least one. */
  readonly images: readonly Repository[]
  /** Empty: by digest alone. */
  readonly tag: string
  /** The platform that the build is for. */
  readonly platform: Platform
  /** Looks at the image before anything of it can be pulled; throws where it must not be. */
  readonly check: (image: SourceImage) => void
}

/** The result of a push. */
export interface Pushed {
  /** One for each repository, in their order. */
  readonly images: readonly ImageManifest[]
  /** Absent where Docker pushed: it does not tell. */
  readonly layers?: readonly PushedLayer[]
  /** What the manifest says. Absent where Docker pushed: it writes no annotations. */
  readonly info?: BuildInfo
}

/** One layer, as the manifest lists it. */
export interface PushedLayer {
  readonly diffId: Digest
  readonly digest: Digest
  readonly format: LayerFormat
  /** Compressed, in bytes. */
  readonly size: number
  /** Whether it was in every repository already. */
  readonly reused: boolean
}

/** Compressed, in bytes. */
export function bytesOf(layers: readonly PushedLayer[]): number {
  return layers.reduce((sum, { size }) => sum + size, 0)
}
