import { gzipSync } from 'node:zlib'
import { ActionError } from '../../src/errors.ts'
import type { Random } from './random.ts'

/** Code that reads untrusted data, with a generator of inputs. */
export interface Target {
  readonly name: string
  /** Returns one case, which is determined by the random values. */
  make(random: Random): Case
}

export interface Case {
  /** Passes if it succeeds or throws an `ActionError`, whose message is meant for users. */
  run(folder: string): Promise<void>
  /** Formats the input as JavaScript. */
  print(): string
}

/**
 * Defines a target.
 * @param run throws if the code handles an input incorrectly. An `ActionError` counts as correct. Its second argument is
 * a folder for files
 */
export function defineTarget<Input extends Inputs>(
  name: string,
  generate: (random: Random) => Input,
  run: (input: Input, folder: string) => void | Promise<void>,
): Target {
  return {
    name,
    make(random) {
      const input = generate(random)
      return { run: (folder) => exceptFailures(() => run(input, folder)), print: () => print(input) }
    },
  }
}

type Inputs = string | Buffer | number | boolean | readonly Inputs[] | { readonly [key: string]: Inputs }

async function exceptFailures(work: () => void | Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!(error instanceof ActionError)) throw error
  }
}

/** Returns the result of `work`, or the message of the `ActionError` that it throws. */
export async function outcomeOf<Result>(
  work: () => Result | Promise<Result>,
): Promise<{ readonly result: Result } | { readonly failure: string }> {
  try {
    return { result: await work() }
  } catch (error) {
    if (error instanceof ActionError) return { failure: error.message }
    throw error
  }
}

/** Throws if a condition that must be true for all inputs is false. */
export function check(holds: boolean, message: string, ...values: readonly unknown[]): void {
  if (!holds) throw new Error([message, ...values.map((value) => JSON.stringify(value)?.slice(0, 1000))].join('\n'))
}

export function checkSame(one: unknown, other: unknown, message: string): void {
  check(JSON.stringify(one) === JSON.stringify(other), message, one, other)
}

function print(input: Inputs): string {
  if (Buffer.isBuffer(input)) return formatBuffer(input)
  if (Array.isArray(input)) return `[${input.map(print).join(', ')}]`
  if (typeof input !== 'object') return JSON.stringify(input)
  const fields = Object.entries(input).map(([key, value]) => `${JSON.stringify(key)}: ${print(value)}`)
  return `{ ${fields.join(', ')} }`
}

function formatBuffer(bytes: Buffer): string {
  const plain = `Buffer.from('${bytes.toString('base64')}', 'base64')`
  const packed = `gunzipSync(Buffer.from('${gzipSync(bytes).toString('base64')}', 'base64'))`
  return plain.length <= packed.length ? plain : packed
}
