import { failureSummary } from '../errors.ts'
import type { Log } from '../log.ts'
import { isAttestationOf } from '../oci/manifest.ts'
import { fits, type Platform } from '../oci/platform.ts'
import { type Digest, formatReference, type Repository, sameRepository } from '../oci/reference.ts'
import type { Registry } from '../registry/registry.ts'
import { findStatement } from '../sbom/attestation.ts'
import { type PublishedContent, publishedContent } from '../sbom/published.ts'
import type { PreviousImage } from './previous-image.ts'

/**
 * Returns the content of published images as their SBOMs describe it, so that what has not changed need not be read again.
 * Logs and skips SBOMs that can't be read.
 * @param images the repositories whose SBOMs are trusted, as for the recipes of layers
 * @param platform selects the image of an index. Only an index lists SBOMs
 */
export async function readPublishedContents(
  registry: Registry,
  previous: readonly PreviousImage[],
  images: readonly Repository[],
  platform: Platform,
  log: Log,
): Promise<readonly PublishedContent[]> {
  const own = previous.filter(({ reference }) => images.some((image) => sameRepository(image, reference.repository)))
  const found = await Promise.all(
    own.map(async (one) => {
      try {
        const statement = await statementOf(registry, one, platform)
        return (statement && publishedContent(statement)) ?? []
      } catch (error) {
        log.info(`Not using the SBOM of ${formatReference(one.reference)}: ${failureSummary(error)}`)
        return []
      }
    }),
  )
  return found.flat()
}

async function statementOf(
  registry: Registry,
  { reference: { repository }, content }: PreviousImage,
  platform: Platform,
): Promise<Buffer | undefined> {
  if (content.kind === 'manifest') return undefined
  const image = content.manifests.find((one) => one.platform !== undefined && fits(one.platform, platform))
  if (image === undefined) return undefined
  for (const { digest } of content.manifests.filter((one) => isAttestationOf(one, image.digest))) {
    const stored = await registry.getManifest(repository, digest)
    const statement = stored && (await readStatement(registry, repository, stored.bytes, image.digest))
    if (statement !== undefined) return statement
  }
  return undefined
}

/** In bytes. The SBOM of 1,500 store paths has 3 MB. */
const STATEMENT_LIMIT = 64 * 1024 * 1024

/**
 * Reads the statement about an image that contains its SBOM.
 * @param attestation the manifest that lists it
 * @returns undefined if the manifest lists none for this image
 */
export async function readStatement(
  registry: Registry,
  repository: Repository,
  attestation: Buffer,
  image: Digest,
): Promise<Buffer | undefined> {
  const digest = findStatement(attestation, image)
  return digest && registry.getBlob(repository, digest, STATEMENT_LIMIT)
}
