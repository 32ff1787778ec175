import type { Environment } from '../context.ts'
import { ActionError, InputError } from '../errors.ts'
import { platformOf } from '../nix/system.ts'
import { formatRepository, parseReference, type Repository } from '../oci/reference.ts'
import { isVariant } from '../record/record.ts'

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

/** Reads the systems to plan or merge. Empty: all that there are. */
export function readSystems(env: Environment): readonly string[] {
  const systems = unique(splitList(inputOf(env, 'systems')))
  for (const system of systems) valid('systems', () => platformOf(system))
  return systems
}

/** The inputs of all modes. */
export interface StepInputs {
  /** Whether to write a job summary. */
  readonly summary: boolean
  /** Messages about how the inputs were read, shown as annotations. */
  readonly notices: readonly string[]
  /** Messages about how the inputs were read, shown in the log. */
  readonly notes: readonly string[]
}

/** The inputs of the modes that build or publish images. */
export interface CommonInputs extends StepInputs {
  /** At least one, all different. */
  readonly images: readonly Repository[]
  /** `false`: build and check everything, but publish nothing. */
  readonly push: boolean
}

/** The input that build and merge share. */
export interface VariantInputs {
  /** Distinguishes several images of one repository in a run. Empty if there is only one. */
  readonly variant: string
}

export function readCommonInputs(env: Environment): CommonInputs {
  const names = linesOf(inputOf(env, 'image'))
  if (names.length === 0)
    throw new InputError({
      message: 'The input `image` is missing',
      hint: 'Add the name of the image, without a tag:\n  image: ghcr.io/${{ github.repository }}',
    })
  const lowered = names.filter((name) => name !== name.toLowerCase())
  const listed = names.find((name) => name.includes(','))
  if (listed !== undefined)
    throw new InputError({
      message: `The input \`image\` is not valid: "${listed}" contains a comma`,
      hint: 'Write one name per line, without commas.',
    })
  const images = names.map((name) => valid('image', () => readImageName(name)))
  return {
    images: uniqueBy(images, formatRepository),
    push: readBoolean(env, 'push', true),
    summary: readBoolean(env, 'summary', true),
    notices: [],
    notes: lowered.map((name) => `Using "${name.toLowerCase()}" for "${name}": image names are lowercase`),
  }
}

function readImageName(name: string): Repository {
  const { repository, tag, digest } = parseReference(name.toLowerCase())
  if (tag === undefined && digest === undefined) return repository
  throw new InputError({
    message: `The input \`image\` is "${name}", which has a ${tag === undefined ? 'digest' : 'tag'}`,
    hint: `Remove it: \`image: ${formatRepository(repository)}\`. Set tags in \`tag\` (build) or \`tags\` (merge).`,
  })
}

export function readVariant(env: Environment): string {
  const variant = inputOf(env, 'variant')
  if (variant === '' || isVariant(variant)) return variant
  throw new InputError({
    message: `The input \`variant\` is "${variant}"; it must have at most 64 characters: lowercase letters, digits, ".", "_" and "-"`,
  })
}
