import { firstLine, messageOf, TagError } from '../errors.ts'
import { type Digest, formatReference, type Repository } from '../oci/reference.ts'
import { untilAborted } from '../process/cancellation.ts'
import { settleAll } from '../promises.ts'
import type { Registry, StoredManifest } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/** A tag in a repository. */
export interface RepositoryTag {
  readonly repository: Repository
  readonly tag: string
}

/** A tag to move to a manifest that its repository already has. */
export interface TagMove {
  readonly tag: RepositoryTag
  /** The manifest that it points to now. Absent if the tag is new. */
  readonly before?: StoredManifest | undefined
}

/** Another run has moved a tag since it was read. */
export class TagConflict extends TagError {
  override readonly name = 'TagConflict'

  /** @param now the digest that the tag points to now. Undefined if it does not exist. */
  constructor({ tag, before }: TagMove, now: Digest | undefined) {
    super({
      message: `${formatReference(tag)} was updated by another run while this job was running`,
      detail: `it ${before === undefined ? 'did not exist' : `pointed to ${before.digest}`}, and now ${now === undefined ? 'does not exist' : `points to ${now}`}`,
      hint: 'Run this job again once the other runs have ended. To let merges wait for each other, add to the merge job:\n  concurrency:\n    group: image-merge\n    queue: max',
    })
  }
}

/**
 * Reads the manifest that a tag points to. Asks twice before it reports that a tag does not exist: a tag that is mistaken
 * for new would be moved unchecked, or deleted when it is restored.
 * @throws RegistryError also if the tag exists, but the registry does not return its manifest
 */
export async function readStored(registry: Registry, reference: RepositoryTag): Promise<StoredManifest | undefined> {
  const { repository, tag } = reference
  const stored = await registry.getManifest(repository, tag)
  if (stored !== undefined) return stored
  const digest = await registry.findDigest(repository, tag)
  if (digest === undefined) return undefined
  const again = await registry.getManifest(repository, tag, { retryNotFound: true })
  if (again !== undefined) return again
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `${repository.host} says that ${formatReference(reference)} points to ${digest}, but does not return it`,
    hint: 'Run the job again. If that does not help, something has deleted that manifest: delete the tag as well.',
  })
}

/**
 * Points a tag to a manifest in all repositories. If one of them fails, restores the tag in the others.
 * @param check throws if a tag must not be moved; no tag has moved then
 * @throws TagError that says where the tag is now
 */
export async function putTags(
  registry: Registry,
  repositories: readonly Repository[],
  tag: string,
  manifest: StoredManifest,
  check: (stored: StoredManifest, place: RepositoryTag) => Promise<void>,
): Promise<void> {
  const several = repositories.length > 1
  const all = await settleAll(
    repositories.map(async (repository): Promise<readonly TagMove[]> => {
      // A tag may be immutable: then even the same image can't be pushed to it again.
      const digest = await registry.findDigest(repository, tag)
      if (digest === manifest.digest) return []
      const place = { repository, tag }
      const before = digest === undefined && !several ? undefined : await readStored(registry, place)
      if (before !== undefined) await check(before, place)
      return [{ tag: place, before }]
    }),
  )
  const moves = all.flat()
  const outcomes = await Promise.allSettled(moves.map(({ tag }) => writeTag(registry, { tag }, manifest)))
  const at = outcomes.findIndex(({ status }) => status === 'rejected')
  const [failed, outcome] = [moves[at], outcomes[at]]
  if (failed === undefined || outcome?.status !== 'rejected') return
  if (!several) throw outcome.reason
  const left = await restoreTags(registry, moves, manifest.digest)
  throw new TagError({
    message: `The tag ${formatReference(failed.tag)} could not be moved to ${manifest.digest}`,
    detail: messageOf(outcome.reason),
    hint: `${formatTagsLeft(left)}\nRun the job again once the cause is fixed. The image is already in the registry.`,
    cause: outcome.reason,
  })
}

/**
 * Points a tag to a manifest. A registry that honours `If-Match` refuses if the tag has moved since `before` was read.
 * @returns `refused` if the registry has refused, but the tag points to the manifest: another run has moved it there
 * @throws TagConflict if the tag has moved elsewhere
 */
