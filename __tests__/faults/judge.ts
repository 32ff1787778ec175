import type { Cell } from './cells.ts'
import { FAULTS, type Fault } from './faults.ts'
import type { Play } from './lab.ts'
import type { Scenario } from './scenarios.ts'

/** A violated requirement. */
export type Wrong =
  /** The run does not end. */
  | 'hang'
  /** The run ends without a message, or with one that reports a bug. */
  | 'defect'
  /** The run fails although the fault passes. */
  | 'fails'
  /** The run succeeds, but its results are wrong. */
  | 'false success'
  /** The run fails, and tags have moved without being named in the error. */
  | 'tags'
  /** An image that can be pulled is incomplete or damaged. */
  | 'damage'
  /** The run takes more than two minutes longer than the fault. */
  | 'slow'
  /** The run fails without an error that names the host and a solution. */
  | 'unclear'

export interface Verdict {
  readonly wrong: Wrong
  readonly why: string
}

/** How much longer than the fault a run may take, in milliseconds. */
const PATIENCE = 120_000

/**
 * Judges a run.
 * @param clean the same scenario without a fault
 * @returns undefined if the run meets all requirements
 */
export function judge(cell: Cell, play: Play, clean: Play, scenario: Scenario): Verdict | undefined {
  if (play.hang !== undefined) return { wrong: 'hang', why: play.hang }
  if (play.crash !== undefined) return { wrong: 'defect', why: play.crash }
  const error = play.errors.join('\n')
  if (/bug in nix-image-action/.test(error)) return { wrong: 'defect', why: error }
  if (play.broken.length > 0) return { wrong: 'damage', why: play.broken.join('; ') }
  const result = play.exitCode === 0 ? success(play, clean, scenario) : failure(cell, play, clean)
  return result ?? slowness(cell, play, clean)
}

function success(play: Play, clean: Play, { mayMove = [] }: Scenario): Verdict | undefined {
  const why = differences(clean.after, play.after).filter(({ name }) => {
    const tag = name.split(':').at(-1) ?? ''
    return !(mayMove.includes(tag) && play.warnings.some((warning) => warning.includes(`:${tag}`)))
  })
  if (why.length > 0) return { wrong: 'false success', why: why.map(({ text }) => text).join('; ') }
  if (play.outputs.digest !== clean.outputs.digest && why.length === 0 && mayMove.length === 0)
    return { wrong: 'false success', why: `the output digest is ${play.outputs.digest}` }
  // A second artifact with an equal record does not affect a merge.
  if (distinct(play.records) !== distinct(clean.records))
    return { wrong: 'false success', why: `the records are ${play.records.join('\n') || 'none'}` }
  const systems = (matrix = '') => matrix.replaceAll(',"unchanged":true', '')
  if (systems(play.outputs.matrix) !== systems(clean.outputs.matrix))
    return { wrong: 'false success', why: `the matrix is ${play.outputs.matrix}` }
  return undefined
}

function distinct(records: readonly string[]): string {
  return JSON.stringify([...new Set(records.map((record) => record.trim()))])
}

function failure(cell: Cell, play: Play, clean: Play): Verdict | undefined {
  const error = play.errors.join('\n')
  if (!cell.lasting && !isFirstContact(cell)) return { wrong: 'fails', why: error || 'without a message' }
  if (isHarmless(cell)) return { wrong: 'fails', why: error }
  const moved = differences(play.before, play.after)
  const wrong = moved.filter(({ name }) => play.after[name] !== clean.after[name])
  if (wrong.length > 0) return { wrong: 'tags', why: wrong.map(({ text }) => text).join('; ') }
  // The tag of a build stays at the pushed image if a later step fails.
  if (cell.service === 'artifacts' || cell.scenario === 'build with Docker') return clarity(cell, play, error)
  const unnamed = moved.filter(({ name }) => !error.includes(name.replace(/^\w+/, '')))
  if (unnamed.length > 0)
    return { wrong: 'tags', why: `not named in the error: ${unnamed.map(({ text }) => text).join('; ')}\n${error}` }
  return clarity(cell, play, error)
}

/** Reports whether the first connection of a run is refused, which fails it: the address is probably wrong. */
function isFirstContact({ kind, nth, fault }: Cell): boolean {
  return kind === 'GET /v2/' && nth === 1 && fault === 'connection refused'
}

const ADVICE =
  /the registry's address, and can|needs write access|running the job again|\b(Add|Check|Create|Delete|Fix|Give|Grant|Hand|Have|Install|Leave|Let|Log in|Look|Make|Name|Pass|Push|Put|Re-run|Rename|Remove|Restart|Retry|Run|Set|Start|Try|Use|Wait)\b/

function clarity({ service }: Cell, { errors, host }: Play, error: string): Verdict | undefined {
  if (errors.length !== 1) return { wrong: 'unclear', why: `there are ${errors.length} errors: ${error}` }
  const where = service === 'artifacts' ? /artifact/i.test(error) : service === 'docker' || error.includes(host)
  if (!where) return { wrong: 'unclear', why: `it does not name the host: ${error}` }
  if (!ADVICE.test(error)) return { wrong: 'unclear', why: `it does not say what to do: ${error}` }
  return undefined
}

function slowness(cell: Cell, play: Play, clean: Play): Verdict | undefined {
  const fault: Fault | undefined = cell.service === 'docker' ? undefined : FAULTS[cell.fault as keyof typeof FAULTS]
  const lasted = (fault?.lasts ?? 0) * (cell.lasting && !fault?.harmless ? 1 : play.hits)
  const beyond = play.milliseconds - lasted - clean.milliseconds
  if (beyond <= PATIENCE) return undefined
  return { wrong: 'slow', why: `it takes ${Math.round(play.milliseconds / 1000)} s\n${play.errors.join('\n')}` }
}

function isHarmless({ service, fault }: Cell): boolean {
  const { harmless = false }: Fault | { readonly harmless?: boolean } =
    service === 'docker' ? {} : FAULTS[fault as keyof typeof FAULTS]
  return harmless
}

interface Difference {
  readonly name: string
  readonly text: string
}

function differences(
  expected: Readonly<Record<string, string>>,
  actual: Readonly<Record<string, string>>,
): readonly Difference[] {
  const names = [...new Set([...Object.keys(expected), ...Object.keys(actual)])]
  return names
    .filter((name) => expected[name] !== actual[name])
    .map((name) => ({ name, text: `${name} is ${short(actual[name])}, not ${short(expected[name])}` }))
}

function short(digest: string | undefined): string {
  return digest?.slice(0, 15) ?? 'absent'
}
