import { firstLine } from '../failure.ts'
import type { Log } from '../log.ts'
import type { Digest } from '../oci/digest.ts'
import { type Descriptor, parseConfig, parseManifest } from '../oci/document.ts'
import { fits, type Platform } from '../oci/platform.ts'
import { printReference, type Reference, type Repository, sameRepository } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'

/** A layer that was published before. */
export interface KnownBlob {
  readonly digest: Digest
  /** Compressed, in bytes. */
  readonly size: number
  readonly mediaType: string
  /** Where it is. */
  readonly repositories: readonly Repository[]
}

/** What images published before hold, and need not be pushed again. */
export interface Published {
  /** The blobs that hold the layer with this diff ID, compressed in whatever way. */
  blobsOf(diffId: Digest): readonly KnownBlob[]
  /** Whether a repository has this manifest or config. */
  has(repository: Repository, digest: Digest): boolean
}

export const NOTHING_PUBLISHED: Published = { blobsOf: () => [], has: () => false }

/**
 * A blob that holds a layer and can stand in the manifests of all images: it is in each repository, or in another of
 * the same registry, from which it can be mounted.
 * @param fits whether a blob is of the kind that is pushed now
 */
export function reusableIn(
  published: Published,
  diffId: Digest,
  images: readonly Repository[],
  fits: (blob: KnownBlob) => boolean,
): KnownBlob | undefined {
  return published
    .blobsOf(diffId)
    .filter(fits)
    .find(({ repositories }) => images.every((image) => repositories.some(({ host }) => host === image.host)))
}

/**
 * Reads the manifests and configs of images published before. One that can't be read is nothing to reuse, whatever the
 * reason, and that is said in a line.
 * @param platform of the image that is to be pushed; of an index, its manifest counts
 */
export async function findPublished(
  registry: Registry,
  references: readonly Reference[],
  platform: Platform,
  log: Log,
): Promise<Published> {
  const images = await Promise.all(
    references.map(async (reference) => {
      try {
        const image = await readPublished(registry, reference, platform)
        if (image === undefined) log.info(`Nothing to reuse from ${printReference(reference)}: it is not there yet`)
        return image
      } catch (error) {
        log.info(`Nothing to reuse from ${printReference(reference)}: ${firstLine(error)}`)
        return undefined
      }
    }),
  )
  const found = images.filter((image) => image !== undefined)
  const known = Map.groupBy(
    found.flatMap(({ layers }) => layers),
    ({ diffId, digest }) => `${diffId} ${digest}`,
  )
  const blobs = Map.groupBy([...known.values()].flatMap(joined), ({ diffId }) => diffId)
  return {
    blobsOf: (diffId) => blobs.get(diffId) ?? [],
    has: (repository, digest) =>
      found.some((image) => sameRepository(image.repository, repository) && image.documents.includes(digest)),
  }
}

interface PublishedLayer extends KnownBlob {
  readonly diffId: Digest
}

interface PublishedImage {
  readonly repository: Repository
  readonly layers: readonly PublishedLayer[]
  readonly documents: readonly Digest[]
}

/** One blob that several images have. */
function joined(same: readonly PublishedLayer[]): readonly PublishedLayer[] {
  return same.slice(0, 1).map((first) => ({ ...first, repositories: same.flatMap((one) => one.repositories) }))
}

const CONFIG_LIMIT = 16 * 1024 * 1024

async function readPublished(
  registry: Registry,
  reference: Reference,
  platform: Platform,
): Promise<PublishedImage | undefined> {
  const { repository } = reference
  const stored = await registry.getManifest(repository, reference.digest ?? reference.tag ?? 'latest')
  if (stored === undefined) return undefined
  const image = await manifestFor(registry, repository, stored, platform)
  if (image === undefined) throw new Error('it has no image for this platform')
  const manifest = parseManifest(image.bytes, image.mediaType, printReference(reference))
  if (manifest.kind === 'index') throw new Error('it is an index of an index')
  const bytes = await registry.getBlob(repository, manifest.config.digest, CONFIG_LIMIT)
  if (bytes === undefined) throw new Error('its config is not there')
  const { diffIds } = parseConfig(bytes, `its config ${manifest.config.digest}`)
  if (diffIds.length !== manifest.layers.length) throw new Error('its config lists other layers than its manifest')
  const layers = manifest.layers.map(({ digest, size, mediaType }, at) => {
    return { digest, size, mediaType, repositories: [repository], diffId: diffIds[at] as Digest }
  })
  return { repository, layers, documents: [image.digest, manifest.config.digest] }
}

async function manifestFor(
  registry: Registry,
  repository: Repository,
  stored: StoredManifest,
  platform: Platform,
): Promise<StoredManifest | undefined> {
  const parsed = parseManifest(stored.bytes, stored.mediaType, 'it')
  if (parsed.kind === 'manifest') return stored
  const entry = parsed.manifests.find((one: Descriptor) => one.platform !== undefined && fits(one.platform, platform))
  return entry && registry.getManifest(repository, entry.digest)
}
