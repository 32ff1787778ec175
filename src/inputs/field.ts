import type { Environment } from '../context.ts'
import { ActionError, InputError } from '../errors.ts'

/** Returns the value of an input, trimmed, or an empty string. The runner passes inputs as `INPUT_…` variables. */
export function inputOf(env: Environment, name: string): string {
  return (env[`INPUT_${name.toUpperCase()}`] ?? '').trim()
}

/** @throws InputError if the value is neither `true` nor `false` */
export function readBoolean(env: Environment, name: string, fallback: boolean): boolean {
  const text = inputOf(env, name)
  if (text === '') return fallback
  if (/^(true|false)$/i.test(text)) return text.toLowerCase() === 'true'
  throw new InputError({ message: `The input \`${name}\` is "${text}"; it must be \`true\` or \`false\`` })
}

/**
 * Reads an input that has a fixed set of values. The first one is the default.
 * @throws InputError
 */
export function readChoice<Choice extends string>(
  env: Environment,
  name: string,
  choices: readonly [Choice, ...Choice[]],
): Choice {
  const text = inputOf(env, name)
  if (text === '') return choices[0]
  const choice = choices.find((one) => one === text)
  if (choice !== undefined) return choice
  throw new InputError({
    message: `The input \`${name}\` is "${text}"; it must be ${choices.map((one) => `\`${one}\``).join(' or ')}`,
  })
}

/**
 * Reads a value, and names the input in errors.
 * @throws InputError
 */
export function valid<Value>(input: string, read: () => Value): Value {
  return validFrom(`The input \`${input}\` is not valid`, read)
}

/**
 * Like `valid`, for a value that may not come from an input.
 * @param origin where the value comes from, as the beginning of the message
 * @throws InputError
 */
export function validFrom<Value>(origin: string, read: () => Value): Value {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof ActionError) || error instanceof InputError) throw error
    const { message, hint } = error.parts
    throw new InputError({ message: `${origin}: ${message}`, hint, cause: error })
  }
}

/** Returns the lines of a text, trimmed, without empty ones. */
export function linesOf(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
}

/** Returns items that are separated by line breaks or commas. */
export function splitList(text: string): readonly string[] {
  return linesOf(text.replaceAll(',', '\n'))
}

export function unique(texts: readonly string[]): readonly string[] {
  return [...new Set(texts)]
}

/** Returns the last item for each key, in the order of first occurrence. */
export function uniqueBy<Item>(items: readonly Item[], key: (item: Item) => string): readonly Item[] {
  return [...new Map(items.map((item) => [key(item), item])).values()]
}
