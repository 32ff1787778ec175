import { parseArgs } from 'node:util'
import { InputError } from '../errors.ts'
import { MODES, type Mode } from '../inputs/mode.ts'
import { type ActionMetadata, type Option, optionsOf } from './options.ts'

/** A command that the arguments ask for. */
export type Command = { readonly kind: 'help'; readonly mode?: Mode | undefined } | RunCommand

/** A mode to run. */
export interface RunCommand {
  readonly kind: 'run'
  readonly mode: Mode
  /** The values of inputs, with the defaults of `action.yml`. */
  readonly inputs: Readonly<Record<string, string>>
  /** The folder of the digest records. */
  readonly records: string
  /** Whether to print the outputs as JSON. */
  readonly json: boolean
  /** Whether to log details for the diagnosis of errors. */
  readonly verbose: boolean
}

/** The name of the command, in messages. */
export const PROGRAM = 'nix-image-action'

export const DEFAULT_RECORDS = 'nix-image-records'

/** The options that are not inputs. */
const OWN_OPTIONS = ['records', 'json', 'verbose', 'help'] as const

/**
 * Reads the arguments of the command.
 * @throws InputError for the first mistake
 */
export function readCommand(args: readonly string[], action: ActionMetadata): Command {
  const [name = '', ...rest] = args
  const mode = MODES.find((one) => one === name)
  const asksForHelp = args.includes('--help') || args.includes('-h')
  if (asksForHelp || name === 'help') return { kind: 'help', mode: mode ?? MODES.find((one) => one === rest[0]) }
  if (mode === undefined) throw unknownMode(name)
  return readRun(mode, rest, action)
}

function unknownMode(name: string): InputError {
  if (name.startsWith('-'))
    return new InputError({
      message: `The mode is missing before ${name}`,
      hint: `Begin with a mode: ${PROGRAM} build, merge, plan or verify.`,
    })
  return new InputError({
    message: `Unknown mode "${name}"`,
    hint: [
      ...suggest(name, MODES),
      `The modes are build, merge, plan and verify. Run "${PROGRAM} --help" for help.`,
    ].join('\n'),
  })
}

function readRun(mode: Mode, args: readonly string[], action: ActionMetadata): RunCommand {
  const options = optionsOf(mode, action)
  const given = readTokens(mode, args, options, action)
  const missing = options.find(({ name, required }) => required && !given.has(name))
  if (missing !== undefined)
    throw new InputError({
      message: `${PROGRAM} ${mode} needs --${missing.name}`,
      hint: `For example:\n  ${PROGRAM} ${mode} --image ghcr.io/owner/app${mode === 'verify' ? ':1.2.3' : ''}`,
    })
  const inputs = options.map(({ name, default: usual }) => [name, given.get(name)?.join('\n') ?? usual] as const)
  return {
    kind: 'run',
    mode,
    inputs: { mode, ...Object.fromEntries(inputs) },
    records: given.get('records')?.at(-1) ?? DEFAULT_RECORDS,
    json: given.has('json'),
    verbose: given.has('verbose'),
  }
}

/** Returns the values of each option. */
function readTokens(
  mode: Mode,
  args: readonly string[],
  options: readonly Option[],
  action: ActionMetadata,
): ReadonlyMap<string, readonly string[]> {
  const own: readonly Pick<Option, 'name' | 'kind'>[] = [
    { name: 'records', kind: 'text' },
    { name: 'json', kind: 'switch' },
    { name: 'verbose', kind: 'switch' },
  ]
  const known = new Map([...own, ...options].map((option) => [option.name, option]))
  const { tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(
      [...known].map(([name, { kind }]) => [name, { type: kind === 'switch' ? 'boolean' : 'string' } as const]),
    ),
    // Mistakes get messages of our own, with suggestions.
    strict: false,
    allowNegative: true,
    tokens: true,
  })
  const values = new Map<string, readonly string[]>()
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue
    if (token.kind === 'positional')
      throw new InputError({
        message: `Unexpected argument "${token.value}"`,
        hint: `Every value belongs to an option, such as --image ${token.value}. Repeat an option that takes a list.`,
      })
    const option = known.get(token.name)
    if (option === undefined) throw unknownOption(mode, token.rawName, [...known.keys()], action)
    const value = option.kind === 'switch' ? readSwitch(token.rawName, token.value) : readValue(token, args)
    const before = values.get(option.name) ?? []
    if (option.kind === 'text' && before.length > 0)
      throw new InputError({ message: `The option --${option.name} is given twice`, hint: 'Give it once.' })
    values.set(option.name, option.kind === 'switch' ? [value] : [...before, value])
  }
  return values
}

function readSwitch(rawName: string, value: string | undefined): string {
  return rawName.startsWith('--no-') ? 'false' : (value ?? 'true')
}

/** Reads the value of an option. Values of `nix-args` are options themselves. */
function readValue(
  token: { readonly name: string; readonly value?: string | undefined; readonly inlineValue?: boolean | undefined },
  args: readonly string[],
): string {
  const { name, value, inlineValue } = token
  const isOption = value?.startsWith('--') && !inlineValue && name !== 'nix-args'
  if (value !== undefined && !isOption) return value
  throw new InputError({
    message: `The option --${name} needs a value`,
    hint: isOption && args.includes(value ?? '') ? `If ${value} is the value, write --${name}=${value}.` : undefined,
  })
}

function unknownOption(mode: Mode, rawName: string, known: readonly string[], action: ActionMetadata): InputError {
  const name = rawName.replace(/^--?(no-)?/, '')
  const others = MODES.filter((one) => optionsOf(one, action).some((option) => option.name === name))
  const hints =
    name === 'token'
      ? ['Secrets are read from the environment only: set GITHUB_TOKEN.']
      : others.length > 0
        ? [`It is an option of ${others.map((one) => `${PROGRAM} ${one}`).join(' and ')}.`]
        : suggest(name, [...known, ...OWN_OPTIONS]).map((text) => text.replace('"', '"--'))
  return new InputError({
    message: `Unknown option ${rawName}`,
    hint: [...hints, `Run "${PROGRAM} ${mode} --help" for all options.`].join('\n'),
  })
}

/** Returns a hint with the most similar name, if one is similar enough to be meant. */
function suggest(name: string, names: readonly string[]): readonly string[] {
  const [nearest] = names
    .map((one) => ({ one, distance: editDistance(name, one) }))
    .filter(({ one, distance }) => distance <= Math.max(1, Math.floor(one.length / 3)))
    .sort((a, b) => a.distance - b.distance)
  return nearest === undefined ? [] : [`Did you mean "${nearest.one}"?`]
}

/**
 * Returns how many characters must be inserted, deleted, replaced or swapped with their neighbour to turn one word into
 * another.
 */
function editDistance(from: string, to: string): number {
  let [before, last]: readonly [readonly number[], readonly number[]] = [
    [],
    Array.from({ length: to.length + 1 }, (_, at) => at),
  ]
  for (let row = 1; row <= from.length; row++) {
    const current = [row]
    for (let at = 1; at <= to.length; at++) {
      const same = from[row - 1] === to[at - 1]
      const swapped = row > 1 && at > 1 && from[row - 1] === to[at - 2] && from[row - 2] === to[at - 1]
      current.push(
        Math.min(
          (current[at - 1] ?? 0) + 1,
          (last[at] ?? 0) + 1,
          (last[at - 1] ?? 0) + (same ? 0 : 1),
          swapped ? (before[at - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY,
        ),
      )
    }
    before = last
    last = current
  }
  return last[to.length] ?? 0
}
