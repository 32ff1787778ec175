import { fillPlaceholders, InputError } from '../inputs/field.ts'
import type { BuildInputs } from '../inputs/inputs.ts'
import { platformOf } from '../nix/system.ts'
import { isAttestation, parseManifest } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import { fits, type Platform, printPlatform } from '../oci/platform.ts'
import { printReference } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { readStored, type TagPlace } from '../registry/tags.ts'

/** The tag that a build gives its image; empty: none. */
export interface ChosenTag {
  readonly tag: string
  /** Why there is none, although the inputs name one. */
  readonly warning?: string
}

type TagInputs = Pick<BuildInputs, 'tag' | 'system' | 'variant' | 'jobTotal' | 'pushWith'>

/**
 * Chooses the tag of a build. All jobs of a matrix have the same `tag`, so one that does not name the system would point
 * to the image of the job that ends last.
 * @param revision the commit that is built, or empty if it is unknown
 * @throws InputError if a placeholder can't be filled, or if Docker would have to push such a tag
 */
export function chooseTag(inputs: TagInputs, revision: string): ChosenTag {
  const { tag: pattern, system, variant, jobTotal = 1, pushWith } = inputs
  const tag = fillPlaceholders('tag', pattern, { revision, variant, system })
  if (tag === '' || jobTotal === 1 || pattern.includes('{system}') || namesPlatform(tag, system)) return { tag }
  const what = `The ${jobTotal} jobs of this matrix would all write the tag "${tag}"`
  const help = adviseOwnTag(pattern)
  if (pushWith === 'docker') throw new InputError({ what, help })
  return { tag: '', warning: `${what}, so this build pushes its image without a tag. ${help}` }
}

function adviseOwnTag(pattern: string): string {
  return `Give each system its own tag, or none:
  tag: ${pattern}-{system}
A step with \`mode: merge\` publishes the tags that users pull: its input \`tags\`.`
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
 * Checks that a build does not replace an index that has other platforms by the image of one.
 * @throws InputError if it would, RegistryError if the registry does not say what the tag points to
 */
export async function checkTag(registry: Registry, place: TagPlace, platform: Platform): Promise<void> {
  if ((await registry.findDigest(place.repository, place.tag)) === undefined) return
  const stored = await readStored(registry, place)
  if (stored !== undefined) refuseIndex(stored, place, platform)
}

/** @throws InputError if a manifest is an index of other platforms than a build's own */
export function refuseIndex(stored: StoredManifest, place: TagPlace, platform: Platform): void {
  const platforms = platformsOf(stored, place)
  if (platforms.every((one) => fits(one, platform))) return
  throw new InputError({
    what: `The build for ${printPlatform(platform)} can't write the tag ${printReference(place)}: it points to an index of ${platforms.map(printPlatform).join(', ')}`,
    help: adviseOwnTag(place.tag),
  })
}

/** Returns the platforms of an index; none for anything else. */
function platformsOf({ bytes, mediaType }: StoredManifest, place: TagPlace): readonly Platform[] {
  try {
    const content = parseManifest(bytes, mediaType, printReference(place))
    if (content.kind === 'manifest') return []
    return content.manifests.filter((one) => !isAttestation(one)).flatMap(({ platform }) => platform ?? [])
  } catch (error) {
    if (error instanceof FormatError) return []
    throw error
  }
}
