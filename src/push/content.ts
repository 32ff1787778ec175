import { isRootLayer, storePathsInHistory } from '../image/layered-config.ts'
import type { ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { Digest } from '../oci/reference.ts'
import type { PublishedContent } from '../sbom/published.ts'
import type { LayerContent } from '../sbom/spdx.ts'
import type { StorePathInfo } from '../sbom/store-info.ts'
import type { LayerUpload } from './uploads.ts'

/** The content of an image that was pushed, as far as it is known. */
export interface ImageContent {
  /** When the image was created, as its config says. */
  readonly created: string | undefined
  /** Lowest first. */
  readonly layers: readonly PushedLayerContent[]
}

/** The store paths of a layer that was uploaded or reused. */
export interface PushedLayerContent {
  readonly diffId: Digest
  /** Sorted. Undefined if the image does not name them and the layer was not read. */
  readonly storePaths: readonly string[] | undefined
  /** Whether the layer was read from this machine. Otherwise it has the content that was published. */
  readonly read: boolean
}

/** @param started the uploads of the layers, by the names of their files */
export function contentOfLayers(
  { layered }: ImageSource,
  { layerNames, config: { created, comments } }: SourceImage,
  started: ReadonlyMap<string, LayerUpload>,
): ImageContent {
  const described = new Map(layered?.layers.map(({ name, storePaths }) => [name, storePaths]))
  const layers = layerNames.flatMap((name, at) => {
    const upload = started.get(name)
    if (upload === undefined) return []
    // Only if the history has one comment for each layer.
    const comment = comments.length === layerNames.length ? (comments[at] ?? '') : ''
    const paths = described.get(name) ?? upload.storePaths ?? storePathsInHistory(comment)
    const storePaths = paths?.filter((path) => !isRootLayer(path)).toSorted()
    return [{ diffId: upload.diffId, storePaths, read: upload.storePaths !== undefined }]
  })
  return { created, layers }
}

/**
 * Returns the content of all layers. The store paths of layers that were not read come from published images with the same
 * layers.
 * @returns undefined if those of a layer are unknown
 */
export function completeLayers(
  layers: readonly PushedLayerContent[],
  published: readonly PublishedContent[],
): readonly LayerContent[] | undefined {
  const known = new Map(published.flatMap((one) => one.layers).map(({ diffId, storePaths }) => [diffId, storePaths]))
  const complete = layers.flatMap(({ diffId, storePaths = known.get(diffId) }) =>
    storePaths === undefined ? [] : [{ diffId, storePaths }],
  )
  return complete.length === layers.length ? complete : undefined
}

/**
 * Returns the store paths whose layers were all read from this machine.
 * @param complete the same layers, with the store paths of those that were not read
 */
export function readStorePaths(
  layers: readonly PushedLayerContent[],
  complete: readonly LayerContent[],
): ReadonlySet<string> {
  const pathsOf = (read: boolean) =>
    complete.flatMap(({ storePaths }, at) => (layers[at]?.read === read ? storePaths : []))
  const unread = new Set(pathsOf(false))
  return new Set(pathsOf(true).filter((path) => !unread.has(path)))
}

/**
 * Corrects the hashes of store paths whose layers were not read: this machine may have another build of a store path than
 * the one that was published.
 */
export function withPublishedHashes(
  infos: readonly StorePathInfo[],
  layers: readonly PushedLayerContent[],
  published: readonly PublishedContent[],
): readonly StorePathInfo[] {
  const reused = new Set(layers.flatMap(({ diffId, read }) => (read ? [] : [diffId])))
  const local = new Set(layers.flatMap(({ storePaths = [], read }) => (read ? storePaths : [])))
  const hashes = new Map(published.flatMap((one) => hashesIn(one, reused)))
  return infos.map((info) => {
    const narHash = local.has(info.path) ? undefined : hashes.get(info.path)
    return narHash === undefined ? info : { ...info, narHash }
  })
}

function hashesIn(
  { layers, storePaths }: PublishedContent,
  diffIds: ReadonlySet<Digest>,
): readonly (readonly [string, string | undefined])[] {
  const paths = new Set(layers.flatMap(({ diffId, storePaths: of }) => (diffIds.has(diffId) ? of : [])))
  return storePaths.flatMap(({ path, narHash }) => (paths.has(path) ? [[path, narHash] as const] : []))
}
