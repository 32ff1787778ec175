import { type BuildInfo, describeBuild } from '../cache/build-info.ts'
import { type LayerCache, NOTHING_PUBLISHED, type ReusableBlob, reusableIn } from '../cache/layers.ts'
import { hashLayer } from '../compress/compress.ts'
import { baseProblem, type LayeredImage, type StoreLayer } from '../image/layered-image.ts'

import { isBlobName } from '../image/oci-layout.ts'
import { isSeekable, openImage, readImage } from '../image/open-image.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { Log } from '../log.ts'
import { layerFormat } from '../oci/manifest.ts'
import type { Platform } from '../oci/platform.ts'
import { type Digest, formatReference, formatRepository } from '../oci/reference.ts'
import { mapAtMost, settleAll } from '../promises.ts'
import { putBlobEverywhere } from '../registry/copy.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { putTags, type RepositoryTag } from '../registry/tags.ts'
import { formatBytes, sanitizeLine } from '../text.ts'
import { checkLayer, layerFiles, notATar, readLayer, unexpectedLayer } from './check.ts'
import { type Labels, labelledConfig, manifestOf, reusableDescriptor } from './manifest.ts'
import { checkReplaced } from './tag.ts'
import {
  type CompressedLayer,
  type LayerUpload,
  startUploads,
  totalSize,
  type UploadSettings,
  type Uploads,
} from './uploads.ts'

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
}

/** The result of a push. */
export interface PushedImage {
  /** One per repository, in their order. */
  readonly images: readonly ImageManifest[]
  /** Undefined if Docker pushed, which does not report them. */
  readonly layers?: readonly CompressedLayer[]
  /** The annotations of the manifest. Undefined if Docker pushed, which writes none. */
  readonly info?: BuildInfo
}

/**
 * Pushes an image without Docker. Layers that were published before are reused; the others are compressed and uploaded
 * while the rest of the image is read. The manifest comes last, then the tag.
 * @throws ImageError if the image is damaged, RegistryError if a registry refuses; no tag has moved then
 */
export async function pushImage(request: RegistryPush, registry: Registry, log: Log): Promise<Required<PushedImage>> {
  const { images, tag } = request
  const started = performance.now()
  const pushed = await pushOnce(request, registry, log).catch((error: unknown) => {
    // A registry may have lost a layer that a published image lists, for example in a faulty clean-up.
    if (!(error instanceof RegistryError) || !/BLOB_UNKNOWN/.test(error.code ?? '')) throw error
    log.info(`${sanitizeLine(error.message)}; checking all layers again`)
    return pushOnce({ ...request, published: NOTHING_PUBLISHED }, registry, log)
  })
  const { image, layers, info, manifest } = pushed
  log.info(`${summarizeLayers(layers)} in ${((performance.now() - started) / 1000).toFixed(1)} s`)
  for (const repository of images) {
    const name = tag === '' ? formatRepository(repository) : formatReference({ repository, tag })
    log.info(`${name} is ${manifest.digest}`)
  }
  const { os, architecture, variant } = image.config
  const platform = { os, architecture, ...(variant !== undefined && { variant }) }
  const { digest, mediaType, bytes } = manifest
  return {
    images: images.map((repository) => ({ repository, digest, mediaType, size: bytes.length, platform })),
    layers,
    info,
  }
}

/** `60 layers: 58 reused, 2 pushed (3.1 MB of 221 MB)` */
export function summarizeLayers(layers: readonly CompressedLayer[]): string {
  const pushed = layers.filter(({ reused }) => !reused)
  const count = layers.length === 1 ? '1 layer' : `${layers.length} layers`
  const bytes = `${formatBytes(totalSize(pushed))} of ${formatBytes(totalSize(layers))}`
  return `${count}: ${layers.length - pushed.length} reused, ${pushed.length} pushed (${bytes})`
}

interface PushedOnce {
  readonly image: SourceImage
  readonly layers: readonly CompressedLayer[]
  readonly info: BuildInfo
  readonly manifest: StoredManifest
}

async function pushOnce(request: RegistryPush, registry: Registry, log: Log): Promise<PushedOnce> {
  const { storePath, labels, compression } = request
  const uploads = startUploads(request, registry, log)
  try {
    const { image, started } = await pushLayers(request, uploads, registry)
    const layers = await Promise.all(image.layerNames.map((name, at) => layerOf(image, at, started.get(name), request)))
    const formats = layers.map(({ format }) => format)
    const info = describeBuild(storePath, labels, compression.format, formats)
    const manifest = await pushManifest(request, image, layers, info, registry)
    return { image, layers, info, manifest }
  } finally {
    await uploads.settled()
  }
}

interface StartedPush {
  readonly image: SourceImage
  /** By the names of the layers' files, in which they are stored in another order than in the config. */
  readonly started: ReadonlyMap<string, LayerUpload>
}

async function pushLayers(request: RegistryPush, uploads: Uploads, registry: Registry): Promise<StartedPush> {
  const { source } = request
  if (source.layered !== undefined) return pushLayered(request, source.layered, uploads, registry)
  return isSeekable(source) ? pushSeekable(request, uploads, registry) : pushStreamed(request, uploads)
}

/** How many layers are read from the Nix store at the same time, so that a slow disk does not delay the compression. */
const STORE_LAYERS_AT_ONCE = 4

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
    const known = layer.diffId ?? (layer.recipe && request.published.diffIdOf(layer.recipe))
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
  const { source, platform } = request
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
      const layer = await readLayer(file, source)
      checkLayer(image, at, layer, source)
      started.set(file.name, uploads.skip(diffId, unchanged))
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
  const { source, platform } = request
  const started = new Map<string, LayerUpload>()
  const opened = openImage(source, { platform })
  for await (const file of opened.layers) {
    if (isBlobName(file.name)) continue
    if (reusableBlob(request, diffIdInName(file.name)) === undefined) {
      started.set(file.name, await uploads.push(file))
      continue
    }
    const { diffId } = await hashLayer(file.content())
    const blob = reusableBlob(request, diffId)
    if (blob !== undefined) started.set(file.name, uploads.reuse(diffId, blob, file))
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

async function layerOf(
  image: SourceImage,
  at: number,
  upload: LayerUpload | undefined,
  { source }: RegistryPush,
): Promise<CompressedLayer> {
  if (upload === undefined) throw notATar(image.layerNames[at] ?? '', source)
  const layer = await upload.uploaded
  checkLayer(image, at, layer, source)
  return layer
}

async function pushManifest(
  { images, tag, platform, labels, published }: RegistryPush,
  image: SourceImage,
  layers: readonly CompressedLayer[],
  info: BuildInfo,
  registry: Registry,
): Promise<StoredManifest> {
  const config = labelledConfig(image.configBytes, labels)
  const manifest = manifestOf(image, config, layers, info)
  const { bytes, digest, mediaType } = manifest
  const missing = images.filter((repository) => !published.has(repository, config.digest))
  await putBlobEverywhere(registry, missing, config)
  // Also if it exists: the registry's answer says whether it still has all the layers.
  await settleAll(images.map((repository) => registry.putManifest(repository, digest, mediaType, bytes)))
  // Tags move only when every registry has the image.
  const check = (stored: StoredManifest, place: RepositoryTag) => checkReplaced(registry, stored, place, platform)
  if (tag !== '') await putTags(registry, images, tag, manifest, check)
  return manifest
}
