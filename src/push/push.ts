import { type BuildInfo, describeBuild } from '../cache/build-info.ts'
import { type LayerCache, NOTHING_PUBLISHED, type ReusableBlob, reusableIn } from '../cache/layers.ts'
import { hashLayer } from '../compress/compress.ts'
import { sanitizeLine } from '../errors.ts'
import { isBlobName } from '../image/oci-layout.ts'
import { type ImageSource, isSeekable, readImage } from '../image/source.ts'
import type { LayerMember, SourceImage, SourceLayer } from '../image/source-image.ts'
import type { Log } from '../log.ts'
import type { Digest } from '../oci/digest.ts'
import type { Descriptor } from '../oci/document.ts'
import { layerFormat } from '../oci/media-type.ts'
import type { Repository } from '../oci/reference.ts'
import { putEverywhere } from '../registry/copy.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { putTags, type TagPlace } from '../registry/tags.ts'
import { settleAll } from '../settle-all.ts'
import { checkBlob, checkDiffId, checkName, noTar, type ReadLayer, readLayer } from './layer.ts'
import { keptBlob, type Labels, labelledConfig, manifestOf } from './manifest.ts'
import type { PushedLayer, Pushing } from './pushing.ts'
import { checkReplaced } from './tag.ts'
import { startUploads, type Taken, type UploadCall, type Uploads } from './uploads.ts'

/** What goes where: one manifest, the same digest, for all `images`. */
export interface PushCall extends Pushing, UploadCall {
  readonly published: LayerCache
  /** Added to the image's config. None leave its bytes as Nix made them. */
  readonly labels: Labels
  /** What Nix built, for the annotations of the manifest. */
  readonly storePath: string
}

/** An image that every registry has. */
export interface PushedImage {
  readonly image: SourceImage
  readonly manifest: StoredManifest
  readonly layers: readonly PushedLayer[]
  readonly info: BuildInfo
  readonly milliseconds: number
}

/**
 * Puts an image into registries straight from what Nix built. Layers published before stay where they are; the others
 * are compressed and uploaded while the rest is still being read. The manifest comes last.
 * @throws ImageError where the image is damaged, RegistryError where a registry refuses: no tag has moved then
 */
export async function pushImage(call: PushCall, registry: Registry, log: Log): Promise<PushedImage> {
  const started = performance.now()
  const attempt = async (published: LayerCache) => {
    const { image, layers } = await pushLayers({ ...call, published }, registry, log)
    const formats = layers.map(({ format }) => format)
    const info = describeBuild(call.storePath, call.labels, call.compression.format, formats)
    return { image, layers, info, manifest: await pushManifest(call, image, layers, info, published, registry) }
  }
  const pushed = await attempt(call.published).catch((error: unknown) => {
    // A layer that a published image lists may be gone all the same, by a clean-up that went wrong.
    if (!(error instanceof RegistryError) || !/BLOB_UNKNOWN/.test(error.code ?? '')) throw error
    log.info(`${sanitizeLine(error.message)}; checking all layers again`)
    return attempt(NOTHING_PUBLISHED)
  })
  return { ...pushed, milliseconds: performance.now() - started }
}

/** An image on its way from its source to the registries. */
interface PushUnderWay {
  readonly call: PushCall
  readonly registry: Registry
  readonly uploads: Uploads
  /** What became of its layers, by their names in the source. */
  readonly taken: Map<string, Taken>
}

async function pushLayers(
  call: PushCall,
  registry: Registry,
  log: Log,
): Promise<{ readonly image: SourceImage; readonly layers: readonly PushedLayer[] }> {
  const underWay = { call, registry, uploads: startUploads(call, registry, log), taken: new Map<string, Taken>() }
  try {
    const image = isSeekable(call.source) ? await pushSeekable(underWay) : await pushStreamed(underWay)
    const layers = image.layers.map(({ name }, at) => layerOf(image, at, underWay.taken.get(name), call.source))
    return { image, layers: await Promise.all(layers) }
  } finally {
    await underWay.uploads.settled()
  }
}

/** Of what can be read as often as needed, all is known before the first layer: published ones are passed over. */
async function pushSeekable(underWay: PushUnderWay): Promise<SourceImage> {
  const { call, registry, uploads, taken } = underWay
  const { source, images, published } = call
  const image = await readImage(source)
  call.check(image)
  const publishedAs = (kept: Descriptor, diffId: Digest) =>
    reusableIn(published, diffId, images, ({ digest }) => digest === kept.digest)
  const asked = image.layers.filter((layer, at) => {
    const [kept, diffId] = [keptBlob(layer), image.config.diffIds[at]]
    return kept && diffId && publishedAs(kept, diffId) === undefined
  })
  const there = lookForKept(asked, images, registry)
  const take = async (member: LayerMember): Promise<void> => {
    const at = image.layers.findIndex(({ name }) => name === member.name)
    const diffId = image.config.diffIds[at]
    if (diffId === undefined) return
    const kept = keptBlob(image.layers[at])
    const blob = kept ? publishedAs(kept, diffId) : reusable(call, diffId)
    if (blob !== undefined) taken.set(member.name, { diffId, layer: uploads.reuse(diffId, blob, member) })
    else if (kept && (await there.get(kept.digest))) await leave(underWay, image, at, member, kept)
    else taken.set(member.name, await uploads.push(member, (layer) => checkLayer(image, at, layer, source)))
  }
  return readImage(source, { take })
}

