import { FormatError, InputError } from '../errors.ts'
import type { BuildInputs } from '../inputs/build.ts'
import { fillPlaceholders } from '../inputs/tags.ts'
import { platformOf } from '../nix/system.ts'
import { isAttestation, isIndexType, parseManifest } from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, type Repository } from '../oci/reference.ts'
import { findImage } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { putTags, type RepositoryTag, readStored } from '../registry/tags.ts'

/** The tag of a build's image. */
export interface ChosenTag {
  /** Empty to push by digest alone. */
  readonly tag: string
  /** Explains why the tag of the inputs is not used. */
  readonly warning?: string
}

type TagInputs = Pick<BuildInputs, 'tag' | 'system' | 'variant' | 'jobTotal' | 'pushWith'>

/**
 * Chooses the tag of a build. All jobs of a matrix have the same `tag`: unless it names the system, it would point to the
 * image of the job that ends last.
 * @param revision the commit that is built, empty if unknown
 * @throws InputError if a placeholder can't be filled, or if Docker would push a tag that the jobs share
 */
export function chooseTag(inputs: TagInputs, revision: string): ChosenTag {
  const { tag: pattern, system, variant, jobTotal = 1, pushWith } = inputs
  const tag = fillPlaceholders('tag', pattern, { revision, variant, system })
  if (tag === '' || jobTotal === 1 || pattern.includes('{system}') || namesPlatform(tag, system)) return { tag }
  const message = `The tag "${tag}" does not name the system, so the ${jobTotal} jobs of this matrix may overwrite each other's image`
  const hint = adviseOwnTag(pattern)
  if (pushWith === 'docker') throw new InputError({ message, hint })
  return { tag: '', warning: `${message}. This build pushes its image without a tag. ${hint}` }
}

function adviseOwnTag(pattern: string): string {
  return `Give each system its own tag, or none:
  tag: ${pattern}-{system}
A step with \`mode: merge\` publishes the tags that users pull, from its input \`tags\`.`
}

/** Reports whether a tag names the platform of a system: `latest-arm64`, `v1-aarch64`. */
function namesPlatform(tag: string, system: string): boolean {
  const { architecture, variant = '' } = platformOf(system)
  const names = [system, system.replace(/-linux$/, ''), architecture, `${architecture}${variant}`]
  return names.some((name) =>
    `-${tag}-`
      .toLowerCase()
      .replaceAll(/[._]/g, '-')
      .includes(`-${name.replaceAll('_', '-')}-`),
  )
}

/**
 * Checks that a build does not replace the image of another platform, or an index that has other platforms.
 * @throws InputError if it would, RegistryError if the registry does not say what the tag points to
 */
export async function checkTag(registry: Registry, place: RepositoryTag, platform: Platform): Promise<void> {
  if ((await registry.findDigest(place.repository, place.tag)) === undefined) return
  const stored = await readStored(registry, place)
  if (stored !== undefined) await checkReplaced(registry, stored, place, platform)
}

/** Like `checkTag`, for a manifest that was read already. */
export async function checkReplaced(
  registry: Registry,
  stored: StoredManifest,
  place: RepositoryTag,
  platform: Platform,
): Promise<void> {
  const platforms = await platformsOf(registry, stored, place)
  if (platforms?.every((one) => one !== undefined && fits(one, platform))) return
  const content = platforms === undefined ? "an index that can't be read" : describePlatforms(platforms, stored)
  throw new InputError({
    message: `The build for ${formatPlatform(platform)} can't write the tag ${formatReference(place)}: it points to ${content}`,
    hint: adviseOwnTag(place.tag),
  })
}

/**
 * Points the tag of a build to an image that every repository has.
 * @param tag empty for none
 * @throws InputError like `checkTag`, TagError that says where the tag is now
 */
export async function putImageTag(
  registry: Registry,
  repositories: readonly Repository[],
  tag: string,
  image: StoredManifest,
  platform: Platform,
): Promise<void> {
  if (tag === '') return
  await putTags(registry, repositories, tag, image, (stored, place) => checkReplaced(registry, stored, place, platform))
}

function describePlatforms(platforms: readonly (Platform | undefined)[], { mediaType }: StoredManifest): string {
  const names = platforms.map((one) => (one ? formatPlatform(one) : 'an unknown platform')).join(', ')
  return isIndexType(mediaType) ? `an index of ${names}` : `the image for ${names}`
}

/**
 * Returns the platforms of an image or an index: none for anything that is not an image, which a tag may replace,
 * undefined for an index that can't be read.
 */
async function platformsOf(
  registry: Registry,
  { bytes, digest, mediaType }: StoredManifest,
  place: RepositoryTag,
): Promise<readonly (Platform | undefined)[] | undefined> {
  try {
    const content = parseManifest(bytes, mediaType, formatReference(place))
    if (content.kind === 'index')
      return content.manifests.filter((one) => !isAttestation(one)).map(({ platform }) => platform)
    const image = await findImage(registry, place.repository, digest)
    return image === undefined ? [] : [image.platform]
  } catch (error) {
    if (error instanceof RegistryError && error.problem === 'not-found') return []
    if (!(error instanceof FormatError)) throw error
    return isIndexType(mediaType) ? undefined : []
  }
}
