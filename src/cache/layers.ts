import type { Log } from '../log.ts'
import type { Digest } from '../oci/digest.ts'
import { type Index, parseConfig, parseManifest } from '../oci/document.ts'
import { fits, type Platform } from '../oci/platform.ts'
import { formatReference, type Repository, sameRepository } from '../oci/reference.ts'
import { CONFIG_LIMIT } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { type PreviousImage, readEach } from './previous-image.ts'
import { ReuseError } from './reuse-error.ts'

/** A layer that was published before. */
export interface ReusableBlob {
  readonly digest: Digest
  /** Compressed, in bytes. */
  readonly size: number
  readonly mediaType: string
  /** Where it is. */
  readonly repositories: readonly Repository[]
}

/** What images published before hold, and need not be pushed again. */
export interface LayerCache {
  /** The blobs that hold the layer with this diff ID, compressed in whatever way. */
  blobsOf(diffId: Digest): readonly ReusableBlob[]
  /** Whether a repository has this manifest or config. */
  has(repository: Repository, digest: Digest): boolean
}

export const NOTHING_PUBLISHED: LayerCache = { blobsOf: () => [], has: () => false }

/**
 * A blob that holds a layer and can stand in the manifests of all images: it is in each repository, or in another of
 * the same registry, from which it can be mounted.
 * @param isOfUse whether a blob is of the kind that is pushed now
 */
export function reusableIn(
  published: LayerCache,
  diffId: Digest,
  images: readonly Repository[],
  isOfUse: (blob: ReusableBlob) => boolean,
): ReusableBlob | undefined {
  return published
    .blobsOf(diffId)
    .filter(isOfUse)
    .find(({ repositories }) => images.every((image) => repositories.some(({ host }) => host === image.host)))
}

/**
 * Reads which layers the images published before have. One that can't be read has none, and that is said in a line.
 * @param platform of the image that is to be pushed; of an index, its manifest counts
 */
export async function findPublished(
  registry: Registry,
  earlier: readonly PreviousImage[],
  platform: Platform,
  log: Log,
): Promise<LayerCache> {
  const found = await readEach(earlier, log, (one) => readLayersOf(registry, one, platform))
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

interface PublishedLayer extends ReusableBlob {
  readonly diffId: Digest
}

/** An image published before, with what of it need not be pushed again. */
interface ReusableImage {
  readonly repository: Repository
  readonly layers: readonly PublishedLayer[]
  readonly documents: readonly Digest[]
}

/** One blob that several images have. */
function joined(same: readonly PublishedLayer[]): readonly PublishedLayer[] {
  return same.slice(0, 1).map((first) => ({ ...first, repositories: same.flatMap((one) => one.repositories) }))
}

async function readLayersOf(
  registry: Registry,
  { reference, stored, content }: PreviousImage,
  platform: Platform,
): Promise<ReusableImage> {
  const { repository } = reference
  const image = content.kind === 'manifest' ? stored : await imageIn(content, registry, repository, platform)
  if (image === undefined) throw new ReuseError({ message: 'it has no image for this platform' })
  const manifest = parseManifest(image.bytes, image.mediaType, formatReference(reference))
  if (manifest.kind === 'index') throw new ReuseError({ message: 'it is an index of an index' })
  const bytes = await registry.getBlob(repository, manifest.config.digest, CONFIG_LIMIT)
  if (bytes === undefined) throw new ReuseError({ message: 'its config is not there' })
  const { diffIds } = parseConfig(bytes, `its config ${manifest.config.digest}`)
  if (diffIds.length !== manifest.layers.length)
    throw new ReuseError({ message: 'its config lists other layers than its manifest' })
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
