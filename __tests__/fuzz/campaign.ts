import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomOf } from './random.ts'
import type { Target } from './target.ts'

/** A case that crashed, hung or gave a wrong result. */
export interface Finding {
  readonly number: number
  readonly error: string
  readonly input: string
}

export interface Campaign {
  readonly cases: number
  /** In milliseconds. */
  readonly slowest: number
  /** The number of the slowest case. */
  readonly slowestCase: number
  readonly finding?: Finding
}

export interface CampaignOptions {
  readonly seed: number
  /** The number of the first case. */
  readonly first?: number
  /** The maximum number of cases. */
  readonly count?: number
  readonly seconds: number
  /** Called before each case. */
  readonly onCase?: (number: number) => void
}

/** The time limit of a case, in milliseconds. */
export const HANG = 10_000

/** Runs cases of a target until the time is over or a case fails. */
export async function runCampaign(
  target: Target,
  { seed, first = 0, count = Number.POSITIVE_INFINITY, seconds, onCase }: CampaignOptions,
): Promise<Campaign> {
  const folder = await mkdtemp(join(tmpdir(), 'fuzz-'))
  const end = performance.now() + seconds * 1000
  let slowest = 0
  let slowestCase = first
  let number = first
  try {
    for (; number - first < count && performance.now() < end; number++) {
      onCase?.(number)
      const { run, print } = target.make(randomOf(seed, number))
      const started = performance.now()
      const error = await errorOf(() => run(folder))
      const took = performance.now() - started
      if (took > slowest) [slowest, slowestCase] = [took, number]
      const problem = error ?? (took > HANG ? `It took ${(took / 1000).toFixed(1)} s` : undefined)
      if (problem !== undefined)
        return { cases: number - first + 1, slowest, slowestCase, finding: { number, error: problem, input: print() } }
    }
    return { cases: number - first, slowest, slowestCase }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Formats a finding, with the command that repeats it. */
export function formatFinding({ name }: Target, seed: number, { number, error, input }: Finding): string {
  const shown =
    input.length > INPUT_LIMIT
      ? `${input.slice(0, INPUT_LIMIT)}… (${input.length} characters; repeat the case to get all of them)`
      : input
  return `Target ${name}, seed ${seed}, case ${number}: ${error}
Repeat it with:
  npm run fuzz -- --target ${name} --seed ${seed} --case ${number}
The input:
  ${shown}`
}

const INPUT_LIMIT = 20_000

async function errorOf(work: () => Promise<void>): Promise<string | undefined> {
  try {
    await work()
    return undefined
  } catch (error) {
    // In Jest, errors of Node's modules are from another realm, so that `instanceof Error` is false.
    return typeof error === 'object' && error !== null && 'stack' in error ? String(error.stack) : String(error)
  }
}
