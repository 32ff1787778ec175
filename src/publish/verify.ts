import { type BuildInfo, formatBuildInfo, fromAnnotations, sameBuild } from '../cache/build-info.ts'
import { MergeError } from '../errors.ts'
import { isStorePath } from '../nix/store-path.ts'
import { platformOf, systemOf } from '../nix/system.ts'
import { byPlatform, fits, formatPlatform, NO_PLATFORM, type Platform, platformKey } from '../oci/platform.ts'
import { type Digest, formatReference, formatRepository, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import type { Candidate } from '../record/collect.ts'
import type { DigestRecord } from '../record/record.ts'
import { findImage, missingBlobs, notInRegistry, type PublishedImage, withAttestations } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { attestationAnnotations, findStatement } from '../sbom/attestation.ts'

/** A verified candidate: a registry has all of it, and it matches its record. */
export interface Member {
  readonly system: string
  readonly platform: Platform
  readonly image: PublishedImage
  /** From the annotations of the image's manifest. */
  readonly info?: BuildInfo | undefined
  /** The record that its build handed over. Absent for a bare digest. */
  readonly record?: DigestRecord | undefined
  /** The repositories to publish to that lack the image or some of its layers. */
  readonly absentFrom: readonly Repository[]
}

/** The inputs that say what to publish. */
export interface VerifySettings {
  readonly images: readonly Repository[]
  /** The systems that the image must have. Empty: those of the candidates. */
  readonly systems: readonly string[]
}

/**
 * Verifies the images of an index at the registries, and that together they are what is to be published.
 * @returns the members of the index, sorted by platform
 * @throws RegistryError, MergeError
 */
export async function verifyCandidates(
  candidates: readonly Candidate[],
  { images, systems }: VerifySettings,
  registry: Registry,
): Promise<readonly Member[]> {
  const verified = await settleAll(candidates.map((candidate) => verifyCandidate(candidate, images, registry)))
  const members = withoutDuplicates(verified)
  checkMembers(members, images, systems)
  const sortKey = ({ platform, image: { digest } }: Member) => ({ platform, digest })
  return members.toSorted((one, other) => byPlatform(sortKey(one), sortKey(other)))
}

/**
 * Removes duplicates of the same image: one digest may be of the image and another of an index around it, which adds its
 * attestations; Docker may have compressed the image differently for each repository.
 */
function withoutDuplicates(members: readonly Member[]): readonly Member[] {
  const fullestLast = members.toSorted((one, other) => one.image.attestations.length - other.image.attestations.length)
  const byDigest = new Map(fullestLast.map((member) => [`${member.system} ${member.image.digest}`, member]))
  const byContent = Map.groupBy(byDigest.values(), ({ system, image }) => `${system} ${image.configDigest}`)
  return [...byContent.values()].flatMap((same) => (hasOnePerRepository(same) ? same.slice(0, 1) : same))
}

function hasOnePerRepository(members: readonly Member[]): boolean {
  return new Set(members.map(({ image }) => formatRepository(image.repository))).size === members.length
}

/**
 * Checks that a registry has the image with all of its blobs, and that it matches its record.
 * @throws RegistryError if no registry has it, MergeError if it is incomplete or differs from its record
 */
async function verifyCandidate(
  candidate: Candidate,
  images: readonly Repository[],
  registry: Registry,
): Promise<Member> {
  // The repository that the build pushed to. A registry may need some seconds to return what was pushed.
  const home =
    images.length === 1 ? images[0] : images.find((image) => formatRepository(image) === candidate.record?.image)
  const findIn = (isHome: (image: Repository) => boolean) =>
    settleAll(images.map((image) => findCandidate(candidate, image, registry, isHome(image))))
  const first = await findIn((image) => image === home)
  // Any repository may be the one that a bare digest was pushed to.
  const found = home !== undefined || first.some(isComplete) ? first : await findIn(() => true)
  const problem = found.find(({ notFound }) => notFound !== undefined)?.notFound
  const complete = found.find((one, at) => isComplete(one) && images[at] === home) ?? found.find(isComplete)
  if (complete?.image === undefined) throw problem ?? incompleteError(candidate, images, found)
  const absentFrom = images.filter((_, at) => found[at]?.image === undefined || found[at].missing.length > 0)
  return { ...describeMember(candidate, complete.image), image: complete.image, absentFrom }
}

function isComplete({ image, missing }: Finding): boolean {
  return image !== undefined && missing.length === 0
}

/** The parts of a candidate that a repository has. */
interface Finding {
  readonly image?: PublishedImage | undefined
  /** The blobs that the repository lacks. */
  readonly missing: readonly string[]
  /** The error for a document that is missing although the manifest names it. */
  readonly notFound?: RegistryError
}

async function findCandidate(
  { digest, record }: Candidate,
  repository: Repository,
  registry: Registry,
  written: boolean,
): Promise<Finding> {
  try {
    const found = await findImage(registry, repository, digest, { retryNotFound: written })
    const image = found && record?.sbom ? await withSbom(registry, found, record.sbom, written) : found
    return {
      image,
      missing: image === undefined ? [] : await missingBlobs(registry, image, { retryNotFound: written }),
    }
  } catch (error) {
    if (error instanceof RegistryError && error.problem === 'not-found') return { missing: [], notFound: error }
    throw error
  }
}

/**
 * Returns an image with the SBOM that its record names.
 * @throws RegistryError if the registry lacks it, MergeError if it is for another image
 */
async function withSbom(
  registry: Registry,
  image: PublishedImage,
  sbom: Digest,
  written: boolean,
): Promise<PublishedImage> {
  if (image.attestations.some(({ descriptor }) => descriptor.digest === sbom)) return image
  const { repository } = image
  const options = { retryNotFound: written }
  const stored = await registry.getManifest(repository, sbom, options)
  if (stored === undefined) throw notInRegistry(repository, sbom, `the SBOM of ${formatReference(image)}`)
  if (findStatement(stored.bytes, image.digest) === undefined)
    throw new MergeError({
      message: `${formatReference(image)} does not match its record`,
      detail: `the record says that ${sbom} has the SBOM of the image, but it does not`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const listed = {
    mediaType: stored.mediaType,
    digest: sbom,
    size: stored.bytes.length,
    platform: NO_PLATFORM,
    annotations: attestationAnnotations(image.digest),
  }
  return withAttestations(registry, image, [listed], options)
}

function incompleteError(
  { digest, record }: Candidate,
  images: readonly Repository[],
  found: readonly Finding[],
): Error {
  const partial = found.find(({ image }) => image !== undefined)
  const [first] = images
  const home = images.find((image) => formatRepository(image) === record?.image) ?? first
  if (home === undefined) throw new Error('inputs name at least one image')
  if (partial?.image === undefined) return notInRegistry(home, digest, `${formatRepository(home)}@${digest}`)
  return new MergeError({
    message: `${formatRepository(partial.image.repository)}@${digest} is incomplete: ${partial.missing.length} of its layers ${partial.missing.length === 1 ? 'is' : 'are'} missing from the registry`,
    detail: partial.missing.join('\n'),
    hint: 'Nothing was published. The registry may not return the layers yet, or they were deleted. Run this job again. If that does not help, run the build of this system again. If it still fails, set `reuse-from: ""` in the build so that it checks every layer.',
  })
}

/** @throws MergeError if the image differs from its record */
function describeMember(
  { digest, record, origin }: Candidate,
  image: PublishedImage,
): Omit<Member, 'image' | 'absentFrom'> {
  const name = `${formatRepository(image.repository)}@${digest}`
  const system = record?.system ?? systemOf(image.platform)
  if (system === undefined)
    throw new MergeError({
      message: `${name} is for ${formatPlatform(image.platform)}, which is not a Nix system`,
      detail: origin,
    })
  const wanted = platformOf(system)
  if (!fits(image.platform, wanted))
    throw new MergeError({
      message: `${name} does not match its record`,
      detail: `${origin} says ${system} (${formatPlatform(wanted)}), but the image is for ${formatPlatform(image.platform)}`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const { size, mediaType } = image
  if (
    record !== undefined &&
    record.digest === image.digest &&
    (record.size !== size || record.mediaType !== mediaType)
  )
    throw new MergeError({
      message: `${name} does not match its record`,
      detail: `${origin} says that its manifest has ${record.size} bytes of type ${record.mediaType}, but it has ${size} bytes of type ${mediaType}`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const info = fromAnnotations(image.own.annotations)
  const claimed = record && buildInfoOf(record)
  if (info && claimed && !sameBuild(info, claimed))
    throw new MergeError({
      message: `${name} does not match its record`,
      detail: `${origin} says that it was built from ${formatBuildInfo(claimed)}\nbut its manifest says ${formatBuildInfo(info)}`,
      hint: 'Nothing was published. Run the build of this system again.',
    })
  const variant = image.platform.variant ?? wanted.variant
  const { os, architecture } = wanted
  return {
    system,
    platform: { os, architecture, ...(variant !== undefined && { variant }) },
    info,
    ...(record && { record }),
  }
}

/** Returns undefined for a record without labels: Docker wrote that manifest. */
function buildInfoOf({ storePath, labels, compression }: DigestRecord): BuildInfo | undefined {
  return labels && isStorePath(storePath) ? { storePath, labels, compression } : undefined
}

/** @throws MergeError if two members are for the same platform, or if they are not for the systems in the inputs */
function checkMembers(members: readonly Member[], images: readonly Repository[], systems: readonly string[]): void {
  const name = images.map(formatRepository).join(', ')
  const built = members.map(({ system }) => system)
  for (const duplicates of Map.groupBy(members, ({ platform }) => platformKey(platform)).values()) {
    const [first, ...more] = duplicates
    if (first === undefined || more.length === 0) continue
    throw new MergeError({
      message: `There are ${duplicates.length} images of ${name} for ${formatPlatform(first.platform)}, but an index can have only one`,
      detail: duplicates
        .map(
          ({ image, platform: own }) =>
            `${formatRepository(image.repository)}@${image.digest} (${formatPlatform(own)})`,
        )
        .join('\n'),
      hint: 'No tag has moved. Hand over one digest for each platform. Use a separate merge for each image with different content.',
    })
  }
  if (systems.length === 0) return
  const missing = systems.filter((system) => !built.includes(system))
  const extra = built.filter((system) => !systems.includes(system))
  if (missing.length > 0)
    throw new MergeError({
      message: `${name} has no image for ${missing.join(', ')}, which \`systems\` lists`,
      detail: `it has ${built.join(', ')}`,
      hint: 'No tag has moved. Check the build job of each missing system: it failed, was skipped, or pushed to another `image`.',
    })
  if (extra.length > 0)
    throw new MergeError({
      message: `${name} has an image for ${extra.join(', ')}, which \`systems\` does not list`,
      hint: 'No tag has moved. Add these systems to `systems`, or remove `systems` to publish everything that was built.',
    })
}
