import { firstLine } from '../errors.ts'
import { storePathsIn } from '../image/layered-config.ts'
import type { Log } from '../log.ts'
import { type ImageConfig, type Index, parseConfig, parseManifest } from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { type Digest, formatReference, type Reference, type TagReference } from '../oci/reference.ts'
import type { PublishedTag } from '../publish/published.ts'
import type { Member } from '../publish/verify.ts'
import { fetchImage, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { compareStorePaths, type PackageChanges } from './packages.ts'

/** The changes of an image against the published one, for each platform that both have. */
export interface ImageChanges {
  /** The published image. */
  readonly against: Reference
  readonly platforms: readonly PlatformChanges[]
}

export interface PlatformChanges {
  readonly system: string
  readonly platform: Platform
  /** Absent if an image does not name its store paths. */
  readonly packages?: PackageChanges
  /** The compressed size of all layers, in bytes. Absent for an image that is not compressed yet. */
  readonly size?: { readonly before: number; readonly after: number }
}

/**
 * Compares the images of a merge with those of the first tag that exists. Logs and skips platforms that can't be read.
 * @param published the tags before the merge
 * @param index the digest of the merge's index
 * @returns undefined if no tag exists, or if the first one points to the index already
 */
export async function compareMembers(
  registry: Registry,
  members: readonly Member[],
  published: readonly PublishedTag[],
  index: Digest,
  log: Log,
): Promise<ImageChanges | undefined> {
  const before = published.find(({ stored }) => stored !== undefined)
  if (before?.stored === undefined || before.stored.digest === index) return undefined
  const { tag, stored } = before
  const platforms = members.map(async ({ system, platform, image }) => {
    const listed = before.index === undefined ? stored.digest : entryFor(before.index, platform)
    if (listed === undefined) return []
    const none = { added: [], removed: [], updated: [], rebuilt: 0 }
    const after = compressedSize(image)
    if (listed === image.digest) return [{ system, platform, packages: none, size: { before: after, after } }]
    const old = await readComparable(registry, tag, listed, platform, log)
    if (old === undefined) return []
    const paths = storePathsIn(parseConfig(image.configBytes, 'the config'))
    const packages = packageChanges(old.paths, paths, tag, platform, log)
    return [{ system, platform, ...(packages && { packages }), size: { before: old.size, after } }]
  })
  return { against: { ...tag, digest: stored.digest }, platforms: (await Promise.all(platforms)).flat() }
}

/** A published image to compare a build with. */
export interface ComparableImage {
  readonly reference: Reference
  readonly paths: readonly string[] | undefined
  /** The compressed size of all layers, in bytes. */
  readonly size: number
}

/**
 * Reads the first image that exists for a platform, to compare a build with it. Logs why one can't be read: a pull
 * request from a fork has no login, for example.
 */
export async function findComparable(
  registry: Registry,
  references: readonly Reference[],
  platform: Platform,
  log: Log,
): Promise<ComparableImage | undefined> {
  for (const reference of references) {
    try {
      const { repository, tag, digest } = reference
      const stored = await registry.getManifest(repository, digest ?? tag ?? 'latest')
      if (stored === undefined) continue
      const parsed = parseManifest(stored.bytes, stored.mediaType, formatReference(reference))
      const listed = parsed.kind === 'manifest' ? stored.digest : entryFor(parsed, platform)
      const image = listed && (await readComparable(registry, reference, listed, platform, log))
      if (image !== undefined) return { reference, ...image }
    } catch (error) {
      log.info(`Can't compare the image with ${formatReference(reference)}: ${firstLine(error)}`)
    }
  }
  return undefined
}

/** Compares an image that was built, but not compressed, with a published one. */
export function compareBuilt(
  { reference, paths }: ComparableImage,
  { system, platform, config }: { readonly system: string; readonly platform: Platform; readonly config: ImageConfig },
  log: Log,
): ImageChanges {
  const packages = packageChanges(paths, storePathsIn(config), reference, platform, log)
  return { against: reference, platforms: packages ? [{ system, platform, packages }] : [] }
}

async function readComparable(
  registry: Registry,
  reference: Reference | TagReference,
  digest: Digest,
  platform: Platform,
  log: Log,
): Promise<Omit<ComparableImage, 'reference'> | undefined> {
  try {
    const image = await fetchImage(registry, reference.repository, digest)
    // An image without an index may be for another platform.
    if (!fits(image.platform, platform)) return undefined
    return { paths: storePathsIn(parseConfig(image.configBytes, 'its config')), size: compressedSize(image) }
  } catch (error) {
    const name = `${formatPlatform(platform)} with ${formatReference(reference)}`
    log.info(`Can't compare the image for ${name}: ${firstLine(error)}`)
    return undefined
  }
}

function packageChanges(
  before: readonly string[] | undefined,
  after: readonly string[] | undefined,
  reference: Reference | TagReference,
  platform: Platform,
  log: Log,
): PackageChanges | undefined {
  if (before !== undefined && after !== undefined) return compareStorePaths(before, after)
  const which = before === undefined ? formatReference(reference) : 'the new image'
  log.info(`Can't compare the packages for ${formatPlatform(platform)}: the config of ${which} names no store paths`)
  return undefined
}

function entryFor({ manifests }: Index, wanted: Platform): Digest | undefined {
  return manifests.find(({ platform }) => platform !== undefined && fits(platform, wanted))?.digest
}

/** Returns the compressed size of all layers, in bytes. */
export function compressedSize({ own }: PublishedImage): number {
  return own.blobs.slice(1).reduce((sum, { size }) => sum + size, 0)
}
