import { allOf } from '../all-of.ts'
import { Failure, firstLine, messageOf, oneLine } from '../failure.ts'
import type { Log } from '../log.ts'
import { REVISION } from '../oci/annotation.ts'
import type { Digest } from '../oci/digest.ts'
import { parseManifest } from '../oci/document.ts'
import { printReference } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { printTagsLeft, readTag, restoreTags, type TagMove, type TagPlace, writeTag } from '../registry/tags.ts'
import { MergeError } from './merge-error.ts'

/**
 * Points tags to an index: first new ones, which nobody pulls yet, then those that move, `latest` last. If one can't be
 * moved, or another run has moved it meanwhile, moves back those moved before, as far as the registry allows.
 *
 * Another run may move the same tags to the same index at the same time. A tag that points to the index counts as moved,
 * even if this write is refused, as a second write of an immutable tag is. Once another run is known to move tags, none is
 * moved back: it is unknown which of the two runs moved a tag, and the other one reports it as published.
 * @param moves may contain tags that point to the index already
 * @throws MergeError that says where the tags are
 */
export async function moveTags(registry: Registry, moves: readonly TagMove[], index: StoredManifest): Promise<void> {
  const tried: TagMove[] = []
  const byOthers: TagMove[] = []
  try {
    let waiting = moves
    for (const wave of wavesOf(moves.filter(({ before }) => before?.digest !== index.digest))) {
      // Tags of later waves as well, so that most conflicts are found before the first tag has moved.
      const there = await findMoved(registry, waiting, index)
      byOthers.push(...there)
      waiting = waiting.filter((move) => !wave.includes(move) && !there.includes(move))
      const writing = wave.filter((move) => !byOthers.includes(move))
      tried.push(...writing)
      await writeWave(registry, writing, index, byOthers)
    }
  } catch (error) {
    const left = await restoreTags(
      registry,
      moves.filter(isIn([...tried, ...byOthers])),
      index.digest,
      byOthers.length > 0,
    )
    const nothing = tried.length === 0 && left.length === 0
    throw stopped(
      error,
      nothing ? 'No tag has moved.' : printTagsLeft(left, isConflict(error) ? 'All other tags' : 'All tags'),
    )
  }
}

function isIn(moves: readonly TagMove[]): (move: TagMove) => boolean {
  return (move) => moves.includes(move)
}

/** Writes the tags of a wave at once: the duration of a merge depends on the number of waves, not on that of tags. */
async function writeWave(
  registry: Registry,
  wave: readonly TagMove[],
  index: StoredManifest,
  byOthers: TagMove[],
): Promise<void> {
  const outcomes = await Promise.allSettled(wave.map(({ tag }) => writeTag(registry, tag, index)))
  for (const [at, outcome] of outcomes.entries()) {
    const move = wave[at]
    if (move !== undefined && outcome.status === 'fulfilled' && outcome.value === 'refused') byOthers.push(move)
  }
  for (const [at, outcome] of outcomes.entries()) {
    const move = wave[at]
    if (move === undefined || outcome.status === 'fulfilled') continue
    throw new MergeError({
      what: `The tag ${printReference(move.tag)} could not be moved to ${index.digest}`,
      words: messageOf(outcome.reason),
      cause: outcome.reason,
      help: 'Run the job again once the cause is fixed. The index is already in the registry.',
    })
  }
}

function wavesOf(moves: readonly TagMove[]): readonly (readonly TagMove[])[] {
  const latest = moves.filter(({ tag }) => tag.tag === 'latest')
  const others = moves.filter(({ tag }) => tag.tag !== 'latest')
  const fresh = others.filter(({ before }) => before === undefined)
  const moving = others.filter(({ before }) => before !== undefined)
  return [fresh, moving, latest].filter(({ length }) => length > 0)
}

/**
 * Checks that tags are as they were when the merge decided where to move them.
 * @returns those that another run has moved to the same index meanwhile, as the same merge in other jobs of a matrix does
 * @throws MergeError if one points to something else
 */
async function findMoved(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
): Promise<readonly TagMove[]> {
  const moved = await allOf(
    moves.map(async (move) => {
      const { tag, before } = move
      const now = await readTag(registry, tag, [before?.digest, index.digest])
      if (now === before?.digest) return []
      if (now === index.digest) return [move]
      throw new MergeError({
        what: `${printReference(tag)} was updated by another run while this job was running`,
        words: `it ${before === undefined ? 'did not exist' : `pointed to ${before.digest}`}, and now ${now === undefined ? 'does not exist' : `points to ${now}`}`,
        help: 'Run this job again. Use a `concurrency` group in the workflow so that its runs wait for each other.',
      })
    }),
  )
  return moved.flat()
}

/** Reports whether another run has moved a tag. */
function isConflict(error: unknown): boolean {
  return error instanceof MergeError && error.cause === undefined
}

function stopped(error: unknown, where: string): unknown {
  if (!(error instanceof Failure)) return error
  const { what, words, help = 'Run the job again. The index is already in the registry.' } = error.parts
  return new MergeError({ what, words, help: `${where}\n${help}`, cause: error })
}

/** A tag that another run has moved after this one did. */
export interface OvertakenTag {
  readonly tag: TagPlace
  /** Undefined if it was deleted. */
  readonly now: Digest | undefined
}

/** Finds the tags that another run has moved since they pointed to the index. Warns of each. */
export async function findOvertaken(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
  log: Log,
): Promise<readonly OvertakenTag[]> {
  const found = moves.map(async ({ tag, before }) => {
    try {
      const now = await readTag(registry, tag, [index.digest])
      if (now === index.digest) return []
      if (before !== undefined && now === before.digest) {
        // The registry has confirmed the write, so that this is most likely an old answer.
        log.warning(
          `${printReference(tag)} was pointed to ${index.digest}, but the registry still returns ${now}. If that does not change within a few minutes, another run has moved the tag back.`,
        )
        return []
      }
      const state =
        now === undefined ? 'it no longer exists' : `it points to ${await describeImage(registry, tag, now)}`
      log.warning(
        `${printReference(tag)} was updated by another run after this one had pointed it to ${index.digest}: now ${state}. Use a \`concurrency\` group in the workflow so that its runs wait for each other.`,
      )
      return [{ tag, now }]
    } catch (error) {
      // The registry has confirmed that it stored the tag.
      log.info(`Can't check whether another run has moved ${printReference(tag)} since: ${firstLine(error)}`)
      return []
    }
  })
  return (await Promise.all(found)).flat()
}

/** Returns a digest, and the commit of its image if known. */
async function describeImage(registry: Registry, { repository }: TagPlace, digest: Digest): Promise<string> {
  try {
    const stored = await registry.getManifest(repository, digest)
    const parsed = stored && parseManifest(stored.bytes, stored.mediaType, digest)
    const revision = parsed?.annotations[REVISION]
    return revision === undefined ? digest : `${digest} (commit ${oneLine(revision)})`
  } catch {
    return digest
  }
}
