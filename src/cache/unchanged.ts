import { failureSummary } from '../errors.ts'
import { namesAllStorePaths } from '../image/layered-config.ts'
import type { Log } from '../log.ts'
import type { NixCall } from '../nix/setup.ts'
import { platformOf } from '../nix/system.ts'
import { type Descriptor, type LayerFormat, layerFormat, parseConfig, parseManifest } from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, type Reference, type Repository, sameRepository } from '../oci/reference.ts'
import { findImage, missingBlobs, type PublishedImage, withAttestations } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { findStatement } from '../sbom/attestation.ts'
import { sanitizeLine } from '../text.ts'
import { type BuildInfo, formatBuildInfo, fromAnnotations, hasUnknownSbom, sameBuild } from './build-info.ts'
import type { PreviousImage } from './previous-image.ts'

/** The image that a build would produce, and where it may already be published. */
export interface BuildQuestion extends Omit<NixCall, 'setup'> {
  readonly images: readonly Repository[]
  /** Added to the image that Nix builds. */
  readonly labels: Readonly<Record<string, string>>
  /** The compression of layers. Undefined if Docker pushes. */
  readonly format: LayerFormat | undefined
  readonly rebuild: boolean
  /** Whether the image must have an SBOM, if its content is known. */
  readonly sbom: boolean
}

/** A published image that a build would produce again. */
export interface UnchangedImage {
  readonly image: PublishedImage
  /** From the annotations of its manifest. */
  readonly info: BuildInfo
}

/**
 * Finds the published image that a build would produce again (see `findUnchanged`).
 * @param storePath undefined if only the build determines it
 */
export async function lookForUnchanged(
  question: BuildQuestion,
  earlier: readonly PreviousImage[],
  registry: Registry,
  log: Log,
  storePath: string | undefined,
): Promise<UnchangedImage | undefined> {
  const { system, installable, images, labels, format, rebuild, sbom } = question
  if (rebuild) return undefined
  const platform = platformOf(system)
  const indexes = ownIndexes(earlier, images)
  if (!namesStorePath(indexes, platform)) return undefined
  if (storePath === undefined) {
    log.info(
      `Can't check whether ${installable.name} is already published: its store path is not known before the build`,
    )
    return undefined
  }
  return findUnchanged(registry, indexes, { platform, storePath, labels, format, sbom }, log)
}

/** A published index. */
export interface PublishedIndex {
  readonly reference: Reference
  readonly manifests: readonly Descriptor[]
}

/**
 * Returns the published indexes in the repositories of `images`. Indexes in other repositories are not trusted: they may
 * claim any store path. Their layers can be reused, because runtimes verify layers against the config; nothing verifies
 * that a build can be skipped.
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

/** Reports whether an index names the store path of an image for this platform. */
export function namesStorePath(indexes: readonly PublishedIndex[], platform: Platform): boolean {
  return indexes.some(({ manifests }) =>
    entriesFor(manifests, platform).some(({ annotations = {} }) => fromAnnotations(annotations)),
  )
}

/** The image that a build would produce. */
export interface WantedImage extends Pick<BuildQuestion, 'labels' | 'format' | 'sbom'> {
  readonly platform: Platform
  /** From the evaluation. */
  readonly storePath: string
}

/**
 * Finds the image that was published from a store path. It equals what a build would publish, except for the values of
 * labels (see `relabel`). All of these must be true:
 * - An index in one of `images` (see `ownIndexes`) names this store path for its only image of the platform, and so does the
 *   manifest of that image. Only a job that may push to the repository can write that.
 * - Each label that was added then is also added now. The value that a label replaced is unknown.
 * - The registry has the complete image, it is for the platform, and its layers have the requested compression, or kept
 *   another one when the same compression was requested.
 *
 * Otherwise, logs why the image is built. One of several `images` is enough: merge copies the image to the others.
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
    const result = await checkUnchanged(registry, reference.repository, entry, manifests, wanted).catch(failureSummary)
    if (typeof result !== 'string') return result
    log.info(
      `Building the image for ${formatPlatform(wanted.platform)}, although ${formatReference(reference)} names its store path: ${result}`,
    )
  }
  return undefined
}

/** Returns the image, or the reason to build it. */
async function checkUnchanged(
  registry: Registry,
  repository: Repository,
  { digest, annotations = {} }: Descriptor,
  manifests: readonly Descriptor[],
  wanted: WantedImage,
): Promise<UnchangedImage | string> {
  const { platform, labels, format } = wanted
  const count = entriesFor(manifests, platform).length
  if (count > 1) return `the index has ${count} images for this platform`
  const hint = fromAnnotations(annotations)
  const more = hint?.labels.filter((key) => !Object.hasOwn(labels, key)) ?? []
  if (more.length > 0) return `its ${formatKeys(more)} no longer in \`labels\``
  const found = await findImage(registry, repository, digest)
  if (found?.digest !== digest) return 'the image is missing from the registry'
  const image = wanted.sbom ? await withAttestations(registry, found, manifests) : found
  const info = fromAnnotations(image.own.annotations)
  if (info === undefined) return 'the manifest of the image does not name a store path'
  if (hint === undefined || !sameBuild(info, hint)) return `the manifest of the image names ${formatBuildInfo(info)}`
  if (!fits(image.platform, platform)) return `the image is for ${formatPlatform(image.platform)}`
  const missing = await missingBlobs(registry, image)
  if (missing.length > 0)
    return `${missing.length} of its layers ${missing.length === 1 ? 'is' : 'are'} missing from the registry`
  // Layers that were compressed before the build would keep their compression again.
  if (format !== undefined && info.compression !== format && !hasOnlyLayersIn(format, image))
    return `its layers are not compressed with ${format}`
  return lacksSbom(image, annotations, wanted) ? 'it has no SBOM yet' : { image, info }
}

/** Reports whether an image has no SBOM, and a build would certainly attach one. */
function lacksSbom(
  { digest, attestations, configBytes }: PublishedImage,
  annotations: Readonly<Record<string, string>>,
  { sbom, format }: WantedImage,
): boolean {
  if (!sbom || hasUnknownSbom(annotations)) return false
  if (attestations.some(({ manifest }) => findStatement(manifest.bytes, digest) !== undefined)) return false
  // Docker attaches none. The names of a layer that a build reuses are known only from the config.
  return format !== undefined && namesAllStorePaths(parseConfig(configBytes, 'its config'))
}

function hasOnlyLayersIn(format: LayerFormat, { digest, own: { manifest } }: PublishedImage): boolean {
  const parsed = parseManifest(manifest.bytes, manifest.mediaType, digest)
  return parsed.kind === 'index' || parsed.layers.every((layer) => layerFormat(layer.mediaType) === format)
}

function entriesFor(manifests: readonly Descriptor[], wanted: Platform): readonly Descriptor[] {
  return manifests.filter(({ platform }) => platform !== undefined && fits(platform, wanted))
}

function formatKeys(keys: readonly string[]): string {
  return `${keys.length === 1 ? 'label' : 'labels'} ${sanitizeLine(keys.join(', '))} ${keys.length === 1 ? 'is' : 'are'}`
}
