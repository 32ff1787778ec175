import { messageOf } from '../failure.ts'
import type { TagReference } from '../inputs/tags.ts'
import { printReference } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { MergeError } from './merge-error.ts'

/** A tag that is to point to an index, which its repository holds already. */
export interface TagMove {
  readonly tag: TagReference
  /** What it points to now; absent where it is new. */
  readonly before?: StoredManifest | undefined
}

/**
 * Points tags to an index: first those that are new, which nobody pulls yet, then those that move, `latest` after all
 * others. If one can't be moved, those moved before are put back, as far as the registry allows.
 *
 * Another run may move the same tags to the same index at the same time. A tag that points to the index counts as moved,
 * even if this write is refused, as a second write of an immutable tag is. Once another run is known to move tags, none is
 * put back: which of the two runs moved a tag can't be told, and the other one reports it as published.
 * @param published tags that another run has moved to this index already
 * @throws MergeError that says which tags are where
 */
export async function moveTags(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
  published: readonly TagReference[] = [],
): Promise<void> {
  const done: TagMove[] = []
  const byOthers = [...published]
  for (const wave of wavesOf(moves)) {
    const outcomes = await Promise.allSettled(wave.map(({ tag }) => moveTag(registry, tag, index)))
    done.push(...wave)
    byOthers.push(...wave.flatMap(({ tag }, at) => (wasRefused(outcomes[at]) ? [tag] : [])))
    const at = outcomes.findIndex(({ status }) => status === 'rejected')
    const [failed, outcome] = [wave[at], outcomes[at]]
    if (failed === undefined || outcome?.status !== 'rejected') continue
    const left =
      byOthers.length > 0
        ? await listMoved(registry, [...published, ...done.map(({ tag }) => tag)], index)
        : // Those that failed too: an answer that was lost may have followed a tag that was moved.
          await putBack(registry, done.toReversed(), index)
    throw stopped(failed, index, outcome.reason, left)
  }
}

type Outcome = 'written' | 'refused'

/** Writes a tag. `refused`: the registry refused this write, and the tag points to the index all the same. */
async function moveTag(registry: Registry, { repository, tag }: TagReference, index: StoredManifest): Promise<Outcome> {
  try {
    await registry.putManifest(repository, tag, index.mediaType, index.bytes)
    return 'written'
  } catch (error) {
    const now = await registry.findDigest(repository, tag).catch(() => undefined)
    if (now !== index.digest) throw error
    // Without a status, or with a server error, this write may have moved the tag, and only its answer was lost.
    const { status = 500 } = error instanceof RegistryError ? error : {}
    return status < 500 ? 'refused' : 'written'
  }
}

function wasRefused(outcome: PromiseSettledResult<Outcome> | undefined): boolean {
  return outcome?.status === 'fulfilled' && outcome.value === 'refused'
}

/** Returns the tags that point to the index, or that can't be read. */
async function listMoved(
  registry: Registry,
  tags: readonly TagReference[],
  index: StoredManifest,
): Promise<readonly string[]> {
  const lines = tags.map(async (tag) => {
    const now = await registry.findDigest(tag.repository, tag.tag).catch((error: unknown) => error)
    if (now === index.digest)
      return [`${printReference(tag)}: points to ${index.digest}, and another run moves it there too`]
    return now instanceof Error ? [`${printReference(tag)}: ${messageOf(now)}`] : []
  })
  return (await Promise.all(lines)).flat()
}

/** Of a wave all tags are written at once: what a merge takes hangs on the number of waves, not on that of tags. */
function wavesOf(moves: readonly TagMove[]): readonly (readonly TagMove[])[] {
  const latest = moves.filter(({ tag }) => tag.tag === 'latest')
  const others = moves.filter(({ tag }) => tag.tag !== 'latest')
  const fresh = others.filter(({ before }) => before === undefined)
  const moving = others.filter(({ before }) => before !== undefined)
  return [fresh, moving, latest]
}

/** Returns the tags that could not be put back, and why. */
async function putBack(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
): Promise<readonly string[]> {
  const left: string[] = []
  for (const move of moves) {
    const problem = await putBackOne(registry, move, index).catch(messageOf)
    if (problem !== undefined) left.push(`${printReference(move.tag)}: ${problem}`)
  }
  return left
}

async function putBackOne(
  registry: Registry,
  { tag, before }: TagMove,
  index: StoredManifest,
): Promise<string | undefined> {
  const { repository } = tag
  const now = await registry.getManifest(repository, tag.tag)
  // Whatever else it points to by now is the work of another run.
  if (now?.digest !== index.digest) return undefined
  if (before !== undefined) {
    await registry.putManifest(repository, tag.tag, before.mediaType, before.bytes)
    return undefined
  }
  if (await registry.deleteTag(repository, tag.tag)) return undefined
  return `is new and points to ${index.digest}; ${repository.host} can't delete tags`
}

function stopped({ tag }: TagMove, index: StoredManifest, error: unknown, left: readonly string[]): MergeError {
  const where =
    left.length === 0
      ? 'All tags are as they were.'
      : `All tags are as they were, but these:\n${left.map((line) => `  ${line}`).join('\n')}`
  return new MergeError({
    what: `The tag ${printReference(tag)} could not be moved to ${index.digest}`,
    words: messageOf(error),
    help: `${where}\nThe index is in the registry: once the cause is mended, running the job again finishes it.`,
    cause: error,
  })
}
