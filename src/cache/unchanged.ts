import { failureSummary, sanitizeLine } from '../errors.ts'
import type { Log } from '../log.ts'
import { evaluateStorePath } from '../nix/evaluate.ts'
import type { NixCall } from '../nix/nix.ts'
import { platformOf } from '../nix/system.ts'
import { type Descriptor, parseManifest } from '../oci/document.ts'
import { type LayerFormat, layerFormat } from '../oci/media-type.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, type Reference, type Repository, sameRepository } from '../oci/reference.ts'
import { findImage, missingBlobs, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { type BuildInfo, formatBuildInfo, fromAnnotations, sameBuild } from './build-info.ts'
import type { PreviousImage } from './previous-image.ts'

/** What a build is about to make, and where it could be published already. */
export interface BuildQuestion extends NixCall {
  readonly images: readonly Repository[]
  /** Those to add to what Nix builds. */
  readonly labels: Readonly<Record<string, string>>
  /** Of the layers that would be pushed; nothing where Docker pushes. */
  readonly format: LayerFormat | undefined
  readonly rebuild: boolean
}

/** An image that needs no build. */
export interface UnchangedImage {
  readonly image: PublishedImage
  /** What its manifest says. */
  readonly info: BuildInfo
}

/**
 * Looks whether a build would make what is published already (see `findUnchanged`). Evaluates what the build would make
 * only where an index names store paths at all.
 * @param ready is waited for before that: an evaluation may take long
 * @throws what `ready` does; NixError where Nix is not installed
 */
export async function lookForUnchanged(
  question: BuildQuestion,
  earlier: readonly PreviousImage[],
  registry: Registry,
  log: Log,
  ready: Promise<unknown> = Promise.resolve(),
): Promise<UnchangedImage | undefined> {
  const { system, installable, images, labels, format, rebuild } = question
  if (rebuild) return undefined
  const platform = platformOf(system)
  const indexes = ownIndexes(earlier, images)
  if (!namesStorePath(indexes, platform)) return undefined
  await ready
  log.info(`Evaluating ${installable.name}, to see whether it is published already`)
  const storePath = await evaluateStorePath(question)
  if (storePath === undefined) {
    log.info(
      `Whether ${installable.name} is unchanged can't be told before the build: \`nix eval\` gives no store path`,
    )
    return undefined
  }
  return findUnchanged(registry, indexes, { platform, storePath, labels, format }, log)
}

/** An index published before, with what it says of its images. */
export interface PublishedIndex {
  readonly reference: Reference
  readonly manifests: readonly Descriptor[]
}

/**
 * The indexes that may say which store paths are published. Only those in one of `images` count: an index of somebody
 * else's may claim any store path. To reuse its layers is what runtimes hold against the config when they unpack them;
 * not to build at all is held against nothing.
 */
export function ownIndexes(
  earlier: readonly PreviousImage[],
  images: readonly Repository[],
): readonly PublishedIndex[] {
  return earlier.flatMap(({ reference, content }) => {
    const own = images.some((image) => sameRepository(image, reference.repository))
    return own && content.kind === 'index' ? [{ reference, manifests: content.manifests }] : []
  })
}

/** Whether an index names the store path of an image for this platform, so that it is worth while to evaluate one. */
export function namesStorePath(indexes: readonly PublishedIndex[], platform: Platform): boolean {
  return indexes.some(({ manifests }) =>
    entriesFor(manifests, platform).some(({ annotations = {} }) => fromAnnotations(annotations)),
  )
}

/** The image that a build is to make. */
export interface WantedImage extends Pick<BuildQuestion, 'labels' | 'format'> {
  readonly platform: Platform
  /** As it was evaluated. */
  readonly storePath: string
}

/**
 * The image that was published of a store path: what a build would publish but for the values of labels (see `relabel`),
 * so that there is nothing to build. It must be so beyond doubt:
 * - an index in one of `images` (see `ownIndexes`) names this store path for its one image of the platform, and the image's
 *   own manifest says the same: only a job that may push to the repository could write that;
 * - each label that was added then is added now: what the image had in its place without it is not known;
 * - the registry has that image whole, it is for the platform, and its layers have the format that is asked for, or came with
 *   another when that was asked for as well.
 *
 * Whatever is in doubt is to be built, and that is said in a line. Of several `images` one that has it is enough: merge
 * copies it to the others.
 */
export async function findUnchanged(
  registry: Registry,
  indexes: readonly PublishedIndex[],
  wanted: WantedImage,
  log: Log,
): Promise<UnchangedImage | undefined> {
  for (const { reference, manifests } of indexes) {
    const entries = entriesFor(manifests, wanted.platform)
    const entry = entries.find(({ annotations = {} }) => fromAnnotations(annotations)?.storePath === wanted.storePath)
    if (entry === undefined) continue
    const looked = await look(registry, reference.repository, entry, entries.length, wanted).catch(failureSummary)
    if (typeof looked !== 'string') return looked
    log.info(
      `The image for ${formatPlatform(wanted.platform)} is built, though ${formatReference(reference)} has it: ${looked}`,
    )
  }
  return undefined
}

/** The image, or why it is not to be gone by. */
async function look(
  registry: Registry,
  repository: Repository,
  { digest, annotations = {} }: Descriptor,
  rivals: number,
  { platform, labels, format }: WantedImage,
): Promise<UnchangedImage | string> {
  if (rivals > 1) return `the index has ${rivals} images for that platform`
  const hint = fromAnnotations(annotations)
  const more = hint?.labels.filter((key) => !Object.hasOwn(labels, key)) ?? []
  if (more.length > 0) return `its ${formatKeys(more)} not in \`labels\` now`
  const image = await findImage(registry, repository, digest)
  if (image?.digest !== digest) return 'it lists an image that is not there'
  const info = fromAnnotations(image.own.annotations)
  if (info === undefined) return 'its own manifest does not say what it was built from'
  if (hint === undefined || !sameBuild(info, hint)) return `its own manifest says ${formatBuildInfo(info)}`
  if (!fits(image.platform, platform)) return `the image there is for ${formatPlatform(image.platform)}`
  const missing = await missingBlobs(registry, image)
  if (missing.length > 0) return `of its layers ${missing.length} ${missing.length === 1 ? 'is' : 'are'} not there`
  const { bytes, mediaType } = image.own.manifest
  const manifest = parseManifest(bytes, mediaType, digest)
  const layers = manifest.kind === 'manifest' ? manifest.layers : []
  // Layers that came compressed would be left as they are this time, too.
  const sameSetting = info.compression === format
  if (format !== undefined && !sameSetting && !layers.every((layer) => layerFormat(layer.mediaType) === format))
    return `its layers are not compressed by ${format}`
  return { image, info }
}

function entriesFor(manifests: readonly Descriptor[], wanted: Platform): readonly Descriptor[] {
  return manifests.filter(({ platform }) => platform !== undefined && fits(platform, wanted))
}

function formatKeys(keys: readonly string[]): string {
  return `${keys.length === 1 ? 'label' : 'labels'} ${sanitizeLine(keys.join(', '))} ${keys.length === 1 ? 'is' : 'are'}`
}
