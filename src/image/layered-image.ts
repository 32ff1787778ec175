import { dirname, join } from 'node:path'
import { firstLine, ImageError } from '../errors.ts'
import { contentOf, openRegularFile, readWhole } from '../fs/regular-file.ts'
import { placeOnDisk, type StoreFolder, storeInPlace } from '../nix/store-path.ts'
import { type Digest, digestOf, isDigest } from '../oci/reference.ts'
import { DESCRIPTION_LIMIT, readImageConfig } from './documents.ts'
import { type BaseImage, layeredConfig, parseBaseImage, recipeDigest } from './layered-config.ts'
import { descriptionInWrapper, type LayeredDescription, parseLayeredDescription } from './layered-description.ts'
import { nix2containerConfig, parseNix2containerImage } from './nix2container.ts'
import { readNix2containerLayer } from './nix2container-layer.ts'
import { findSource, type ImageSource, type StoreLayer } from './source.ts'
import type { SourceImage } from './source-image.ts'
import { readStoreLayer } from './store-layer.ts'

/** An image that can't be made from its description, and has to be built in full instead. */
export class NotDescribed extends Error {
  override readonly name = 'NotDescribed'
}

/**
 * Returns the error to throw for one that the archive of a base image causes. The script of nixpkgs reads more archives
 * than this action.
 */
export function baseProblem(error: unknown): unknown {
  if (!(error instanceof ImageError)) return error
  const detail = firstLine(error.parts.detail ?? '')
  const problem = `its base image is not supported: ${firstLine(error)}${detail && ` (${detail})`}`
  return new NotDescribed(problem, { cause: error })
}

/**
 * Reads the description of an image from `dockerTools.buildLayeredImage` or `streamLayeredImage`.
 * @param path of the JSON file, a store path
 * @param local the store of this runner
 * @throws NotDescribed with the reason, if the image would not be exactly the one that the script of nixpkgs writes
 */
export async function readLayeredImage(path: string, local: StoreFolder = storeInPlace()): Promise<ImageSource> {
  const parsed = parseLayeredDescription(await readStoreFile(path, local))
  if (!parsed.ok) throw new NotDescribed(parsed.reason)
  const description = parsed.value
  const { storeDir, fromImage, storeLayers, customisationLayer } = description
  const store = storeDir === local.name ? local : { name: storeDir, place: storeDir }
  const customisation = await readCustomisation(customisationLayer, store)
  const layers = [
    ...storeLayers.map((paths, at): StoreLayer => {
      const recipe = { ...description, paths }
      return {
        name: layerName(at, paths),
        recipe: recipeDigest(recipe),
        storePaths: paths,
        content: () => readStoreLayer(recipe, { place: store.place }),
      }
    }),
    customisation,
  ]
  const paths = [...storeLayers, [customisationLayer]]
  const base = fromImage === undefined ? undefined : await findBase(fromImage, store)
  const image = (diffIds: readonly Digest[], baseImage?: SourceImage) =>
    describedImage(description, layers, paths, diffIds, path, baseImage)
  return { path, root: store.place, format: 'layered', layered: { layers, base, image } }
}

/**
 * Reads the description of an image from nix2container's `buildImage`.
 * @param path of the JSON file, a store path
 * @param store the store of this runner
 * @throws NotDescribed with the reason, if only nix2container's own program can write the image
 */
export async function readNix2containerImage(path: string, store: StoreFolder = storeInPlace()): Promise<ImageSource> {
  const parsed = parseNix2containerImage(await readStoreFile(path, store), store.name)
  if (!parsed.ok) throw new NotDescribed(`its description is not supported: ${parsed.reason}`)
  const configBytes = nix2containerConfig(parsed.value)
  const layers = parsed.value.layers.map((layer, at): StoreLayer => {
    async function* content() {
      try {
        yield* readNix2containerLayer(layer, store)
      } catch (error) {
        throw error instanceof ImageError ? new NotDescribed(error.message) : error
      }
    }
    const name = `${at + 1} (${layer.digest})`
    // Where names are rewritten, files of a store path are outside of it.
    const storePaths =
      layer.content.kind === 'file' ? undefined : layer.content.paths.flatMap((one) => (one.rewrite ? [] : [one.path]))
    return { name, diffId: layer.diffId, content, ...(storePaths && { storePaths }) }
  })
  const image = {
    names: [],
    config: readImageConfig(configBytes, 'that its description gives', path),
    configDigest: digestOf(configBytes),
    configBytes,
    layerNames: layers.map(({ name }) => name),
  }
  return { path, root: store.place, format: 'layered', layered: { layers, image: () => image } }
}

