import { Readable } from 'node:stream'
import type { Descriptor } from '../oci/document.ts'
import type { Repository } from '../oci/reference.ts'
import type { PublishedImage } from './image.ts'
import type { Blob, Registry } from './registry.ts'

/** How many blobs are on their way at once. */
const BLOBS_AT_ONCE = 6

/**
 * Copies an image, and what BuildKit attests about it, to another repository. Blobs are mounted within a registry and
 * streamed between two; those that are there already stay where they are. The manifests come last, by digest.
 * @throws RegistryError
 */
export async function copyImage(registry: Registry, image: PublishedImage, to: Repository): Promise<void> {
  const contents = [image.own, ...image.attestations]
  const blobs = contents.flatMap((content) => content.blobs)
  const waiting = [...new Map(blobs.map((blob) => [blob.digest, blob])).values()]
  const copyNext = async (): Promise<void> => {
    for (let blob = waiting.shift(); blob !== undefined; blob = waiting.shift())
      await copyBlob(registry, blob, image.repository, to)
  }
  await Promise.all(Array.from({ length: BLOBS_AT_ONCE }, copyNext))
  for (const { manifest } of contents.toReversed())
    await registry.putManifest(to, manifest.digest, manifest.mediaType, manifest.bytes)
}

async function copyBlob(registry: Registry, blob: Descriptor, from: Repository, to: Repository): Promise<void> {
  if (await registry.hasBlob(to, blob.digest)) return
  if (from.host === to.host && (await registry.mountBlob(to, blob.digest, from))) return
  await registry.putBlob(to, streamed(registry, blob, from))
}

/** The registry that takes the bytes holds them against the digest. */
function streamed(registry: Registry, { digest, size }: Descriptor, from: Repository): Blob {
  async function* content(): AsyncGenerator<Buffer> {
    yield* await registry.openBlob(from, digest)
  }
  return { digest, size, open: () => Readable.from(content(), { objectMode: false }) }
}

/** Stores a blob where it is not yet. Returns whether it had to be sent. */
export async function putIfAbsent(registry: Registry, repository: Repository, blob: Blob): Promise<boolean> {
  if (await registry.hasBlob(repository, blob.digest)) return false
  await registry.putBlob(repository, blob)
  return true
}
