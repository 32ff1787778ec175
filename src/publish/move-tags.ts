import { ActionError, firstLine, messageOf, sanitizeLine } from '../errors.ts'
import type { Log } from '../log.ts'
import { REVISION } from '../oci/annotation.ts'
import type { Digest } from '../oci/digest.ts'
import { parseManifest } from '../oci/document.ts'
import { formatReference } from '../oci/reference.ts'
import { finishUp, NOT_CANCELLABLE, untilAborted } from '../process/cancellation.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import {
  formatTagsLeft,
  type RestoreOptions,
  readTag,
  restoreTags,
  TagConflict,
  type TagMove,
  type TagPlace,
  type WriteOutcome,
  writeTag,
} from '../registry/tags.ts'
import { settleAll } from '../settle-all.ts'
import { MergeError } from './merge-error.ts'

/** How often a merge reads and plans the tags again because another run has moved one of them. */
const MOST_REPLANS = 3

/** How long the writes under way, and moving tags back, may take once the step is cancelled, in milliseconds. */
const FINISH_WAVE = 3000
const RESTORE = 3000

export interface MoveOptions {
  /**
   * Reads tags again and decides again which of them move. Absent: a tag that another run has moved is an error.
   * @param done the tags that have moved already, and stay as they are
   */
  readonly replan?: (conflict: TagConflict, done: readonly TagPlace[]) => Promise<readonly TagMove[]>
  /** Aborted when the step is cancelled. */
  readonly signal?: AbortSignal
}

/**
 * Points tags to an index: first new ones, which nobody pulls yet, then those that move, `latest` last. If one can't be
 * moved, moves back those moved before, as far as the registry allows; if another run has moved one meanwhile, plans those
 * again that have not moved yet. When the step is cancelled, finishes the writes under way, and moves tags back unless all
 * have moved.
 *
 * Another run may move the same tags to the same index at the same time. A tag that points to the index counts as moved,
 * even if this write is refused, as a second write of an immutable tag is. Once another run is known to move tags, none is
 * moved back: it is unknown which of the two runs moved a tag, and the other one reports it as published.
 * @param planned may contain tags that point to the index already
 * @throws MergeError that says where the tags are
 */
export async function moveTags(
  registry: Registry,
  planned: readonly TagMove[],
  index: StoredManifest,
  { replan, signal = NOT_CANCELLABLE.signal }: MoveOptions = {},
): Promise<void> {
  const state: MoveState = { written: new Map(), byOthers: [] }
  let which = 'All tags'
  try {
    let moves = planned
    for (let replans = 0; ; replans++) {
      const conflict = await moveInWaves(registry, moves, index, state, signal)
      if (conflict === undefined) return
      which = 'All other tags'
      if (replan === undefined || replans === MOST_REPLANS) throw conflict
      const done = [...state.written.keys()].map(({ tag }) => tag)
      moves = await untilAborted(replan(conflict, done), signal, cancelled)
    }
  } catch (error) {
    const reason = signal.aborted && !(error instanceof ActionError) ? cancelled() : error
    const touched = [...new Set([...state.written.keys(), ...state.byOthers])]
    const options: RestoreOptions = {
      keep: state.byOthers.length > 0,
      outcomeOf: (move) => state.written.get(move),
      ...(signal.aborted && { deadline: AbortSignal.timeout(RESTORE) }),
    }
    const left = await finishUp(() => restoreTags(registry, touched, index.digest, options))
    const nothing = state.written.size === 0 && left.length === 0
    throw stopped(reason, nothing ? 'No tag has moved.' : formatTagsLeft(left, which))
  }
}

interface MoveState {
  /** The tags that this run has written, or has tried to. */
  readonly written: Map<TagMove, WriteOutcome>
  /** The tags that another run has moved to the same index. */
  readonly byOthers: TagMove[]
}

/** @returns the tag that another run has moved to something else, if there is one */
async function moveInWaves(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
  state: MoveState,
  signal: AbortSignal,
): Promise<TagConflict | undefined> {
  const { byOthers } = state
  let waiting = moves
  try {
    for (const wave of wavesOf(moves.filter(({ before }) => before?.digest !== index.digest))) {
      // Tags of later waves as well, so that most conflicts are found before the first tag has moved.
      const there = await untilAborted(findMoved(registry, waiting, index), signal, cancelled)
      byOthers.push(...there)
      waiting = waiting.filter((move) => !wave.includes(move) && !there.includes(move))
      const writing = wave.filter((move) => !byOthers.includes(move))
      await writeWave(registry, writing, index, state, signal)
    }
    return undefined
  } catch (error) {
    if (error instanceof TagConflict) return error
    throw error
  }
}

