import { ActionError, MergeError, messageOf } from '../errors.ts'
import { formatReference } from '../oci/reference.ts'
import { finishUp, NOT_CANCELLABLE, untilAborted } from '../process/cancellation.ts'
import { settleAll } from '../promises.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import {
  formatTagsLeft,
  type RepositoryTag,
  type RestoreOptions,
  readTagDigest,
  restoreTags,
  TagConflict,
  type TagMove,
  type WriteOutcome,
  writeTag,
} from '../registry/tags.ts'

/** How often the tags are planned again because another run has moved one of them. */
const MOST_REPLANS = 3

/** How long unfinished writes and restoring tags may take after the step is cancelled, in milliseconds. */
const FINISH_WAVE = 3000

const RESTORE = 3000

export interface MoveOptions {
  /**
   * Plans the tags again. Absent: a tag that another run has moved is an error.
   * @param done the tags that this merge has moved, which stay as they are
   */
  readonly replan?: (conflict: TagConflict, done: readonly RepositoryTag[]) => Promise<readonly TagMove[]>
  /** Aborted when the step is cancelled. */
  readonly signal?: AbortSignal
}

/**
 * Points tags to an index in waves: first new tags, then existing ones, `latest` last. If a tag can't be moved, restores
 * the tags moved before, as far as the registry allows. If another run has moved a tag in the meantime, plans the
 * remaining tags again. When the step is cancelled, finishes unfinished writes, and restores the tags unless all have
 * moved.
 *
 * Another run may move the same tags to the same index at the same time. A tag that points to the index counts as moved
 * even if this write is refused, as the second write of an immutable tag is. Once another run is known to move tags,
 * restores none: the other run reports them as published.
 * @param planned may contain tags that point to the index already
 * @throws MergeError that says where each tag is
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
      moves = await untilAborted(replan(conflict, done), signal, cancelledWhileMoving)
    }
  } catch (error) {
    const reason = signal.aborted && !(error instanceof ActionError) ? cancelledWhileMoving() : error
    const touched = [...new Set([...state.written.keys(), ...state.byOthers])]
    const options: RestoreOptions = {
      keep: state.byOthers.length > 0,
      outcomeOf: (move) => state.written.get(move),
      ...(signal.aborted && { deadline: AbortSignal.timeout(RESTORE) }),
    }
    const left = await finishUp(() => restoreTags(registry, touched, index.digest, options))
    const nothing = state.written.size === 0 && left.length === 0
    throw withTagState(reason, nothing ? 'No tag has moved.' : formatTagsLeft(left, which))
  }
}

interface MoveState {
  /** The tags that this run has written or tried to write. */
  readonly written: Map<TagMove, WriteOutcome>
  /** The tags that another run has moved to the same index. */
  readonly byOthers: TagMove[]
}

/** @returns a tag that another run has moved to something else, if there is one */
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
      // Includes the tags of later waves: most conflicts are found before the first tag moves.
      const moved = await untilAborted(findMovedByOthers(registry, waiting, index), signal, cancelledWhileMoving)
      byOthers.push(...moved)
      waiting = waiting.filter((move) => !wave.includes(move) && !moved.includes(move))
      const writing = wave.filter((move) => !byOthers.includes(move))
      await writeWave(registry, writing, index, state, signal)
    }
    return undefined
  } catch (error) {
    if (error instanceof TagConflict) return error
    throw error
  }
}

function cancelledWhileMoving(): MergeError {
  return new MergeError({ message: 'The step was cancelled before all tags had moved' })
}

/** Writes the tags of a wave in parallel. */
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
  await untilAborted(Promise.all(writes), signal, cancelledWhileMoving, FINISH_WAVE)
  const failed = failures.find(({ error }) => !(error instanceof TagConflict)) ?? failures[0]
  if (failed === undefined) return
  const { move, error } = failed
  if (error instanceof TagConflict) throw error
  if (signal.aborted && !(error instanceof ActionError)) throw cancelledWhileMoving()
  throw new MergeError({
    message: `Can't move the tag ${formatReference(move.tag)} to ${index.digest}`,
    detail: messageOf(error),
    cause: error,
    hint: 'Fix the cause, and run this job again. The index is already in the registry.',
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
 * Checks that tags still point to what they did when they were planned.
 * @returns the tags that another run, or the same merge in another job of a matrix, has moved to the same index since
 * @throws TagConflict if one points to something else
 */
async function findMovedByOthers(
  registry: Registry,
  moves: readonly TagMove[],
  index: StoredManifest,
): Promise<readonly TagMove[]> {
  const moved = await settleAll(
    moves.map(async (move) => {
      const { tag, before } = move
      const now = await readTagDigest(registry, tag, [before?.digest, index.digest])
      if (now === before?.digest) return []
      if (now === index.digest) return [move]
      throw new TagConflict(move, now)
    }),
  )
  return moved.flat()
}

/** Adds to an error where the tags are. */
function withTagState(error: unknown, where: string): unknown {
  if (!(error instanceof ActionError)) return error
  const { message, detail, hint = 'Run this job again. The index is already in the registry.' } = error.parts
  return new MergeError({ message, detail, hint: `${where}\n${hint}`, cause: error })
}
