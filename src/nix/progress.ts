import { formatBytes } from '../units.ts'

/** How far Nix is, by what it reports of its activities. */
export interface Progress {
  readonly builds: Tally
  readonly copies: Tally
  /** Of what is fetched, unpacked. */
  readonly bytes: Tally
}

/** What is done and expected of one kind, as Nix itself adds it up for its progress bar. */
interface Tally {
  /** Of activities that have ended. */
  readonly done: number
  /** As far as it is announced apart from the activities. */
  readonly announced: number
  readonly running: ReadonlyMap<string, Amount>
}

interface Amount {
  readonly done: number
  readonly expected: number
}

/** The kinds that are counted, by Nix's numbers for types of activities (`ActivityType` in its logging.hh). */
const KINDS: ReadonlyMap<number, keyof Progress> = new Map([
  [100, 'bytes'],
  [103, 'copies'],
  [104, 'builds'],
])

const NO_AMOUNT: Amount = { done: 0, expected: 0 }
const NOTHING: Tally = { done: 0, announced: 0, running: new Map() }
export const NO_PROGRESS: Progress = { builds: NOTHING, copies: NOTHING, bytes: NOTHING }

/** Takes up that an activity has started; those that are not counted change nothing. */
export function started(progress: Progress, id: string, type: number): Progress {
  return change(progress, KINDS.get(type), (tally) => (tally.running.size < MOST ? run(tally, id, NO_AMOUNT) : tally))
}

/** More than Nix has running of a kind: of paths it fetches some dozens at once. */
const MOST = 1000

/** Takes up how far a running activity is. */
export function advanced(progress: Progress, id: string, amount: Amount): Progress {
  return change(progress, kindOf(progress, id), (tally) => run(tally, id, amount))
}

/** Takes up how much of a type of activity there will be. */
export function announced(progress: Progress, type: number, expected: number): Progress {
  return change(progress, KINDS.get(type), (tally) => ({ ...tally, announced: expected }))
}

/** Takes up that an activity has ended. */
export function stopped(progress: Progress, id: string): Progress {
  const kind = kindOf(progress, id)
  return change(progress, kind, (tally) => {
    const { done, expected } = tally.running.get(id) ?? NO_AMOUNT
    const running = new Map(tally.running)
    running.delete(id)
    // Nix says how much of a path it has every so often, and not at its end.
    return { ...tally, done: tally.done + (kind === 'bytes' ? Math.max(done, expected) : done), running }
  })
}

/** One line for people; nothing as long as there is nothing to build or to fetch. */
export function formatProgress({ builds, copies, bytes }: Progress): string | undefined {
  const [built, fetched] = [total(builds), total(copies)]
  const left = built.expected - built.done + fetched.expected - fetched.done
  const parts = [
    built.expected > 0 && `${built.done} of ${built.expected} built`,
    fetched.expected > 0 && `${fetched.done} of ${fetched.expected} fetched${formatFetched(total(bytes))}`,
  ].filter((part) => part !== false)
  return parts.length === 0 ? undefined : `Nix: ${[...parts, `${left} left`].join(', ')}`
}

function formatFetched({ done, expected }: Amount): string {
  return done === 0 ? '' : ` (${formatBytes(done)} of ${formatBytes(expected)})`
}

function total({ done, announced, running }: Tally): Amount {
  const amounts = [...running.values()]
  const all = done + amounts.reduce((sum, amount) => sum + amount.done, 0)
  const expected = done + amounts.reduce((sum, amount) => sum + amount.expected, 0)
  return { done: all, expected: Math.max(all, expected, announced) }
}

function kindOf(progress: Progress, id: string): keyof Progress | undefined {
  return [...KINDS.values()].find((kind) => progress[kind].running.has(id))
}

function run(tally: Tally, id: string, amount: Amount): Tally {
  return { ...tally, running: new Map(tally.running).set(id, amount) }
}

function change(progress: Progress, kind: keyof Progress | undefined, by: (tally: Tally) => Tally): Progress {
  return kind === undefined ? progress : { ...progress, [kind]: by(progress[kind]) }
}
