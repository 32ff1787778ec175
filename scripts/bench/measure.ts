import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'

/** The resource usage of a process that has exited. */
export interface Measured {
  readonly seconds: number
  /** The CPU time of all cores. Undefined without GNU time. */
  readonly cpuSeconds: number | undefined
  /** The peak resident set size, in bytes. Undefined without GNU time. */
  readonly memory: number | undefined
  readonly output: string
}

const TIME = '/usr/bin/time'

/** Runs a program and measures it. Throws with its output if it fails. */
export async function measure(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<Measured> {
  const timed = existsSync(TIME) ? [TIME, '-f', '\n%U %S %M', program] : [program]
  const [command = program, ...rest] = [...timed, ...args]
  const started = performance.now()
  const child = spawn(command, rest, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr, code] = await Promise.all([
    textOf(child.stdout),
    textOf(child.stderr),
    new Promise<number | null>((resolve) => child.on('close', resolve)),
  ])
  const seconds = (performance.now() - started) / 1000
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed:\n${stdout.slice(-2000)}${stderr.slice(-2000)}`)
  const [, user, system, kilobytes] = /\n([\d.]+) ([\d.]+) (\d+)\n$/.exec(stderr) ?? []
  const known = kilobytes !== undefined
  return {
    seconds,
    cpuSeconds: known ? Number(user) + Number(system) : undefined,
    memory: known ? Number(kilobytes) * 1024 : undefined,
    output: stdout,
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other)
  const middle = Math.floor(sorted.length / 2)
  const high = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? high : (high + (sorted[middle - 1] ?? Number.NaN)) / 2
}

async function textOf(stream: AsyncIterable<Buffer>): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += chunk.toString()
  return text
}
