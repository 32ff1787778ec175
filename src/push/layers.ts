import { type LayerCache, type ReusableBlob, reusableIn } from '../cache/layers.ts'
import { hashLayer } from '../compress/compress.ts'
import { baseProblem } from '../image/layered-image.ts'
import { isBlobName } from '../image/oci-layout.ts'
import { isSeekable, openImage, readImage } from '../image/open-image.ts'
import type { LayeredImage, StoreLayer } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import { layerFormat } from '../oci/manifest.ts'
import type { Platform } from '../oci/platform.ts'
import type { Digest } from '../oci/reference.ts'
import { mapAtMost } from '../promises.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { observeLayer } from '../sbom/store-paths.ts'
import { checkLayer, layerFiles, readLayer, STORE_LAYERS_AT_ONCE, unexpectedLayer } from './check.ts'
import type { ImageContent } from './content.ts'
import { type Labels, reusableDescriptor } from './manifest.ts'
import type { LayerUpload, UploadSettings, Uploads } from './uploads.ts'

/** A push with this action's own client or with Docker. */
export interface PushRequest extends Pick<UploadSettings, 'source' | 'images'> {
  /** Empty to push by digest alone. */
  readonly tag: string
  /** The platform that the build is for. */
  readonly platform: Platform
  /** Throws if the image must not be pushed. Runs before anything that can be pulled is pushed. */
  readonly check: (image: SourceImage) => void
}

/** A push with this action's own client: the same manifest for all repositories. */
export interface RegistryPush extends PushRequest, UploadSettings {
  readonly published: LayerCache
  /** Added to the image's config. */
  readonly labels: Labels
  /** The store path of the image, for the annotations of the manifest. */
  readonly storePath: string
  /**
   * Runs once every repository has the image, and before the tag moves. If it throws, the tag does not move.
   * @param images one per repository
   */
  readonly beforeTag?: (images: readonly ImageManifest[], contents: ImageContent) => Promise<void>
}

/** The layers of an image whose uploads have started. */
export interface StartedPush {
  readonly image: SourceImage
  /** By the names of the layers' files, in which they are stored in another order than in the config. */
  readonly started: ReadonlyMap<string, LayerUpload>
}

/** Starts the uploads of all layers of an image that a registry lacks. Resolves when all of them have been read. */
export async function pushLayers(request: RegistryPush, uploads: Uploads, registry: Registry): Promise<StartedPush> {
  const { source } = request
  if (source.layered !== undefined) return pushLayered(request, source.layered, uploads, registry)
  return isSeekable(source) ? pushSeekable(request, uploads, registry) : pushStreamed(request, uploads)
}

/** Pushes layers from the Nix store, several at the same time. Published layers are not read. */
async function pushLayered(
  request: RegistryPush,
  layered: LayeredImage,
  uploads: Uploads,
  registry: Registry,
): Promise<StartedPush> {
  const { layers, base, image: imageOf } = layered
  // Before the layers of the base are uploaded.
  request.check(imageOf([]))
  const below = base && (await pushBase({ ...request, source: base, check: () => undefined }, uploads, registry))
  const started = new Map(below?.started)
  const push = async (layer: StoreLayer): Promise<Digest> => {
    const known = layer.diffId ?? (layer.recipe && request.published.diffIdOf(layer.recipe)) ?? (await hashed(layer))
    const blob = reusableBlob(request, known)
    const upload =
      known !== undefined && blob !== undefined
        ? uploads.reuse(known, blob)
        : await uploads.push({ name: layer.name, size: 0, content: layer.content }, ({ diffId }) => {
            if (layer.diffId !== undefined && layer.diffId !== diffId)
              throw unexpectedLayer(layer.name, diffId, layer.diffId)
          })
    started.set(layer.name, upload)
    return upload.diffId
  }
  const hashed = async ({ content }: StoreLayer): Promise<Digest | undefined> =>
    request.published.needsContent ? (await hashLayer(content())).diffId : undefined
  const diffIds = await mapAtMost(STORE_LAYERS_AT_ONCE, layers, push)
  const image = imageOf(diffIds, below?.image)
  request.check(image)
  return { image, started }
}

async function pushBase(request: RegistryPush, uploads: Uploads, registry: Registry): Promise<StartedPush> {
  try {
    return await pushLayers(request, uploads, registry)
  } catch (error) {
    throw baseProblem(error)
  }
}