function cancelled(): MergeError {
  return new MergeError({ message: 'The step was cancelled before all tags had moved' })
}

/** Writes the tags of a wave at once: the duration of a merge depends on the number of waves, not on that of tags. */
async function writeWave(
  registry: Registry,
  wave: readonly TagMove[],
  index: StoredManifest,
  { written, byOthers }: MoveState,
  signal: AbortSignal,
): Promise<void> {
  const failures: { readonly move: TagMove; readonly error: unknown }[] = []
  const writes = wave.map(async (move) => {
    written.set(move, 'unanswered')
    try {
      const result = await writeTag(registry, move, index)
      written.set(move, 'confirmed')
      if (result === 'refused') byOthers.push(move)
    } catch (error) {
      if (error instanceof TagConflict) written.delete(move)
      else written.set(move, 'failed')
      failures.push({ move, error })
    }
  })
  await untilAborted(Promise.all(writes), signal, cancelled, FINISH_WAVE)
  const failed = failures.find(({ error }) => !(error instanceof TagConflict)) ?? failures[0]
  if (failed === undefined) return
  const { move, error } = failed
  if (error instanceof TagConflict) throw error
  if (signal.aborted && !(error instanceof ActionError)) throw cancelled()
  throw new MergeError({
    message: `The tag ${formatReference(move.tag)} could not be moved to ${index.digest}`,
    detail: messageOf(error),
    cause: error,
    hint: 'Run the job again once the cause is fixed. The index is already in the registry.',
  })
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
 * @throws TagConflict if one points to something else
 */
async function findMoved(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
): Promise<readonly TagMove[]> {
  const moved = await settleAll(
    moves.map(async (move) => {
      const { tag, before } = move
      const now = await readTag(registry, tag, [before?.digest, index.digest])
      if (now === before?.digest) return []
      if (now === index.digest) return [move]
      throw new TagConflict(move, now)
    }),
  )
  return moved.flat()
}

function stopped(error: unknown, where: string): unknown {
  if (!(error instanceof ActionError)) return error
  const { message, detail, hint = 'Run the job again. The index is already in the registry.' } = error.parts
  return new MergeError({ message, detail, hint: `${where}\n${hint}`, cause: error })
}

/** A tag that another run has moved after this one did. */
export interface OvertakenTag {
  readonly tag: TagPlace
  /** Undefined if it was deleted. */
  readonly now: Digest | undefined
}

/** Finds the tags that another run has moved since they pointed to the index. Warns of each that may be wrong now. */
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
      // The registry has confirmed that it stored the tag.
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
  const now = await readTag(registry, tag, [index.digest], outdated)
  if (now === index.digest) return []
  if (now === before?.digest) {
    // The registry has confirmed the write, so that this is most likely an old answer.
    const [seen, cause] =
      now === undefined ? ['does not return it yet', 'deleted it'] : [`still returns ${now}`, 'moved it back']
    log.warning(
      `${name} was pointed to ${index.digest}, but the registry ${seen}. If that does not change within a few minutes, another run has ${cause}.`,
    )
    return []
  }
  const commit = now && (await readCommit(registry, tag, now))
  // Runs for a branch and for a tag of one commit share the tags of that commit.
  if (commit !== undefined && commit === commitOf(index))
    log.info(`${name} points to ${now}: another run of the same commit has published that since`)
  else
    log.warning(
      `${name} was updated by another run after this one had pointed it to ${index.digest}: now it ${now === undefined ? 'no longer exists' : `points to ${now}`}${commit ? ` (commit ${sanitizeLine(commit)})` : ''}. Use a \`concurrency\` group for the merge job so that its runs wait for each other.`,
    )
  return [{ tag, now }]
}

/** Returns the commit of what a tag points to, if that can be read. */
async function readCommit(registry: Registry, { repository }: TagPlace, digest: Digest): Promise<string | undefined> {
  try {
    const stored = await registry.getManifest(repository, digest)
    return stored && commitOf(stored)
  } catch {
    return undefined
  }
}

function commitOf({ bytes, mediaType, digest }: StoredManifest): string | undefined {
  return parseManifest(bytes, mediaType, digest).annotations[REVISION]
}
