import { firstLine, MergeError } from '../errors.ts'
import type { Log } from '../log.ts'
import { REVISION } from '../oci/annotation.ts'
import { parseManifest } from '../oci/manifest.ts'
import { type Digest, formatReference, type TagReference } from '../oci/reference.ts'
import { untilAborted } from '../process/cancellation.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { type RepositoryTag, readTagDigest, type TagConflict, type TagMove } from '../registry/tags.ts'
import { sanitizeLine } from '../text.ts'
import { moveTags } from './move-tags.ts'
import type { TagPlan } from './tag-plan.ts'

export interface PublishOptions {
  /** Reads and plans tags again, because another run has moved one of them. */
  readonly replan: (tags: readonly TagReference[]) => Promise<readonly TagPlan[]>
  /** Aborted when the step is cancelled. */
  readonly signal: AbortSignal
  readonly log: Log
}

/**
 * Points tags to an index as planned, and then checks whether another run has moved them since.
 * @returns what has happened to each tag
 */
export async function publishTags(
  registry: Registry,
  index: StoredManifest,
  planned: readonly TagPlan[],
  { replan, signal, log }: PublishOptions,
): Promise<readonly TagPlan[]> {
  let plans = planned
  const replanMoves = async ({ parts }: TagConflict, done: readonly RepositoryTag[]) => {
    log.info(`${parts.message}: ${parts.detail}. Reading the tags again`)
    const tags = plans.map(({ tag }) => tag)
    const again = await replan(tags.filter((tag) => !done.includes(tag)))
    plans = plans.map((plan) => again.find(({ tag }) => tag === plan.tag) ?? plan)
    return movesOf(again)
  }
  await moveTags(registry, movesOf(planned), index, { replan: replanMoves, signal })
  const checking = findOvertaken(registry, movesOf(plans), index, log)
  const cancelled = () => new MergeError({ message: 'The step was cancelled' })
  const overtaken = await untilAborted(checking, signal, cancelled).catch((error: unknown) => {
    if (!signal.aborted) throw error
    log.info('Cancelled: all tags have moved')
    return []
  })
  return plans.map((plan) => withOutcome(plan, overtaken))
}

function movesOf(plans: readonly TagPlan[]): readonly TagMove[] {
  return plans.filter(({ action }) => action !== 'skipped').map(({ tag, before }) => ({ tag, before: before.stored }))
}

function withOutcome(plan: TagPlan, overtaken: readonly OvertakenTag[]): TagPlan {
  const found = overtaken.find(({ tag }) => tag === plan.tag)
  return found === undefined ? plan : { ...plan, action: 'overtaken', now: found.now }
}

/** A tag that another run has moved after this run did. */
export interface OvertakenTag {
  readonly tag: RepositoryTag
  /** Undefined if it was deleted. */
  readonly now: Digest | undefined
}

/** Finds the tags that another run has moved since this run did, and warns about them. */
export async function findOvertaken(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
  log: Log,
): Promise<readonly OvertakenTag[]> {
  const found = moves.map(async (move) => {
    try {
      return await overtakenBy(registry, move, index, log)
    } catch (error) {
      // Not an error: the registry has confirmed that it stored the tag.
      log.info(`Can't check whether another run has moved ${formatReference(move.tag)} since: ${firstLine(error)}`)
      return []
    }
  })
  return (await Promise.all(found)).flat()
}

async function overtakenBy(
  registry: Registry,
  { tag, before }: TagMove,
  index: StoredManifest,
  log: Log,
): Promise<readonly OvertakenTag[]> {
  const name = formatReference(tag)
  const outdated = before?.digest === index.digest ? undefined : before?.digest
  const now = await readTagDigest(registry, tag, [index.digest], outdated)
  if (now === index.digest) return []
  if (now === before?.digest) {
    // The registry has confirmed the write, so this answer is most likely outdated.
    const [answer, cause] =
      now === undefined ? ['does not return it yet', 'deleted it'] : [`still returns ${now}`, 'moved it back']
    log.warning(
      `${name} was pointed to ${index.digest}, but the registry ${answer}. If that does not change within a few minutes, another run has ${cause}.`,
    )
    return []
  }
  const commit = now && (await readCommit(registry, tag, now))
  // Runs for a branch and for a Git tag of the same commit publish the same `{sha}` tag.
  if (commit !== undefined && commit === indexCommit(index))
    log.info(`${name} points to ${now}, which another run of the same commit has published since`)
  else
    log.warning(
      `${name} was updated by another run after this run had pointed it to ${index.digest}: it ${now === undefined ? 'no longer exists' : `now points to ${now}`}${commit ? ` (commit ${sanitizeLine(commit)})` : ''}. Use a \`concurrency\` group for the merge job so that its runs wait for each other.`,
    )
  return [{ tag, now }]
}

/** Returns the commit of what a tag points to, if it can be read. */
async function readCommit(
  registry: Registry,
  { repository }: RepositoryTag,
  digest: Digest,
): Promise<string | undefined> {
  try {
    const stored = await registry.getManifest(repository, digest)
    return stored && indexCommit(stored)
  } catch {
    return undefined
  }
}

function indexCommit({ bytes, mediaType, digest }: StoredManifest): string | undefined {
  return parseManifest(bytes, mediaType, digest).annotations[REVISION]
}
