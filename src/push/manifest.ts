import { Readable } from 'node:stream'
import { type BuildInfo, withBuildInfo } from '../cache/build-info.ts'
import type { SourceImage, SourceLayer } from '../image/source-image.ts'
import { digestOf } from '../oci/digest.ts'
import type { Descriptor } from '../oci/document.ts'
import { layerFormat, layerType, OCI_CONFIG, OCI_MANIFEST } from '../oci/media-type.ts'
import type { Blob, StoredManifest } from '../registry/registry.ts'
import type { PushedLayer } from './pushing.ts'

export type Labels = Readonly<Record<string, string>>

/** A config to upload, with labels added, which replace the image's own of the same keys. None leave its bytes alone. */
export function labelledConfig(bytes: Buffer, labels: Labels): Blob {
  const labelled = Object.keys(labels).length === 0 ? bytes : withLabels(bytes, labels)
  return {
    digest: digestOf(labelled),
    size: labelled.length,
    open: () => Readable.from([labelled], { objectMode: false }),
  }
}

function withLabels(bytes: Buffer, labels: Labels): Buffer {
  const image: { readonly config?: { readonly Labels?: object } } = JSON.parse(bytes.toString('utf8'))
  const config = { ...image.config, Labels: { ...image.config?.Labels, ...labels } }
  return Buffer.from(JSON.stringify({ ...image, config }))
}

/** A layer of an OCI layout that is compressed already, and goes up as it is. */
export function keptBlob(layer: SourceLayer | undefined): Descriptor | undefined {
  return layer?.blob && layerFormat(layer.blob.mediaType) !== undefined ? layer.blob : undefined
}

/**
 * Returns the manifest to push, annotated with build info. The manifest that the image came with is used if all its
 * layers are pushed as they are. Docker's manifests have no annotations: one that is still true is pushed as it is.
 */
export function manifestOf(
  image: SourceImage,
  config: Blob,
  layers: readonly PushedLayer[],
  info: BuildInfo,
): StoredManifest {
  const { manifest } = image
  // By the type as well: what is called a plain tar, and is not, went up as what it is.
  const kept = image.layers.every((layer, at) => keptBlob(layer)?.digest === layers[at]?.digest)
  if (manifest === undefined || !kept) return composeManifest(image, config, layers, info)
  if (manifest.mediaType === OCI_MANIFEST) return rewriteManifest(manifest, config, info)
  if (config.digest === image.configDigest) return { ...manifest, digest: digestOf(manifest.bytes) }
  return composeManifest(image, config, layers, info)
}

/** Gives an OCI manifest another config and other build info. All other fields and their order stay the same. */
export function rewriteManifest(
  { bytes, mediaType }: Omit<StoredManifest, 'digest'>,
  { digest, size }: Pick<Blob, 'digest' | 'size'>,
  info: BuildInfo,
): StoredManifest {
  const said: OciManifest = JSON.parse(bytes.toString('utf8'))
  // `data` embeds the blob itself, so it belongs to the config that is replaced.
  const config = said.config.digest === digest ? said.config : { ...said.config, digest, size, data: undefined }
  const annotations = withBuildInfo(said.annotations ?? {}, info)
  const rewritten = Buffer.from(JSON.stringify({ ...said, config, annotations }))
  return { bytes: rewritten, digest: digestOf(rewritten), mediaType }
}

/** The fields that are rewritten. */
interface OciManifest {
  readonly config: { readonly digest: string }
  readonly annotations?: Readonly<Record<string, string>> | null
}

/** A manifest as it would have come with the image, with all that is said of it and of the layers that are still those. */
function composeManifest(
  { manifest, layers: own }: SourceImage,
  config: Blob,
  layers: readonly PushedLayer[],
  info: BuildInfo,
): StoredManifest {
  const said = (annotations: Descriptor['annotations'] = {}) =>
    Object.keys(annotations).length > 0 ? { annotations } : undefined
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: { mediaType: OCI_CONFIG, digest: config.digest, size: config.size },
      layers: layers.map(({ digest, size, format }, at) => {
        const kept = keptBlob(own[at])
        return { mediaType: layerType(format), digest, size, ...(kept?.digest === digest && said(kept.annotations)) }
      }),
      annotations: withBuildInfo(manifest?.annotations ?? {}, info),
    }),
  )
  return { bytes, digest: digestOf(bytes), mediaType: OCI_MANIFEST }
}