export async function writeTag(
  registry: Registry,
  { tag: place, before }: TagMove,
  { digest, mediaType, bytes }: StoredManifest,
): Promise<'written' | 'refused'> {
  const { repository, tag } = place
  const etag = before?.etag
  try {
    await registry.putManifest(repository, tag, mediaType, bytes, etag)
    return 'written'
  } catch (error) {
    // After any other failure, the client has read the tag itself.
    const { status = 500 } = error instanceof RegistryError ? error : {}
    const now = status < 500 ? await registry.findDigest(repository, tag).catch(() => undefined) : undefined
    if (now === digest) return 'refused'
    if (status !== 412 || etag === undefined) throw error
    const confirmed = await registry.getManifest(repository, tag, { retryNotFound: true })
    if (confirmed?.digest === digest) return 'refused'
    if (confirmed?.digest !== before?.digest || confirmed?.etag !== etag)
      throw new TagConflict({ tag: place, before }, confirmed?.digest)
    // The tag is as it was, so the condition is not what the registry refuses, unless its ETags are wrong.
    return writeTag(registry, { tag: place }, { digest, mediaType, bytes })
  }
}

/**
 * Returns the digest that a tag points to. Confirms an unexpected answer by reading the manifest, whose digest can be
 * verified, and reads several times if a tag that should exist is not found.
 * @param expected the digests that need no confirmation; undefined for a tag that does not exist
 * @param outdated the digest that the tag pointed to before it was written. A registry that lags is asked again.
 */
export async function readTagDigest(
  registry: Registry,
  { repository, tag }: RepositoryTag,
  expected: readonly (Digest | undefined)[],
  outdated?: Digest,
): Promise<Digest | undefined> {
  const seen = await registry.findDigest(repository, tag)
  if (expected.includes(seen)) return seen
  return (await registry.getManifest(repository, tag, { retryNotFound: true, outdated }))?.digest
}

/** The result of writing a tag: the registry has confirmed it, refused it, or not answered. */
export type WriteOutcome = 'confirmed' | 'failed' | 'unanswered'

export interface RestoreOptions {
  /** Whether to leave the tags as they are, and only report. */
  readonly keep?: boolean
  /** Aborted when there is no time left. */
  readonly deadline?: AbortSignal
  readonly outcomeOf?: (move: TagMove) => WriteOutcome | undefined
}

/**
 * Restores tags: points them to what they pointed to before, and deletes new ones. Skips tags that another run has
 * moved since.
 * @param moved the digest that they were moved to
 * @returns a line for each tag that is not, or may not be, as it was
 */
export async function restoreTags(
  registry: Registry,
  moves: readonly TagMove[],
  moved: Digest,
  { keep = false, deadline = new AbortController().signal, outcomeOf = () => undefined }: RestoreOptions = {},
): Promise<readonly string[]> {
  const lines = moves.map(async (move) => {
    const restoring = restoreTag(registry, move, moved, keep, outcomeOf(move))
    const late = () => new TagError({ message: `may point to ${moved}: the registry did not answer in time` })
    const state = await untilAborted(restoring, deadline, late).catch(messageOf)
    return state === undefined ? [] : [`${formatReference(move.tag)}: ${state}`]
  })
  return (await Promise.all(lines)).flat()
}

async function restoreTag(
  registry: Registry,
  { tag, before }: TagMove,
  moved: Digest,
  keep: boolean,
  outcome: WriteOutcome | undefined,
): Promise<string | undefined> {
  const { repository } = tag
  let now: Digest | undefined
  try {
    now = await readTagDigest(registry, tag, [before?.digest, moved])
  } catch (error) {
    return `what it points to now is unknown: ${firstLine(error)}`
  }
  // A registry that confirmed the write but returns the old digest lags behind.
  if (now === before?.digest && outcome !== 'confirmed') return outcome && afterOutcome(outcome, now, moved)
  if (now !== before?.digest && now !== moved)
    return now === undefined ? 'was deleted by another run' : `points to ${now}: another run moved it`
  if (keep) return `points to ${moved}, and another run moves it there too`
  try {
    if (before !== undefined) {
      await registry.putManifest(repository, tag.tag, before.mediaType, before.bytes)
      return undefined
    }
    if (await registry.deleteTag(repository, tag.tag)) return undefined
    return `is new and points to ${moved}; ${repository.host} can't delete tags`
  } catch (error) {
    return `could not be ${before === undefined ? 'deleted' : `restored to ${before.digest}`} and may still point to ${moved}: ${messageOf(error)}`
  }
}

/** Describes how a tag that is as it was may still move. */
function afterOutcome(outcome: WriteOutcome, now: Digest | undefined, moved: Digest): string | undefined {
  if (outcome !== 'unanswered') return undefined
  return `${now === undefined ? 'does not exist' : `points to ${now}`}, but may still move to ${moved}: the registry has not answered that write`
}

/** Formats the state of tags after a failure. */
export function formatTagsLeft(left: readonly string[], which = 'All tags'): string {
  if (left.length === 0) return `${which} are as they were.`
  return `${which} are as they were, except these:\n${left.map((line) => `  ${line}`).join('\n')}`
}
