import { formatBytes } from '../text.ts'

/** The progress of Nix, from its reports on activities. */
export interface Progress {
  readonly builds: Tally
  readonly copies: Tally
  /** The unpacked bytes of the paths that are fetched. */
  readonly bytes: Tally
}

/** Done and expected activities of one kind, counted as Nix does for its progress bar. */
interface Tally {
  /** The amount done by activities that have stopped. */
  readonly done: number
  /** The expected amount, as announced separately from the activities. */
  readonly announced: number
  readonly running: ReadonlyMap<string, Amount>
}

interface Amount {
  readonly done: number
  readonly expected: number
}

/** The kinds that are counted, by Nix's `ActivityType` (logging.hh). */
const KINDS: ReadonlyMap<number, keyof Progress> = new Map([
  [100, 'bytes'],
  [103, 'copies'],
  [104, 'builds'],
])

const NO_AMOUNT: Amount = { done: 0, expected: 0 }
const NOTHING: Tally = { done: 0, announced: 0, running: new Map() }
export const NO_PROGRESS: Progress = { builds: NOTHING, copies: NOTHING, bytes: NOTHING }

/** Adds an activity that has started, if its type is counted. */
export function addActivity(progress: Progress, id: string, type: number): Progress {
  return changeTally(progress, KINDS.get(type), (tally) =>
    tally.running.size < RUNNING_LIMIT ? setAmount(tally, id, NO_AMOUNT) : tally,
  )
}

/** More than Nix runs at once: it fetches some dozens of paths in parallel. */
const RUNNING_LIMIT = 1000

/** Updates the progress of a running activity. */
export function updateActivity(progress: Progress, id: string, amount: Amount): Progress {
  return changeTally(progress, kindOfActivity(progress, id), (tally) => setAmount(tally, id, amount))
}

/** Sets the announced number of activities of a type. */
export function announceActivities(progress: Progress, type: number, expected: number): Progress {
  return changeTally(progress, KINDS.get(type), (tally) => ({ ...tally, announced: expected }))
}

/** Removes an activity that has stopped. */
export function stopActivity(progress: Progress, id: string): Progress {
  const kind = kindOfActivity(progress, id)
  return changeTally(progress, kind, (tally) => {
    const { done, expected } = tally.running.get(id) ?? NO_AMOUNT
    const running = new Map(tally.running)
    running.delete(id)
    // Nix reports the bytes of a path at intervals, and not at the end.
    return { ...tally, done: tally.done + (kind === 'bytes' ? Math.max(done, expected) : done), running }
  })
}

/** Returns the progress with at least a number of builds done. */
export function withBuildsDone(progress: Progress, count: number): Progress {
  const missing = count - totalOf(progress.builds).done
  return missing > 0 ? { ...progress, builds: { ...progress.builds, done: progress.builds.done + missing } } : progress
}

/** Returns the number of builds and downloads that are done, and of all that are expected. */
export function countProgress({ builds, copies }: Progress): { readonly done: number; readonly total: number } {
  const [built, fetched] = [totalOf(builds), totalOf(copies)]
  return { done: built.done + fetched.done, total: built.expected + fetched.expected }
}

/** Formats the progress as a line. Returns undefined if there is nothing to build or fetch. */
export function formatProgress({ builds, copies, bytes }: Progress): string | undefined {
  const [built, fetched] = [totalOf(builds), totalOf(copies)]
  const left = built.expected - built.done + fetched.expected - fetched.done
  const parts = [
    built.expected > 0 && `${built.done} of ${built.expected} built`,
    fetched.expected > 0 && `${fetched.done} of ${fetched.expected} fetched${formatFetched(totalOf(bytes))}`,
  ].filter((part) => part !== false)
  return parts.length === 0 ? undefined : `Nix: ${[...parts, `${left} left`].join(', ')}`
}

function formatFetched({ done, expected }: Amount): string {
  return done === 0 ? '' : ` (${formatBytes(done)} of ${formatBytes(expected)})`
}

function totalOf({ done, announced, running }: Tally): Amount {
  const amounts = [...running.values()]
  const all = done + amounts.reduce((sum, amount) => sum + amount.done, 0)
  const expected = done + amounts.reduce((sum, amount) => sum + amount.expected, 0)
  return { done: all, expected: Math.max(all, expected, announced) }
}

function kindOfActivity(progress: Progress, id: string): keyof Progress | undefined {
  return [...KINDS.values()].find((kind) => progress[kind].running.has(id))
}

function setAmount(tally: Tally, id: string, amount: Amount): Tally {
  return { ...tally, running: new Map(tally.running).set(id, amount) }
}

function changeTally(progress: Progress, kind: keyof Progress | undefined, by: (tally: Tally) => Tally): Progress {
  return kind === undefined ? progress : { ...progress, [kind]: by(progress[kind]) }
}
