import { allOf } from '../all-of.ts'
import { Failure, firstLine, messageOf } from '../failure.ts'
import type { Digest } from '../oci/digest.ts'
import { printReference, type Repository } from '../oci/reference.ts'
import type { Registry, StoredManifest } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/** A tag in a repository. */
export interface TagPlace {
  readonly repository: Repository
  readonly tag: string
}

/** A tag that is to point to a manifest, which its repository already has. */
export interface TagMove {
  readonly tag: TagPlace
  /** What it points to now. Absent if it is new. */
  readonly before?: StoredManifest | undefined
}

/** Some tags could not be moved. */
export class TagError extends Failure {
  override readonly name = 'TagError'
}

/**
 * Reads what a tag points to. Asks twice before it reports that a tag does not exist: a tag taken for new by mistake
 * would move unchecked, or be deleted when it is moved back.
 * @throws RegistryError also if the tag exists, but the registry does not return what it points to
 */
export async function readStored(registry: Registry, reference: TagPlace): Promise<StoredManifest | undefined> {
  const { repository, tag } = reference
  const stored = await registry.getManifest(repository, tag)
  if (stored !== undefined) return stored
  const digest = await registry.findDigest(repository, tag)
  if (digest === undefined) return undefined
  const again = await registry.getManifest(repository, tag, { written: true })
  if (again !== undefined) return again
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    what: `${repository.host} says that ${printReference(reference)} points to ${digest}, but does not return it`,
    help: 'No tag has moved. Run the job again. If that does not help, something has deleted that manifest: delete the tag as well.',
  })
}

/**
 * Points a tag to a manifest in all repositories. If one of them fails, moves the tag back in the others.
 * @param check throws if a tag must not be moved away from what it points to; none has moved then
 * @throws TagError that says where the tag is now
 */
export async function putTags(
  registry: Registry,
  repositories: readonly Repository[],
  tag: string,
  manifest: StoredManifest,
  check: (stored: StoredManifest, place: TagPlace) => void,
): Promise<void> {
  const several = repositories.length > 1
  const all = await allOf(
    repositories.map(async (repository): Promise<readonly TagMove[]> => {
      // A tag may be immutable: then even the same image can't be pushed to it again.
      const digest = await registry.findDigest(repository, tag)
      if (digest === manifest.digest) return []
      const place = { repository, tag }
      const before = digest === undefined && !several ? undefined : await readStored(registry, place)
      if (before !== undefined) check(before, place)
      return [{ tag: place, before }]
    }),
  )
  const moves = all.flat()
  const outcomes = await Promise.allSettled(moves.map((move) => writeTag(registry, move.tag, manifest)))
  const at = outcomes.findIndex(({ status }) => status === 'rejected')
  const [failed, outcome] = [moves[at], outcomes[at]]
  if (failed === undefined || outcome?.status !== 'rejected') return
  if (!several) throw outcome.reason
  const left = await restoreTags(registry, moves, manifest.digest)
  throw new TagError({
    what: `The tag ${printReference(failed.tag)} could not be moved to ${manifest.digest}`,
    words: messageOf(outcome.reason),
    help: `${printTagsLeft(left)}\nRun the job again once the cause is fixed. The image is already in the registry.`,
    cause: outcome.reason,
  })
}

/**
 * Points a tag to a manifest.
 * @returns `refused` if the registry has refused, but the tag points to the manifest: another run has moved it there
 */
export async function writeTag(
  registry: Registry,
  { repository, tag }: TagPlace,
  { digest, mediaType, bytes }: StoredManifest,
): Promise<'written' | 'refused'> {
  try {
    await registry.putManifest(repository, tag, mediaType, bytes)
    return 'written'
  } catch (error) {
    // After any other failure, the client has read the tag itself.
    const { status = 500 } = error instanceof RegistryError ? error : {}
    const now = status < 500 ? await registry.findDigest(repository, tag).catch(() => undefined) : undefined
    if (now !== digest) throw error
    return 'refused'
  }
}

/**
 * Reads what a tag points to. Confirms an unexpected answer by reading the manifest, whose digest can be checked, and
 * looks several times for a tag that should exist.
 * @param expected the digests that need no confirmation; undefined for a tag that does not exist
 */
export async function readTag(
  registry: Registry,
  { repository, tag }: TagPlace,
  expected: readonly (Digest | undefined)[],
): Promise<Digest | undefined> {
  const seen = await registry.findDigest(repository, tag)
  if (expected.includes(seen)) return seen
  return (await registry.getManifest(repository, tag, { written: true }))?.digest
}

/**
 * Moves tags back to where they were, except those that another run has moved since.
 * @param moved what they were to point to
 * @param keep only report where they are
 * @returns a line for each tag that is not as it was
 */
export async function restoreTags(
  registry: Registry,
  moves: readonly TagMove[],
  moved: Digest,
  keep = false,
): Promise<readonly string[]> {
  const lines = moves.map(async (move) => {
    const state = await restoreTag(registry, move, moved, keep)
    return state === undefined ? [] : [`${printReference(move.tag)}: ${state}`]
  })
  return (await Promise.all(lines)).flat()
}

async function restoreTag(
  registry: Registry,
  { tag, before }: TagMove,
  moved: Digest,
  keep: boolean,
): Promise<string | undefined> {
  const { repository } = tag
  let now: Digest | undefined
  try {
    now = await readTag(registry, tag, [before?.digest, moved])
  } catch (error) {
    return `what it points to now is unknown: ${firstLine(error)}`
  }
  if (now === before?.digest) return undefined
  if (now !== moved) return now === undefined ? 'was deleted by another run' : `points to ${now}: another run moved it`
  if (keep) return `points to ${moved}, and another run moves it there too`
  try {
    if (before !== undefined) {
      await registry.putManifest(repository, tag.tag, before.mediaType, before.bytes)
      return undefined
    }
    if (await registry.deleteTag(repository, tag.tag)) return undefined
    return `is new and points to ${moved}; ${repository.host} can't delete tags`
  } catch (error) {
    return `could not be moved back from ${moved} to ${before?.digest ?? 'nothing'}: ${messageOf(error)}`
  }
}

/** Says where tags are after a failure. */
export function printTagsLeft(left: readonly string[], which = 'All tags'): string {
  if (left.length === 0) return `${which} are as they were.`
  return `${which} are as they were, except these:\n${left.map((line) => `  ${line}`).join('\n')}`
}
