import { FormatError } from '../errors.ts'
import { REVISION, SOURCE } from '../oci/annotation.ts'
import {
  type Descriptor,
  DOCKER_INDEX,
  type Index,
  isAttestation,
  isIndexType,
  parseManifest,
} from '../oci/manifest.ts'
import type { Platform } from '../oci/platform.ts'
import { formatReference, formatRepository, type TagReference } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { findImage } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { readStored } from '../registry/tags.ts'

/** A tag before the merge, and what it points to. */
export interface PublishedTag {
  readonly tag: TagReference
  /** Absent if the tag does not exist. */
  readonly stored?: StoredManifest
  /** Absent if the tag points to a single image. */
  readonly index?: Index
  readonly platforms: readonly Platform[]
  /** Why the platforms of its index are unknown. */
  readonly unreadable?: string
  /** `org.opencontainers.image.revision` and `.source` of what the tag points to. */
  readonly revision?: string | undefined
  readonly source?: string | undefined
}

/**
 * Reads what tags point to. Reads each manifest once, however many tags point to it.
 * @throws RegistryError
 */
export async function readPublishedTags(
  registry: Registry,
  tags: readonly TagReference[],
): Promise<readonly PublishedTag[]> {
  const descriptions = new Map<string, Promise<Description>>()
  return settleAll(
    tags.map(async (tag) => {
      const stored = await readStored(registry, tag)
      if (stored === undefined) return { tag, platforms: [] }
      const key = `${formatRepository(tag.repository)}@${stored.digest}`
      const description = descriptions.get(key) ?? describeTagged(registry, tag, stored)
      descriptions.set(key, description)
      return { tag, stored, ...(await description) }
    }),
  )
}

type Description = Omit<PublishedTag, 'tag' | 'stored'>

/** Returns no platforms for anything but an image: replacing it loses none. */
async function describeTagged(registry: Registry, tag: TagReference, stored: StoredManifest): Promise<Description> {
  try {
    const parsed = parseManifest(stored.bytes, stored.mediaType, formatReference(tag))
    if (parsed.kind === 'index') {
      const images = parsed.manifests.filter((one) => !isAttestation(one))
      const platforms = images.flatMap(({ platform }) => platform ?? [])
      // A Docker manifest list has no annotations: only its images can name the commit.
      const labels = parsed.mediaType === DOCKER_INDEX ? await labelsOf(registry, tag, images[0]) : {}
      return { index: parsed, platforms, ...originOf({ ...labels, ...parsed.annotations }) }
    }
    const image = await findImage(registry, tag.repository, stored.digest, { retryNotFound: true })
    return image === undefined
      ? { platforms: [] }
      : { platforms: [image.platform], ...originOf({ ...image.labels, ...parsed.annotations }) }
  } catch (error) {
    const gone = error instanceof RegistryError && error.problem === 'not-found'
    if (!gone && !(error instanceof FormatError)) throw error
    const isIndex = isIndexType(stored.mediaType.split(';')[0]?.trim() ?? '')
    return { platforms: [], ...(isIndex && error instanceof FormatError && { unreadable: error.message }) }
  }
}

/** Returns the labels of an image in an index, or none if it can't be read as an image. */
async function labelsOf(
  registry: Registry,
  { repository }: TagReference,
  image: Descriptor | undefined,
): Promise<Readonly<Record<string, string>>> {
  try {
    return (image && (await findImage(registry, repository, image.digest, { retryNotFound: true })))?.labels ?? {}
  } catch (error) {
    const gone = error instanceof RegistryError && error.problem === 'not-found'
    if (!gone && !(error instanceof FormatError)) throw error
    return {}
  }
}

function originOf(annotations: Readonly<Record<string, string>>): Pick<PublishedTag, 'revision' | 'source'> {
  return { revision: annotations[REVISION], source: annotations[SOURCE] }
}
