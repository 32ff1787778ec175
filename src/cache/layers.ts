import { ReuseError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type Index, parseConfig, parseManifest } from '../oci/manifest.ts'
import { fits, type Platform } from '../oci/platform.ts'
import { type Digest, formatReference, type Repository, sameRepository } from '../oci/reference.ts'
import { CONFIG_LIMIT } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { recipeOf } from './build-info.ts'
import { recipesFromHistory } from './history.ts'
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
  /** Returns the diff ID of the layer that was made from a recipe. */
  diffIdOf(recipe: Digest): Digest | undefined
  /** Whether there are images whose layers have no recipes that can be trusted, so that only their content identifies them. */
  readonly needsContent: boolean
  /** Reports whether a repository has this manifest or config. */
  has(repository: Repository, digest: Digest): boolean
}

export const NOTHING_PUBLISHED: LayerCache = {
  blobsOf: () => [],
  diffIdOf: () => undefined,
  needsContent: false,
  has: () => false,
}

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
 * @param images the repositories whose recipes are trusted. An image in another one may claim any recipe for a layer; a
 * layer that is found by its content can't be another one
 * @param platform selects the image of an index
 */
export async function findPublished(
  registry: Registry,
  earlier: readonly PreviousImage[],
  images: readonly Repository[],
  platform: Platform,
  log: Log,
): Promise<LayerCache> {
  const isOwn = (repository: Repository) => images.some((image) => sameRepository(image, repository))
  const found = await readReusable(earlier, log, (one) =>
    readLayersOf(registry, one, platform, isOwn(one.reference.repository)),
  )
  const own = found.filter(({ repository }) => isOwn(repository))
  const made = new Map(
    own.flatMap(({ layers }) => layers.flatMap(({ recipe, diffId }) => (recipe ? [[recipe, diffId] as const] : []))),
  )
  const known = Map.groupBy(
    found.flatMap(({ layers }) => layers),
    ({ diffId, digest }) => `${diffId} ${digest}`,
  )
  const blobs = Map.groupBy([...known.values()].flatMap(mergeRepositories), ({ diffId }) => diffId)
  return {
    blobsOf: (diffId) => blobs.get(diffId) ?? [],
    diffIdOf: (recipe) => made.get(recipe),
    needsContent: found.some((one) => !own.includes(one) || one.layers.every(({ recipe }) => recipe === undefined)),
    has: (repository, digest) =>
      found.some((image) => sameRepository(image.repository, repository) && image.documents.includes(digest)),
  }
}

interface PublishedLayer extends ReusableBlob {
  readonly diffId: Digest
  readonly recipe: Digest | undefined
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
  trusted: boolean,
): Promise<ReusableImage> {
  const { repository } = reference
  const image = content.kind === 'manifest' ? stored : await imageIn(content, registry, repository, platform)
  if (image === undefined) throw new ReuseError({ message: 'has no image for this platform' })
  const manifest = parseManifest(image.bytes, image.mediaType, formatReference(reference))
  if (manifest.kind === 'index') throw new ReuseError({ message: 'is an index of indexes' })
  const bytes = await registry.getBlob(repository, manifest.config.digest, CONFIG_LIMIT)
  if (bytes === undefined) throw new ReuseError({ message: 'has no config in the registry' })
  const config = parseConfig(bytes, `its config ${manifest.config.digest}`)
  const { diffIds } = config
  if (diffIds.length !== manifest.layers.length)
    throw new ReuseError({ message: 'has a config that does not match its manifest' })
  const annotated = manifest.layers.map(({ annotations = {} }) => recipeOf(annotations))
  const recipes =
    annotated.some((recipe) => recipe !== undefined) || !trusted
      ? annotated
      : await recipesFromHistory(registry, repository, manifest.layers, config)
  const layers = manifest.layers.map(({ digest, size, mediaType }, at) => {
    const diffId = diffIds[at] as Digest
    return { digest, size, mediaType, repositories: [repository], diffId, recipe: recipes[at] }
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
