import { Readable } from 'node:stream'
import { digestOf } from '../oci/digest.ts'
import { putEverywhere } from '../registry/copy.ts'
import { fetchImage, type PublishedImage } from '../registry/image.ts'
import type { Blob, Registry } from '../registry/registry.ts'

type Labels = Readonly<Record<string, string>>

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
  const image = JSON.parse(bytes.toString('utf8'))
  const config = { ...image.config, Labels: { ...image.config?.Labels, ...labels } }
  return Buffer.from(JSON.stringify({ ...image, config }))
}

/**
 * Gives a published image other labels, as if it were built and pushed with them. Its layers are as they were, and no
 * tag moves. What has these labels already is the same image.
 * @throws RegistryError
 */
export async function relabel(registry: Registry, image: PublishedImage, labels: Labels): Promise<PublishedImage> {
  const config = labelledConfig(image.configBytes, labels)
  if (config.digest === image.configDigest) return image
  const { repository, own } = image
  const said = JSON.parse(own.manifest.bytes.toString('utf8'))
  const { digest, size } = config
  const bytes = Buffer.from(JSON.stringify({ ...said, config: { ...said.config, digest, size } }))
  const manifest = { ...own.manifest, bytes, digest: digestOf(bytes) }
  await putEverywhere(registry, [repository], config)
  await registry.putManifest(repository, manifest.digest, manifest.mediaType, bytes)
  return fetchImage(registry, repository, manifest.digest)
}
