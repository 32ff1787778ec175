import { ActionError } from '../errors.ts'
import { isTag } from '../oci/reference.ts'

/** An input that is missing, ill-formed or contradicts another. */
export class InputError extends ActionError {
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
  throw new InputError({ message: `The input \`${name}\` is "${text}"; it is \`true\` or \`false\`` })
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
    message: `The input \`${name}\` is "${text}"; it can be ${choices.map((one) => `\`${one}\``).join(' or ')}`,
  })
}

/**
 * Names the input in whatever is found to be wrong with its value.
 * @throws InputError
 */
export function valid<Value>(input: string, read: () => Value): Value {
  return validFrom(`The input \`${input}\` is not valid`, read)
}

/**
 * Like `valid`, for a value that may not come from an input.
 * @param origin where the value is from, as the beginning of the message
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

/** What the placeholders in a tag stand for; an empty text is unknown. Those that are absent stay as they are. */
export interface Placeholders {
  /** The full commit ID, of which `{sha}` is the first seven digits. */
  readonly revision?: string
  readonly variant?: string
  readonly system?: string
}

/**
 * Replaces `{sha}`, `{variant}` and `{system}` in a tag.
 * @throws InputError if the value of one is unknown
 */
export function fillPlaceholders(input: string, pattern: string, { revision, variant, system }: Placeholders): string {
  const values = { sha: revision?.slice(0, 7), variant, system }
  return Object.entries(values).reduce((text, [name, value]) => {
    const placeholder = `{${name}}`
    if (value === undefined || !text.includes(placeholder)) return text
    if (value === '') throw unknownValue(input, name)
    return text.replaceAll(placeholder, value)
  }, pattern)
}

/** Reports whether a text is a tag once its `{sha}` is replaced. */
export function isTagPattern(text: string): boolean {
  return isTag(withSampleSha(text))
}

/** The tag that a pattern gives for some commit. */
export function withSampleSha(pattern: string): string {
  return pattern.replaceAll('{sha}', '0123456')
}

function unknownValue(input: string, name: string): InputError {
  if (name === 'variant')
    return new InputError({
      message: `The input \`${input}\` has {variant}, and the input \`variant\` is empty`,
      hint: 'Set `variant` to the name of the image, or leave {variant} out.',
    })
  return new InputError({
    message: `The input \`${input}\` has {${name}}, and the commit is unknown`,
    detail: 'the runner names none in GITHUB_SHA, and no Git work tree has one checked out',
    hint: 'Write the tag without {sha}.',
  })
}
