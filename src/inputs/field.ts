import { Failure } from '../failure.ts'

/** An input that is missing, ill-formed or contradicts another. */
export class InputError extends Failure {
  override readonly name = 'InputError'
}

/** Variables of the process. */
export type Environment = Readonly<Record<string, string | undefined>>

/** What an input is given, without the space around it; empty where it is not. The runner hands it over as `INPUT_…`. */
export function inputOf(env: Environment, name: string): string {
  return (env[`INPUT_${name.toUpperCase()}`] ?? '').trim()
}

/** @throws InputError where it is neither `true` nor `false` */
export function readBoolean(env: Environment, name: string, fallback: boolean): boolean {
  const text = inputOf(env, name)
  if (text === '') return fallback
  if (/^(true|false)$/i.test(text)) return text.toLowerCase() === 'true'
  throw new InputError({ what: `The input \`${name}\` is "${text}"; it is \`true\` or \`false\`` })
}

/**
 * One of some words; the first is the default.
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
    what: `The input \`${name}\` is "${text}"; it can be ${choices.map((one) => `\`${one}\``).join(' or ')}`,
  })
}

/**
 * Names the input in whatever is found to be wrong with its value.
 * @throws InputError
 */
export function valid<Value>(input: string, read: () => Value): Value {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof Failure) || error instanceof InputError) throw error
    const { what, help } = error.parts
    throw new InputError({ what: `The input \`${input}\` is not valid: ${what}`, help, cause: error })
  }
}

/** The lines that have a text. */
export function linesOf(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
}

/** What is separated by lines or commas. */
export function listOf(text: string): readonly string[] {
  return linesOf(text.replaceAll(',', '\n'))
}

/** Each text once, where it came first. */
export function unique(texts: readonly string[]): readonly string[] {
  return [...new Set(texts)]
}

/** One item for each key: the last, where the first came. */
export function uniqueBy<Item>(items: readonly Item[], key: (item: Item) => string): readonly Item[] {
  return [...new Map(items.map((item) => [key(item), item])).values()]
}

/**
 * Puts the short commit SHA where a tag has `{sha}`.
 * @throws InputError where the runner names no commit
 */
export function fillSha(env: Environment, input: string, pattern: string): string {
  if (!pattern.includes('{sha}')) return pattern
  const sha = env.GITHUB_SHA ?? ''
  if (sha !== '') return pattern.replaceAll('{sha}', sha.slice(0, 7))
  throw new InputError({ what: `The input \`${input}\` has {sha}, and the runner gives no commit in GITHUB_SHA` })
}
