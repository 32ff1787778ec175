import { type BuildInfo, recipeAnnotation, withBuildInfo } from '../cache/build-info.ts'
import type { SourceImage } from '../image/source-image.ts'
import { type Descriptor, layerFormat, layerType, OCI_CONFIG, OCI_MANIFEST } from '../oci/manifest.ts'
import { digestOf } from '../oci/reference.ts'
import { blobOf } from '../registry/blobs.ts'
import type { Blob, StoredManifest } from '../registry/registry.ts'
import type { CompressedLayer } from './uploads.ts'

export type Labels = Readonly<Record<string, string>>

/** Returns the config to upload. Labels replace the image's own of the same keys. */
export function labelledConfig(bytes: Buffer, labels: Labels): Blob {
  const labelled = withLabels(bytes, labels)
  return blobOf(labelled)
}

/** Returns a config with labels. Without any, the bytes stay the same. */
export function withLabels(bytes: Buffer, labels: Labels): Buffer {
  if (Object.keys(labels).length === 0) return bytes
  const image: { readonly config?: { readonly Labels?: object } } = JSON.parse(bytes.toString('utf8'))
  const config = { ...image.config, Labels: { ...image.config?.Labels, ...labels } }
  return Buffer.from(JSON.stringify({ ...image, config }))
}

/** Returns the descriptor of a layer of an OCI layout that is compressed already, and so is pushed unchanged. */
export function reusableDescriptor({ manifest }: SourceImage, at: number): Descriptor | undefined {
  const descriptor = manifest?.layers[at]
  return descriptor && layerFormat(descriptor.mediaType) !== undefined ? descriptor : undefined
}

/**
 * Returns the manifest to push, annotated with build info. The manifest of an OCI layout is reused if all its layers are
 * pushed unchanged. Docker's manifests have no annotations: one that is still correct is pushed unchanged.
 */
export function manifestOf(
  image: SourceImage,
  config: Blob,
  layers: readonly CompressedLayer[],
  info: BuildInfo,
): StoredManifest {
  const { manifest } = image
  // Not for a compressed layer that is listed as a plain tar: its media type is corrected.
  const unchanged = layers.every((layer, at) => reusableDescriptor(image, at)?.digest === layer.digest)
  if (manifest === undefined || !unchanged) return composeManifest(image, config, layers, info)
  if (manifest.mediaType === OCI_MANIFEST) return rewriteManifest(manifest, config, info)
  if (config.digest === image.configDigest) return { ...manifest, digest: digestOf(manifest.bytes) }
  return composeManifest(image, config, layers, info)
}

/** Replaces the config and the build info of an OCI manifest. All other fields and their order stay the same. */
export function rewriteManifest(
  { bytes, mediaType }: Omit<StoredManifest, 'digest'>,
  { digest, size }: Pick<Blob, 'digest' | 'size'>,
  info: BuildInfo,
): StoredManifest {
  const original: OciManifest = JSON.parse(bytes.toString('utf8'))
  // `data` embeds the blob itself, so it belongs to the replaced config.
  const config =
    original.config.digest === digest ? original.config : { ...original.config, digest, size, data: undefined }
  const annotations = withBuildInfo(original.annotations ?? {}, info)
  const rewritten = Buffer.from(JSON.stringify({ ...original, config, annotations }))
  return { bytes: rewritten, digest: digestOf(rewritten), mediaType }
}

/** The fields that `rewriteManifest` replaces. */
interface OciManifest {
  readonly config: { readonly digest: string }
  readonly annotations?: Readonly<Record<string, string>> | null
}

/** Composes an OCI manifest, with the annotations of the original one and of its unchanged layers. */
function composeManifest(
  image: SourceImage,
  config: Blob,
  layers: readonly CompressedLayer[],
  info: BuildInfo,
): StoredManifest {
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: { mediaType: OCI_CONFIG, digest: config.digest, size: config.size },
      layers: layers.map(({ digest, size, format }, at) => {
        const original = reusableDescriptor(image, at)
        const recipe = image.recipes?.get(image.layerNames[at] ?? '')
        const annotations = {
          ...(original?.digest === digest && original.annotations),
          ...(recipe && recipeAnnotation(recipe)),
        }
        const annotated = Object.keys(annotations).length > 0 && { annotations }
        return { mediaType: layerType(format), digest, size, ...annotated }
      }),
      annotations: withBuildInfo(image.manifest?.annotations ?? {}, info),
    }),
  )
  return { bytes, digest: digestOf(bytes), mediaType: OCI_MANIFEST }
}