/** That the registry has a blob does not make it the layer that the config lists: a failed attempt may have left it. */
async function leave(
  { call, uploads, taken }: PushUnderWay,
  image: SourceImage,
  at: number,
  member: LayerMember,
  blob: Descriptor,
): Promise<void> {
  const read = await readLayer(member, call.source)
  checkBlob(image, at, read, call.source)
  taken.set(member.name, { diffId: read.diffId, layer: uploads.leave(read.diffId, blob) })
}

function checkLayer(image: SourceImage, at: number, layer: ReadLayer, source: ImageSource): void {
  checkDiffId(image, at, layer.diffId, source)
  checkBlob(image, at, layer, source)
}

/**
 * Of what comes by once, names are a hint: Nix calls most layers by their diff IDs. A blob of an OCI layout may be a layer
 * of an image for another platform, or something else, and is not pushed before the manifest, which may follow it, is read.
 */
async function pushStreamed({ call, uploads, taken }: PushUnderWay): Promise<SourceImage> {
  const { source } = call
  const push = async (member: LayerMember): Promise<void> => {
    const check = (layer: ReadLayer) => checkName(member.name, layer, source)
    taken.set(member.name, await uploads.push(member, check))
  }
  const take = async (member: LayerMember): Promise<void> => {
    if (isBlobName(member.name)) return
    if (reusable(call, diffIdInName(member.name)) === undefined) return push(member)
    const { diffId } = await hashLayer(member.content())
    const blob = reusable(call, diffId)
    taken.set(member.name, { diffId, ...(blob && { layer: uploads.reuse(diffId, blob, member) }) })
  }
  const image = await readImage(source, { take })
  call.check(image)
  // Blobs, and layers whose names were those of published layers, but not their own.
  const missed = image.layers.filter(({ name }) => taken.get(name)?.layer === undefined)
  const isMissed = (member: LayerMember) => missed.some(({ name }) => name === member.name)
  if (missed.length > 0)
    await readImage(source, { take: async (member) => (isMissed(member) ? push(member) : undefined) })
  return image
}

function reusable({ published, images, compression }: PushCall, diffId: Digest | undefined): ReusableBlob | undefined {
  const fits = ({ mediaType }: ReusableBlob) => layerFormat(mediaType) === compression.format
  return diffId && reusableIn(published, diffId, images, fits)
}

/** Which of the blobs that go up as they are, every repository has already. */
function lookForKept(
  layers: readonly SourceLayer[],
  images: readonly Repository[],
  registry: Registry,
): ReadonlyMap<Digest, Promise<boolean>> {
  const kept = new Set(layers.flatMap((layer) => keptBlob(layer)?.digest ?? []))
  return new Map(
    [...kept].map((digest) => {
      const looks = Promise.all(images.map((repository) => registry.hasBlob(repository, digest)))
      const everywhere = looks.then((found) => !found.includes(false))
      // Whoever does not get to this layer need not know.
      everywhere.catch(() => undefined)
      return [digest, everywhere]
    }),
  )
}

async function layerOf(
  image: SourceImage,
  at: number,
  taken: Taken | undefined,
  source: ImageSource,
): Promise<PushedLayer> {
  const { name = '' } = image.layers[at] ?? {}
  if (taken?.layer === undefined) throw noTar(name, source)
  checkDiffId(image, at, taken.diffId, source)
  const layer = await taken.layer
  checkBlob(image, at, layer, source)
  return layer
}

/** `<64 hexadecimal digits>/layer.tar`, as Nix's layered images have it. */
function diffIdInName(name: string): Digest | undefined {
  const [, hex] = /^([0-9a-f]{64})\/layer\.tar$/.exec(name) ?? []
  return hex === undefined ? undefined : `sha256:${hex}`
}

async function pushManifest(
  { images, tag, platform, labels }: PushCall,
  image: SourceImage,
  layers: readonly PushedLayer[],
  info: BuildInfo,
  published: LayerCache,
  registry: Registry,
): Promise<StoredManifest> {
  const config = labelledConfig(image.configBytes, labels)
  const manifest = manifestOf(image, config, layers, info)
  const { bytes, digest, mediaType } = manifest
  const without = images.filter((repository) => !published.has(repository, config.digest))
  await putEverywhere(registry, without, config)
  // Also where it is there already: a registry that takes it once more says whether it still has all the layers.
  await settleAll(images.map((repository) => registry.putManifest(repository, digest, mediaType, bytes)))
  // Tags only when every registry has everything.
  const check = (stored: StoredManifest, place: TagPlace) => checkReplaced(registry, stored, place, platform)
  if (tag !== '') await putTags(registry, images, tag, manifest, check)
  return manifest
}
