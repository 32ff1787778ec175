// Feeds random input to all code that parses untrusted data, until the time is over or a case fails, hangs or uses too
// much memory.
//
//   npm run fuzz -- --seconds 1800            rounds over all targets, for half an hour
//   npm run fuzz -- --target tar --seed 1     one target, repeating the cases of a seed
//   npm run fuzz -- --target tar --seed 1 --case 17   one case
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Campaign, type Finding, formatFinding, HANG } from '../__tests__/fuzz/campaign.ts'
import { randomOf } from '../__tests__/fuzz/random.ts'
import type { Target } from '../__tests__/fuzz/target.ts'
import { TARGETS } from '../__tests__/fuzz/targets.ts'
import { formatBytes } from '../src/text.ts'

/** The memory limit of a process that runs cases of one target, in bytes. */
const MEMORY_LIMIT = 350e6
/** Limits the heap, so that garbage hardly counts as memory in use. */
const HEAP = ['--max-old-space-size=160', '--max-semi-space-size=4']
/** How long one target runs at a time, in seconds. */
const TURN = 15

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
    target: { type: 'string' },
    case: { type: 'string' },
  },
})
const seconds = Number(values.seconds)
const seed = Number(values.seed)
const targets = TARGETS.filter(({ name }) => values.target === undefined || name === values.target)
if (targets.length === 0 || !Number.isInteger(seed) || !(seconds > 0))
  throw new Error(`Targets are ${TARGETS.map(({ name }) => name).join(', ')}; seed and seconds are numbers`)

interface Total {
  readonly cases: number
  readonly slowest: number
  readonly slowestCase: number
  readonly memory: number
}

const folder = await mkdtemp(join(tmpdir(), 'fuzz-script-'))
try {
  process.stdout.write(`Seed ${seed}\n`)
  process.exitCode = values.case === undefined ? await runRounds() : await runCase(Number(values.case))
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function runCase(first: number): Promise<number> {
  for (const target of targets) {
    const problem = await takeTurn(target, { first, count: 1, seconds: 3600 })
    if (report(target, problem)) return 1
  }
  return 0
}

/** Returns the exit code. */
async function runRounds(): Promise<number> {
  const totals = new Map<Target, Total>()
  const end = performance.now() + seconds * 1000
  const turn = Math.min(TURN, seconds / targets.length)
  for (let round = 1; performance.now() < end; round++) {
    for (const target of targets) {
      if (performance.now() >= end) break
      const before = totals.get(target)
      const first = before?.cases ?? 0
      const result = await takeTurn(target, { first, count: Number.MAX_SAFE_INTEGER, seconds: turn })
      totals.set(target, add(before, result))
      if (report(target, result)) return 1
    }
    process.stdout.write(`\nRound ${round}\n${table(totals)}\n`)
  }
  return 0
}

interface Turn extends Campaign {
  /** The peak memory of the process, in bytes. */
  readonly memory: number
}

interface TurnOptions {
  readonly first: number
  readonly count: number
  readonly seconds: number
}

/** Runs cases of a target in a process that can be killed. */
async function takeTurn(target: Target, { first, count, seconds }: TurnOptions): Promise<Turn> {
  const file = join(folder, 'case')
  const program = fileURLToPath(new URL('fuzz/campaign.ts', import.meta.url))
  const args = [...HEAP, program, target.name, seed, first, count, seconds, file].map(String)
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [output, log] = [textOf(child.stdout), textOf(child.stderr)]
  const watched = new AbortController()
  const exited = new Promise<string>((resolve) => child.once('close', (code, signal) => resolve(`${signal ?? code}`)))
  const hung = watch(file, watched.signal).then((hangs) => {
    if (hangs) child.kill('SIGKILL')
    return hangs
  })
  const end = await exited
  watched.abort()
  if (end === '0') return JSON.parse((await output).split('\n').at(-1) ?? '')
  const number = await caseIn(file)
  const error = (await hung)
    ? `The case did not finish within ${HANG / 1000} s`
    : `The process exited with ${end}\n${(await log).slice(-5000)}`
  const finding: Finding = { number, error, input: target.make(randomOf(seed, number)).print() }
  return { cases: number - first + 1, slowest: HANG, slowestCase: number, memory: 0, finding }
}

/** Reports whether a case hangs. */
async function watch(file: string, signal: AbortSignal): Promise<boolean> {
  let [current, since] = [-1, performance.now()]
  while (!signal.aborted) {
    await sleep(500, undefined, { signal }).catch(() => undefined)
    const number = await caseIn(file)
    if (number !== current) [current, since] = [number, performance.now()]
    else if (performance.now() - since > HANG) return true
  }
  return false
}

async function caseIn(file: string): Promise<number> {
  return Number(await readFile(file, 'utf8').catch(() => '0'))
}

/** Prints a problem, and reports whether there is one. */
function report(target: Target, { cases, finding, memory }: Turn): boolean {
  if (finding !== undefined) process.stdout.write(`\n${formatFinding(target, seed, finding)}\n`)
  else if (memory > MEMORY_LIMIT)
    process.stdout.write(
      `\nTarget ${target.name}, seed ${seed}: ${cases} cases used ${formatBytes(memory)} of memory, at most ${formatBytes(MEMORY_LIMIT)} are allowed\n`,
    )
  else return false
  return true
}

function add(total: Total | undefined, { cases, slowest, slowestCase, memory }: Turn): Total {
  const isSlower = slowest > (total?.slowest ?? 0)
  return {
    cases: (total?.cases ?? 0) + cases,
    slowest: isSlower ? slowest : (total?.slowest ?? 0),
    slowestCase: isSlower ? slowestCase : (total?.slowestCase ?? 0),
    memory: Math.max(total?.memory ?? 0, memory),
  }
}

function table(totals: ReadonlyMap<Target, Total>): string {
  const lines = [...totals].map(
    ([{ name }, { cases, slowest, slowestCase, memory }]) =>
      `  ${name.padEnd(15)} ${`${cases} cases`.padEnd(15)} slowest ${slowest.toFixed(0).padStart(5)} ms (case ${slowestCase}), ${formatBytes(memory)}`,
  )
  return lines.join('\n')
}

async function textOf(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}
