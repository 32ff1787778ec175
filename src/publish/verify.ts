import { type BuildInfo, formatBuildInfo, fromAnnotations, sameBuild } from '../cache/build-info.ts'
import { isStorePath } from '../nix/store-path.ts'
import { platformOf, systemOf } from '../nix/system.ts'
import { fits, formatPlatform, type Platform, platformKey } from '../oci/platform.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import type { DigestRecord } from '../record/record.ts'
import { absent, findImage, missingBlobs, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { settleAll } from '../settle-all.ts'
import type { Candidate } from './collect.ts'
import { MergeError } from './merge-error.ts'

/** A candidate that a registry has, whole, and that is what its record says. */
export interface Member {
  readonly system: string
  readonly platform: Platform
  readonly image: PublishedImage
  /** What the image's own manifest says; absent where it says nothing. */
  readonly info?: BuildInfo | undefined
  /** Where it is to be published and is not yet. */
  readonly absentFrom: readonly Repository[]
}

/**
 * Holds what was handed over against what the registries have: the image, each of its blobs, its architecture.
 * @throws RegistryError where nothing has it, MergeError where it is not whole or something else
 */
export async function verify(candidate: Candidate, images: readonly Repository[], registry: Registry): Promise<Member> {
  // A registry may take seconds until it shows what a build has pushed.
  const home =
    images.length === 1 ? images[0] : images.find((image) => formatRepository(image) === candidate.record?.image)
  const lookAtAll = (isHome: (image: Repository) => boolean) =>
    settleAll(images.map((image) => look(candidate, image, registry, isHome(image))))
  const first = await lookAtAll((image) => image === home)
  // A bare digest may be in any of them.
  const found = home !== undefined || first.some(isWhole) ? first : await lookAtAll(() => true)
  // Where nothing has it whole, what one of them lacks says more than that it lacks something.
  const problem = found.find(({ lacks }) => lacks !== undefined)?.lacks
  const whole = found.find((one, at) => isWhole(one) && images[at] === home) ?? found.find(isWhole)
  if (whole?.image === undefined) throw problem ?? incomplete(candidate, images, found)
  const absentFrom = images.filter((_, at) => found[at]?.image === undefined || found[at].missing.length > 0)
  return { ...describe(candidate, whole.image), image: whole.image, absentFrom }
}

function isWhole({ image, missing }: Look): boolean {
  return image !== undefined && missing.length === 0
}

interface Look {
  readonly image?: PublishedImage | undefined
  readonly missing: readonly string[]
  /** Of a document that is not there, though the manifest that names it is. */
  readonly lacks?: RegistryError
}

async function look(
  { digest }: Candidate,
  repository: Repository,
  registry: Registry,
  written: boolean,
): Promise<Look> {
  try {
    const image = await findImage(registry, repository, digest, { written })
    return { image, missing: image === undefined ? [] : await missingBlobs(registry, image, { written }) }
  } catch (error) {
    if (error instanceof RegistryError && error.problem === 'not-found') return { missing: [], lacks: error }
    throw error
  }
}

function incomplete({ digest, record }: Candidate, images: readonly Repository[], found: readonly Look[]): Error {
  const half = found.find(({ image }) => image !== undefined)
  const [first] = images
  const home = images.find((image) => formatRepository(image) === record?.image) ?? first
  if (home === undefined) throw new Error('there is no image, though inputs have one at least')
  if (half?.image === undefined) return absent(home, digest, `${formatRepository(home)}@${digest}`)
  return new MergeError({
    message: `${formatRepository(half.image.repository)}@${digest} is incomplete: the registry lacks ${half.missing.length} of its layers`,
    detail: half.missing.join('\n'),
    hint: 'Nothing was published. The layers are not visible yet, or were deleted. Run this job again. If that does not help, run the build of this system again, at last with `reuse-from: ""`, so that it looks for each layer.',
  })
}

function describe({ digest, record, origin }: Candidate, image: PublishedImage): Omit<Member, 'image' | 'absentFrom'> {
  const name = `${formatRepository(image.repository)}@${digest}`
  const system = record?.system ?? systemOf(image.platform)
  if (system === undefined)
    throw new MergeError({
      message: `${name} is for ${formatPlatform(image.platform)}, which is no system of Nix's`,
      detail: origin,
    })
  const wanted = platformOf(system)
  if (!fits(image.platform, wanted))
    throw new MergeError({
      message: `${name} is not what its record says`,
      detail: `${origin} says ${system}, which is ${formatPlatform(wanted)}, and the image is for ${formatPlatform(image.platform)}`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const { size, mediaType } = image
  if (
    record !== undefined &&
    record.digest === image.digest &&
    (record.size !== size || record.mediaType !== mediaType)
  )
    throw new MergeError({
      message: `${name} is not what its record says`,
      detail: `${origin} says that its manifest has ${record.size} bytes of ${record.mediaType}, and it has ${size} bytes of ${mediaType}`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const info = fromAnnotations(image.own.annotations)
  const claimed = record && buildInfoOf(record)
  if (info && claimed && !sameBuild(info, claimed))
    throw new MergeError({
      message: `${name} is not what its record says`,
      detail: `${origin} says that it was built from ${formatBuildInfo(claimed)}\nits manifest says ${formatBuildInfo(info)}`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const variant = image.platform.variant ?? wanted.variant
  const { os, architecture } = wanted
  return {
    system,
    platform: { os, architecture, ...(variant !== undefined && { variant }) },
    info,
  }
}

/** Returns undefined for a record that does not say which labels were added: Docker wrote the manifest. */
function buildInfoOf({ storePath, labels, compression }: DigestRecord): BuildInfo | undefined {
  return labels && isStorePath(storePath) ? { storePath, labels, compression } : undefined
}

/**
 * Holds all members together against what is to be published.
 * @throws MergeError where two are for one platform, or they are not for the systems asked for
 */
export function checkMembers(
  members: readonly Member[],
  images: readonly Repository[],
  systems: readonly string[],
): void {
  const name = images.map(formatRepository).join(', ')
  const there = members.map(({ system }) => system)
  for (const rivals of Map.groupBy(members, ({ platform }) => platformKey(platform)).values()) {
    const [first, ...more] = rivals
    if (first === undefined || more.length === 0) continue
    throw new MergeError({
      message: `There are ${rivals.length} images of ${name} for ${formatPlatform(first.platform)}, and an index has one`,
      detail: rivals
        .map(
          ({ image, platform: own }) =>
            `${formatRepository(image.repository)}@${image.digest} (${formatPlatform(own)})`,
        )
        .join('\n'),
      hint: 'No tag has moved. Hand over one digest for each platform, and publish images of different content by a merge each.',
    })
  }
  if (systems.length === 0) return
  const missing = systems.filter((system) => !there.includes(system))
  const extra = there.filter((system) => !systems.includes(system))
  if (missing.length > 0)
    throw new MergeError({
      message: `${name} lacks ${missing.join(', ')}, which \`systems\` asks for`,
      detail: `there is ${there.join(', ')}`,
      hint: 'Look at the build job of each missing system: it failed, was skipped, or pushed to another `image`. No tag has moved.',
    })
  if (extra.length > 0)
    throw new MergeError({
      message: `${name} has ${extra.join(', ')}, which \`systems\` does not list`,
      hint: 'Add to `systems` what is to be published, or leave it out to publish all that was built. No tag has moved.',
    })
}