/** Reads the documents of a seekable image first, so that published layers need not be read. */
async function pushSeekable(request: RegistryPush, uploads: Uploads, registry: Registry): Promise<StartedPush> {
  const { source, platform, onProgram } = request
  const image = await readImage(source, { platform })
  request.check(image)
  const existing = lookUpBlobs(request, image, registry)
  const started = new Map<string, LayerUpload>()
  for await (const file of layerFiles(source, platform, image.layerNames)) {
    const at = image.layerNames.indexOf(file.name)
    const diffId = image.config.diffIds[at]
    if (diffId === undefined) continue
    const blob = reusableLayer(request, image, at)
    const unchanged = reusableDescriptor(image, at)
    if (blob !== undefined) started.set(file.name, uploads.reuse(diffId, blob, file))
    else if (unchanged && (await existing.get(unchanged.digest))) {
      // The registry has the blob, perhaps from a failed push. Only its content proves that it is the config's layer.
      const layer = await readLayer(file, source, onProgram)
      checkLayer(image, at, layer, source)
      started.set(file.name, { ...uploads.skip(diffId, unchanged), storePaths: layer.storePaths })
    } else started.set(file.name, await uploads.push(file, (layer) => checkLayer(image, at, layer, source)))
  }
  return { image, started }
}

/**
 * Pushes the layers of a stream while it is read, before its documents are known. Nix names most layers by their diff
 * IDs. A blob of an OCI layout may belong to an image for another platform, or not be a layer, so blobs wait for the
 * manifest, and the stream is read twice.
 */
async function pushStreamed(request: RegistryPush, uploads: Uploads): Promise<StartedPush> {
  const { source, platform, onProgram } = request
  const started = new Map<string, LayerUpload>()
  const opened = openImage(source, { platform })
  for await (const file of opened.layers) {
    if (isBlobName(file.name)) continue
    if (reusableBlob(request, diffIdInName(file.name)) === undefined) {
      started.set(file.name, await uploads.push(file))
      continue
    }
    const { tar, storePaths } = observeLayer(file.content(), onProgram)
    const { diffId } = await hashLayer(tar)
    const blob = reusableBlob(request, diffId)
    if (blob !== undefined) started.set(file.name, { ...uploads.reuse(diffId, blob, file), storePaths: storePaths() })
  }
  const image = await opened.image()
  request.check(image)
  // Blobs, and layers that have the name of a published layer but other content.
  for await (const file of layerFiles(source, platform, image.layerNames, started)) {
    const at = image.layerNames.indexOf(file.name)
    started.set(file.name, await uploads.push(file, (layer) => checkLayer(image, at, layer, source)))
  }
  return { image, started }
}

/** Returns the diff ID of `<64 hexadecimal digits>/layer.tar`, as Nix names layers. */
function diffIdInName(name: string): Digest | undefined {
  const [, hex] = /^([0-9a-f]{64})\/layer\.tar$/.exec(name) ?? []
  return hex === undefined ? undefined : `sha256:${hex}`
}

/** Returns the published blob for a layer: the one that the image's own manifest lists, or any in the chosen format. */
function reusableLayer(request: RegistryPush, image: SourceImage, at: number): ReusableBlob | undefined {
  const diffId = image.config.diffIds[at]
  const unchanged = reusableDescriptor(image, at)
  if (unchanged === undefined) return reusableBlob(request, diffId)
  return diffId && reusableIn(request.published, diffId, request.images, ({ digest }) => digest === unchanged.digest)
}

function reusableBlob(
  { published, images, compression }: RegistryPush,
  diffId: Digest | undefined,
): ReusableBlob | undefined {
  const matches = ({ mediaType }: ReusableBlob) => layerFormat(mediaType) === compression.format
  return diffId && reusableIn(published, diffId, images, matches)
}

/** Asks which blobs of an OCI layout every repository has, other than those of published images. */
function lookUpBlobs(
  request: RegistryPush,
  image: SourceImage,
  registry: Registry,
): ReadonlyMap<Digest, Promise<boolean>> {
  const digests = image.layerNames.flatMap((_, at) =>
    reusableLayer(request, image, at) === undefined ? (reusableDescriptor(image, at)?.digest ?? []) : [],
  )
  return new Map(
    [...new Set(digests)].map((digest) => {
      const lookUps = Promise.all(request.images.map((repository) => registry.hasBlob(repository, digest)))
      const everywhere = lookUps.then((found) => !found.includes(false))
      // If the push fails earlier, the result is not awaited.
      everywhere.catch(() => undefined)
      return [digest, everywhere]
    }),
  )
}
