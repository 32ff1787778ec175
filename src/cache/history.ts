import { Readable } from 'node:stream'
import { readExactly, streamReader } from '../image/byte-reader.ts'
import { compressionOf, decompress } from '../image/decompress.ts'
import { isRootLayer, recipeDigest, storePathsInHistory } from '../image/layered-config.ts'
import type { LayerAttributes } from '../image/layered-description.ts'
import { createHeaderEncoder } from '../image/python-tar.ts'
import { BLOCK, readOwnership } from '../image/tar.ts'
import { storeFolder } from '../nix/store-path.ts'
import type { Descriptor, ImageConfig } from '../oci/manifest.ts'
import type { Digest, Repository } from '../oci/reference.ts'
import type { Registry } from '../registry/registry.ts'

/**
 * Returns the recipe of each layer of an image that dockerTools made and that was published without recipes, by this
 * action's earlier versions or by other tools. The history in its config has the store paths of each layer. The rest of
 * the recipe is the same for all layers, and in the first header of each, so the smallest layer is read.
 * @returns undefined for layers whose recipe is unknown
 */
export async function recipesFromHistory(
  registry: Registry,
  repository: Repository,
  layers: readonly Descriptor[],
  { comments }: ImageConfig,
): Promise<readonly (Digest | undefined)[]> {
  const unknown = layers.map(() => undefined)
  if (comments.length !== layers.length) return unknown
  const paths = comments.map((comment) => storePathsOfLayer(comment ?? ''))
  const [smallest] = layers.filter((_, at) => paths[at]).sort((a, b) => a.size - b.size)
  if (smallest === undefined || smallest.size > LAYER_LIMIT) return unknown
  const blob = await registry.getBlob(repository, smallest.digest, LAYER_LIMIT)
  const attributes = blob && (await attributesIn(blob, smallest.digest))
  if (attributes === undefined) return unknown
  return paths.map((of) => (of ? recipeDigest({ ...attributes, paths: of }) : undefined))
}

/** Returns undefined for the layer of the image's root folder: it has other content than its store path. */
function storePathsOfLayer(comment: string): readonly string[] | undefined {
  const paths = storePathsInHistory(comment)
  return paths?.some(isRootLayer) ? undefined : paths
}

/** In bytes, compressed. Most images have a layer of some kilobytes. */
const LAYER_LIMIT = 1024 * 1024

/** Reads the attributes from the header of the folder `/nix`, with which a layer of store paths begins. */
async function attributesIn(blob: Buffer, name: string): Promise<LayerAttributes | undefined> {
  const compression = compressionOf(blob)
  const reader = streamReader(
    compression ? decompress(compression, Readable.from([blob]), name) : Readable.from([blob]),
  )
  try {
    return attributesOf(await readExactly(reader, BLOCK))
  } catch {
    return undefined
  } finally {
    await reader.close()
  }
}

/** Returns undefined unless this action would write the same header for a layer with its attributes. */
function attributesOf(header: Buffer): LayerAttributes | undefined {
  if (header.length < BLOCK) return undefined
  const { mode, uid, gid, mtime, uname, gname } = readOwnership(header)
  if (mode !== 0o755 && mode !== 0o555) return undefined
  const attributes = { mtime, uid, gid, uname, gname, storeDir: storeFolder(), storeFolderMode: mode } as const
  const folder = { type: 'folder', name: '/nix', mode, size: 0, linkName: '' } as const
  return createHeaderEncoder(attributes)(folder).equals(header) ? attributes : undefined
}
