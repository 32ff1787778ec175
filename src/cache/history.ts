import { Readable } from 'node:stream'
import { readExactly, streamReader } from '../image/byte-reader.ts'
import { compressionOf, decompress } from '../image/decompress.ts'
import { recipeDigest, storePathsInHistory } from '../image/layered-config.ts'
import type { LayerAttributes } from '../image/layered-description.ts'
import { BLOCK } from '../image/tar.ts'
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
  const paths = comments.map((comment) => comment && storePathsInHistory(comment))
  // The topmost layer has other content: the files of the image's root folder.
  const [smallest] = layers.filter((_, at) => paths[at] && at < layers.length - 1).sort((a, b) => a.size - b.size)
  if (smallest === undefined || smallest.size > LAYER_LIMIT) return unknown
  const blob = await registry.getBlob(repository, smallest.digest, LAYER_LIMIT)
  const attributes = blob && (await attributesIn(blob, smallest.digest))
  if (attributes === undefined) return unknown
  return paths.map((of) => (of ? recipeDigest({ ...attributes, paths: of }) : undefined))
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

/** https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06 */
function attributesOf(header: Buffer): LayerAttributes | undefined {
  const text = (at: number, length: number) => header.toString('utf8', at, at + length).replace(/\0.*$/s, '')
  const number = (at: number, length: number) => {
    const digits = text(at, length).trim()
    return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined
  }
  const [storeFolderMode, uid, gid, mtime] = [number(100, 8), number(108, 8), number(116, 8), number(136, 12)]
  if (text(0, 100) !== '/nix/' || (storeFolderMode !== 0o755 && storeFolderMode !== 0o555)) return undefined
  if (uid === undefined || gid === undefined || mtime === undefined) return undefined
  return { mtime, uid, gid, uname: text(265, 32), gname: text(297, 32), storeDir: storeFolder(), storeFolderMode }
}
