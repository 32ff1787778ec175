import { fromAnnotations } from '../cache/build-info.ts'
import { VerificationError } from '../errors.ts'
import { REVISION } from '../oci/annotation.ts'
import { type Index, isAttestation, parseManifest } from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform, samePlatform } from '../oci/platform.ts'
import { type Digest, formatReference, type Reference } from '../oci/reference.ts'
import { isCommitId } from '../process/git.ts'
import { fetchImage, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'

/** The image that a registry has for a platform. */
export interface PublishedPlatform {
  readonly image: PublishedImage
  /** The keys of the labels that were added when it was published. */
  readonly addedLabels: readonly string[]
  /** The commit that it was published from, if the index names it. */
  readonly revision?: string
}

/**
 * Reads a platform's image under a tag or a digest, of an index or of the image itself.
 * @throws VerificationError if it does not exist, RegistryError if it can't be read
 */
export async function readPublishedPlatform(
  registry: Registry,
  reference: Reference,
  platform: Platform,
): Promise<PublishedPlatform> {
  const { repository, tag, digest } = reference
  const name = formatReference(reference)
  const stored = await registry.getManifest(repository, digest ?? tag ?? 'latest')
  if (stored === undefined)
    throw new VerificationError({
      message: `${name} does not exist`,
      hint: 'In `image`, name a published image with its tag or digest.',
    })
  const parsed = parseManifest(stored.bytes, stored.mediaType, name)
  const entry = parsed.kind === 'index' ? entryIn(parsed, platform) : stored.digest
  if (entry === undefined) throw notForPlatform(name, platform, platformsIn(parsed))
  const image = await fetchImage(registry, repository, entry)
  if (!fits(image.platform, platform)) throw notForPlatform(name, platform, [formatPlatform(image.platform)])
  const named = parsed.annotations[REVISION] ?? image.own.annotations[REVISION] ?? ''
  return {
    image,
    addedLabels: fromAnnotations(image.own.annotations)?.labels ?? [],
    ...(isCommitId(named) && { revision: named }),
  }
}

/** Returns the digest of the entry for a platform. An entry for exactly this platform takes precedence. */
function entryIn({ manifests }: Index, wanted: Platform): Digest | undefined {
  const matching = manifests.filter(({ platform }) => platform !== undefined && fits(platform, wanted))
  const exact = matching.find(({ platform }) => platform !== undefined && samePlatform(platform, wanted))
  return (exact ?? matching[0])?.digest
}

function platformsIn(parsed: ReturnType<typeof parseManifest>): readonly string[] {
  if (parsed.kind === 'manifest') return []
  const images = parsed.manifests.filter((one) => !isAttestation(one))
  return images.map(({ platform }) => (platform ? formatPlatform(platform) : 'no platform'))
}

function notForPlatform(name: string, wanted: Platform, existing: readonly string[]): VerificationError {
  return new VerificationError({
    message: `${name} has no image for ${formatPlatform(wanted)}`,
    detail: `It has ${existing.join(', ') || 'no images'}.`,
    hint: 'Set `system` to one of the systems that the image is published for, and run this step on a runner that can build for it.',
  })
}
