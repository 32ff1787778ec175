import type { TagReference } from '../inputs/tags.ts'
import { REVISION, SOURCE } from '../oci/annotation.ts'
import { type Descriptor, type Index, isAttestation, parseManifest } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import { DOCKER_INDEX, isIndexType } from '../oci/media-type.ts'
import type { Platform } from '../oci/platform.ts'
import { formatReference, formatRepository } from '../oci/reference.ts'
import { findImage } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { readStored } from '../registry/tags.ts'
import { settleAll } from '../settle-all.ts'

/** A tag as it is before the merge. */
export interface PublishedTag {
  readonly tag: TagReference
  /** Absent where there is no such tag yet. */
  readonly stored?: StoredManifest
  /** Absent where it points to something else than an index. */
  readonly index?: Index
  readonly platforms: readonly Platform[]
  /** Why the platforms of its index are not known, where they are not. */
  readonly unreadable?: string
  /** `org.opencontainers.image.…` of what it points to: the commit, and the repository that this is one of. */
  readonly revision?: string | undefined
  readonly source?: string | undefined
}

/**
 * Looks at what tags point to; once, where several point to the same.
 * @throws RegistryError where a registry does not tell
 */
export async function readTags(registry: Registry, tags: readonly TagReference[]): Promise<readonly PublishedTag[]> {
  const descriptions = new Map<string, Promise<Description>>()
  return settleAll(
    tags.map(async (tag) => {
      const stored = await readStored(registry, tag)
      if (stored === undefined) return { tag, platforms: [] }
      const key = `${formatRepository(tag.repository)}@${stored.digest}`
      const description = descriptions.get(key) ?? describe(registry, tag, stored)
      descriptions.set(key, description)
      return { tag, stored, ...(await description) }
    }),
  )
}

type Description = Omit<PublishedTag, 'tag' | 'stored'>

/** What is no image has nothing that could be lost: whoever tags it anew knows what it is. */
async function describe(registry: Registry, tag: TagReference, stored: StoredManifest): Promise<Description> {
  try {
    const parsed = parseManifest(stored.bytes, stored.mediaType, formatReference(tag))
    if (parsed.kind === 'index') {
      const images = parsed.manifests.filter((one) => !isAttestation(one))
      const platforms = images.flatMap(({ platform }) => platform ?? [])
      // Docker's list has no annotations, so that only its images can name the commit.
      const labels = parsed.mediaType === DOCKER_INDEX ? await labelsOf(registry, tag, images[0]) : {}
      return { index: parsed, platforms, ...commitOf({ ...labels, ...parsed.annotations }) }
    }
    const image = await findImage(registry, tag.repository, stored.digest, { written: true })
    return image === undefined
      ? { platforms: [] }
      : { platforms: [image.platform], ...commitOf({ ...image.labels, ...parsed.annotations }) }
  } catch (error) {
    const gone = error instanceof RegistryError && error.problem === 'not-found'
    if (!gone && !(error instanceof FormatError)) throw error
    const isIndex = isIndexType(stored.mediaType.split(';')[0]?.trim() ?? '')
    return { platforms: [], ...(isIndex && error instanceof FormatError && { unreadable: error.message }) }
  }
}

/** The labels of a listed image; none if it can't be read as one. */
async function labelsOf(
  registry: Registry,
  { repository }: TagReference,
  image: Descriptor | undefined,
): Promise<Readonly<Record<string, string>>> {
  try {
    return (image && (await findImage(registry, repository, image.digest, { written: true })))?.labels ?? {}
  } catch (error) {
    const gone = error instanceof RegistryError && error.problem === 'not-found'
    if (!gone && !(error instanceof FormatError)) throw error
    return {}
  }
}

function commitOf(annotations: Readonly<Record<string, string>>): Pick<PublishedTag, 'revision' | 'source'> {
  return { revision: annotations[REVISION], source: annotations[SOURCE] }
}
