import { Readable } from 'node:stream'
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

/** The manifest of what is pushed: the one that the image came with, where that is still true. */
export function manifestOf(image: SourceImage, config: Blob, layers: readonly PushedLayer[]): StoredManifest {
  return ownManifest(image, config, layers) ?? composeManifest(image, config, layers)
}

/** The manifest that the image came with, where it is still true. */
function ownManifest(
  { manifest, configDigest, layers: own }: SourceImage,
  config: Blob,
  layers: readonly PushedLayer[],
): StoredManifest | undefined {
  const same =
    configDigest === config.digest &&
    // By the type as well: what is called a plain tar, and is not, went up as what it is.
    own.every((layer, at) => keptBlob(layer)?.digest === layers[at]?.digest)
  return manifest !== undefined && same ? { ...manifest, digest: digestOf(manifest.bytes) } : undefined
}

/** A manifest as it would have come with the image, with all that is said of it and of the layers that are still those. */
function composeManifest(
  { manifest, layers: own }: SourceImage,
  config: Blob,
  layers: readonly PushedLayer[],
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
      ...said(manifest?.annotations),
    }),
  )
  return { bytes, digest: digestOf(bytes), mediaType: OCI_MANIFEST }
}
