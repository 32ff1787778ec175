import { ReuseError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type Index, parseConfig, parseManifest } from '../oci/manifest.ts'
import { fits, type Platform } from '../oci/platform.ts'
import { type Digest, formatReference, type Repository, sameRepository } from '../oci/reference.ts'
import { CONFIG_LIMIT } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { type PreviousImage, readReusable } from './previous-image.ts'

/** A published layer. */
export interface ReusableBlob {
  readonly digest: Digest
  /** Compressed, in bytes. */
  readonly size: number
  readonly mediaType: string
  /** The repositories that have it. */
  readonly repositories: readonly Repository[]
}

/** What published images contain, so that it need not be pushed again. */
export interface LayerCache {
  /** Returns the blobs that contain the layer with this diff ID, in any compression. */
  blobsOf(diffId: Digest): readonly ReusableBlob[]
  /** Reports whether a repository has this manifest or config. */
  has(repository: Repository, digest: Digest): boolean
}

export const NOTHING_PUBLISHED: LayerCache = { blobsOf: () => [], has: () => false }

/**
 * Returns a blob of a layer that can be used in all images: each registry has it, so that it can be mounted from another
 * repository.
 * @param isUsable whether a blob has the compression that is pushed now
 */
export function reusableIn(
  published: LayerCache,
  diffId: Digest,
  images: readonly Repository[],
  isUsable: (blob: ReusableBlob) => boolean,
): ReusableBlob | undefined {
  return published
    .blobsOf(diffId)
    .filter(isUsable)
    .find(({ repositories }) => images.every((image) => repositories.some(({ host }) => host === image.host)))
}

/**
 * Reads the layers of published images. Logs and skips images that can't be read.
 * @param platform selects the image of an index
 */
export async function findPublished(
  registry: Registry,
  earlier: readonly PreviousImage[],
  platform: Platform,
  log: Log,
): Promise<LayerCache> {
  const found = await readReusable(earlier, log, (one) => readLayersOf(registry, one, platform))
  const known = Map.groupBy(
    found.flatMap(({ layers }) => layers),
    ({ diffId, digest }) => `${diffId} ${digest}`,
  )
  const blobs = Map.groupBy([...known.values()].flatMap(mergeRepositories), ({ diffId }) => diffId)
  return {
    blobsOf: (diffId) => blobs.get(diffId) ?? [],
    has: (repository, digest) =>
      found.some((image) => sameRepository(image.repository, repository) && image.documents.includes(digest)),
  }
}

interface PublishedLayer extends ReusableBlob {
  readonly diffId: Digest
}

/** The layers and documents of a published image. */
interface ReusableImage {
  readonly repository: Repository
  readonly layers: readonly PublishedLayer[]
  readonly documents: readonly Digest[]
}

/** Merges entries for the same blob in several images. */
function mergeRepositories(same: readonly PublishedLayer[]): readonly PublishedLayer[] {
  return same.slice(0, 1).map((first) => ({ ...first, repositories: same.flatMap((one) => one.repositories) }))
}

async function readLayersOf(
  registry: Registry,
  { reference, stored, content }: PreviousImage,
  platform: Platform,
): Promise<ReusableImage> {
  const { repository } = reference
  const image = content.kind === 'manifest' ? stored : await imageIn(content, registry, repository, platform)
  if (image === undefined) throw new ReuseError({ message: 'has no image for this platform' })
  const manifest = parseManifest(image.bytes, image.mediaType, formatReference(reference))
  if (manifest.kind === 'index') throw new ReuseError({ message: 'is an index of indexes' })
  const bytes = await registry.getBlob(repository, manifest.config.digest, CONFIG_LIMIT)
  if (bytes === undefined) throw new ReuseError({ message: 'has no config in the registry' })
  const { diffIds } = parseConfig(bytes, `its config ${manifest.config.digest}`)
  if (diffIds.length !== manifest.layers.length)
    throw new ReuseError({ message: 'has a config that does not match its manifest' })
  const layers = manifest.layers.map(({ digest, size, mediaType }, at) => {
    return { digest, size, mediaType, repositories: [repository], diffId: diffIds[at] as Digest }
  })
  return { repository, layers, documents: [image.digest, manifest.config.digest] }
}

async function imageIn(
  { manifests }: Index,
  registry: Registry,
  repository: Repository,
  platform: Platform,
): Promise<StoredManifest | undefined> {
  const entry = manifests.find((one) => one.platform !== undefined && fits(one.platform, platform))
  return entry && registry.getManifest(repository, entry.digest)
}