/**
 * Returns the description that a script of `dockerTools.streamLayeredImage` reads.
 * @param path of the script, a store path
 * @param store the store of this runner
 * @throws NotDescribed if it may be any other script
 */
export async function descriptionOfScript(path: string, store: StoreFolder = storeInPlace()): Promise<string> {
  const script = await readStoreFile(path, store)
  const description = descriptionInWrapper(script.toString('utf8'))
  if (description !== undefined) return description
  throw new NotDescribed(`${path} is not a script of dockerTools.streamLayeredImage`)
}

/** Formats the name of a layer for messages: `2 (/nix/store/…-glibc-2.40 and 3 more)`. */
function layerName(at: number, [first = 'empty', ...more]: readonly string[]): string {
  return `${at + 1} (${first}${more.length === 0 ? '' : ` and ${more.length} more`})`
}

/** Reads a file that is a store path, in any store. */
async function readStoreFile(path: string, store: StoreFolder): Promise<Buffer> {
  const place = placeOnDisk(path, store)
  return readFileOf(place, dirname(place), DESCRIPTION_LIMIT)
}

async function readFileOf(path: string, root: string, limit: number): Promise<Buffer> {
  const file = await openRegularFile(path, root)
  try {
    if (file.size > limit) throw new NotDescribed(`${path} is larger than ${limit} bytes`)
    return await readWhole(file, path)
  } finally {
    await file.handle.close()
  }
}

async function findBase(path: string, store: StoreFolder): Promise<ImageSource> {
  const base = await findSource(placeOnDisk(path, store), store.place).catch((error: unknown) => {
    throw baseProblem(error)
  })
  if (base.format === 'script' || base.format === 'nix2container' || base.format === 'layout')
    throw new NotDescribed(`its base image ${path} is not an archive`)
  return base
}

/** Returns the layer that a build has already written as a tar, with its hash. */
async function readCustomisation(path: string, store: StoreFolder): Promise<StoreLayer> {
  const place = placeOnDisk(path, store)
  const checksum = (await readFileOf(join(place, 'checksum'), store.place, 1024)).toString('latin1').trim()
  const diffId = `sha256:${checksum}`
  if (!isDigest(diffId)) throw new NotDescribed(`${join(path, 'checksum')} is not a SHA-256 hash`)
  const tar = join(path, 'layer.tar')
  async function* content() {
    yield* contentOf(await openRegularFile(join(place, 'layer.tar'), store.place), tar)
  }
  return { name: tar, diffId, content }
}

function describedImage(
  description: LayeredDescription,
  layers: readonly StoreLayer[],
  paths: readonly (readonly string[])[],
  diffIds: readonly Digest[],
  path: string,
  base: SourceImage | undefined,
): SourceImage {
  const configBytes = layeredConfig(
    description,
    diffIds.map((diffId, at) => ({ diffId, paths: paths[at] ?? [] })),
    base && parseBase(base),
  )
  return {
    names: [description.repoTag],
    config: readImageConfig(configBytes, 'that its description gives', path),
    configDigest: digestOf(configBytes),
    configBytes,
    layerNames: [...(base?.layerNames ?? []), ...layers.map(({ name }) => name)],
    recipes: new Map(layers.flatMap(({ name, recipe }) => (recipe === undefined ? [] : [[name, recipe] as const]))),
  }
}

function parseBase({ archiveManifest, configBytes }: SourceImage): BaseImage {
  if (archiveManifest === undefined) throw new NotDescribed('its base image is not a docker archive')
  const parsed = parseBaseImage(archiveManifest, configBytes)
  if (parsed.ok) return parsed.value
  throw new NotDescribed(parsed.reason)
}
