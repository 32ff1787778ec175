import type { Compression } from '../compress/compress.ts'
import { type Environment, ownSystem } from '../context.ts'
import { InputError } from '../errors.ts'
import { platformOf } from '../nix/system.ts'
import { isTag, parseReference, type Reference, type Repository, tagProblem } from '../oci/reference.ts'
import {
  type CommonInputs,
  inputOf,
  linesOf,
  readBoolean,
  readChoice,
  readCommonInputs,
  readVariant,
  splitList,
  type VariantInputs,
  valid,
  validFrom,
} from './field.ts'
import { DEFAULT_TAG, PARTIAL_INPUTS, TAGS } from './mode.ts'
import { fillPlaceholders, isTagPattern, withSampleSha } from './tags.ts'

/** The inputs of a step with `mode: build`. */
export interface BuildInputs extends CommonInputs, VariantInputs {
  readonly mode: 'build'
  readonly system: string
  readonly flake: string
  readonly attribute: string
  readonly installable: string
  /** A file of Nix expressions, used in place of the flake. Empty: use the flake. */
  readonly file: string
  readonly nixArgs: readonly string[]
  /** The tag for the image of this system, with placeholders. Empty: push by digest only. */
  readonly tag: string
  readonly pushWith: PushWith
  readonly compression: Compression
  /** Published images whose layers can be reused. */
  readonly reuseFrom: readonly Reference[]
  /** Added to the image's config. */
  readonly labels: Readonly<Record<string, string>>
  readonly retentionDays: number
  /** The number of jobs in the matrix, if known. */
  readonly jobTotal: number | undefined
  /** The index of this job in the matrix, from 0. */
  readonly jobIndex: number | undefined
  /** Whether to attach an SBOM to the image. */
  readonly sbom: boolean
  /** Whether to build images that are already published. */
  readonly rebuild: boolean
  /** A shell script that must succeed before the image is handed over. Empty: none. */
  readonly test: string
}

export function readBuildInputs(env: Environment): BuildInputs {
  const common = readCommonInputs(env)
  const system = readSystem(env)
  const flake = readFlake(env)
  const file = readFile(env)
  const pushWith = readPushWith(env)
  const variant = readVariant(env)
  return {
    ...common,
    notices: [...common.notices, ...noticesOfIgnored(env)],
    mode: 'build',
    variant,
    system,
    flake,
    attribute: readFileAttribute(env, file),
    installable: rejectOption('installable', inputOf(env, 'installable')),
    file,
    nixArgs: linesOf(inputOf(env, 'nix-args')).map(checkNixArg),
    tag: readTagInput(env, { system, variant }, pushWith),
    pushWith,
    compression: readCompression(env, pushWith),
    reuseFrom: readReuseFrom(env, common.images, variant),
    labels: readLabels(env, pushWith),
    sbom: readBoolean(env, 'sbom', true),
    rebuild: readBoolean(env, 'rebuild', false),
    retentionDays: readRetention(env),
    test: readTest(env, pushWith),
    jobTotal: Number(inputOf(env, 'job-total')) || undefined,
    jobIndex: /^\d+$/.test(inputOf(env, 'job-index')) ? Number(inputOf(env, 'job-index')) : undefined,
  }
}

/** Returns notices about inputs that `installable` or `file` override. */
export function noticesOfIgnored(env: Environment): readonly string[] {
  const isGiven = (name: string) => !['', PARTIAL_INPUTS[name]?.default].includes(inputOf(env, name))
  const instead = isGiven('installable') ? 'installable' : 'file'
  if (!isGiven(instead)) return []
  const names = instead === 'installable' ? ['flake', 'attribute'] : ['flake']
  return names.filter(isGiven).map((name) => `Ignoring \`${name}\`: \`${instead}\` is set`)
}

export function readSystem(env: Environment): string {
  const given = inputOf(env, 'system')
  const system = given || ownSystem(env)
  // The runner does not say whether this is the input or its default, `matrix.system`.
  const origin =
    given === ''
      ? `The input \`system\` is empty, and the runner reports RUNNER_OS=${env.RUNNER_OS ?? ''} and RUNNER_ARCH=${env.RUNNER_ARCH ?? ''}`
      : 'The input `system` (default: `matrix.system`) is not valid'
  validFrom(origin, () => platformOf(system))
  return system
}

export function readFile(env: Environment): string {
  const file = inputOf(env, 'file')
  if (file !== '' && inputOf(env, 'installable') !== '')
    throw new InputError({
      message: 'The inputs `file` and `installable` are both set',
      hint: 'Remove `installable`, and set `attribute` to an attribute of the file.',
    })
  return file
}

/** Validates the tag as far as possible before the commit is known. */
function readTagInput(
  env: Environment,
  placeholders: { readonly system: string; readonly variant: string },
  pushWith: PushWith,
): string {
  const given = inputOf(env, 'tag')
  if (given === '' && pushWith === 'registry') return ''
  if (given === '')
    throw new InputError({
      message: 'The input `tag` is empty, but Docker can push only with a tag',
      hint: 'Remove `tag` to use its default, {sha}-{system}, or set `push-with: registry`.',
    })
  const pattern = given === DEFAULT_TAG && placeholders.variant !== '' ? '{sha}-{variant}-{system}' : given
  const tag = fillPlaceholders('tag', pattern, placeholders)
  if (isTagPattern(tag)) return pattern
  // A list, a full reference or a branch name was probably meant for `tags`.
  const hint = /[\s,:/]/.test(tag) ? TAGS : undefined
  throw new InputError({
    message: `The input \`tag\` is not valid: ${tagProblem(withSampleSha(tag).replace(/\s+/g, ' '))}`,
    hint,
  })
}

function readRetention(env: Environment): number {
  const text = inputOf(env, 'retention-days') || '1'
  const days = Number(text)
  if (Number.isInteger(days) && days >= 1 && days <= 90) return days
  throw new InputError({ message: `The input \`retention-days\` is "${text}"; it must be a number from 1 to 90` })
}

/** What pushes the image: this action or Docker. */
export type PushWith = 'docker' | 'registry'

export function readPushWith(env: Environment): PushWith {
  return readChoice(env, 'push-with', ['registry', 'docker'])
}

function readTest(env: Environment, pushWith: PushWith): string {
  const script = inputOf(env, 'test')
  if (script !== '' && pushWith === 'docker')
    throw new InputError({
      message: 'The input `test` needs `push-with: registry`: Docker can push only with a tag, before the test',
      hint: 'Remove `push-with`, or run the test in a later step of the job, with the output `image`.',
    })
  return script
}

const LEVELS = { gzip: { most: 9, usual: 4 }, zstd: { most: 19, usual: 3 } } as const

export function readCompression(env: Environment, pushWith: PushWith): Compression {
  const format = readChoice(env, 'compression', ['gzip', 'zstd'])
  const { most, usual } = LEVELS[format]
  const text = inputOf(env, 'compression-level')
  if (pushWith === 'docker' && (format !== 'gzip' || text !== ''))
    throw new InputError({
      message: `The input \`${text === '' ? 'compression' : 'compression-level'}\` needs \`push-with: registry\`: Docker chooses the compression itself`,
      hint: 'Remove `compression` and `compression-level`, or remove `push-with`.',
    })
  const level = text === '' ? usual : Number(text)
  if (Number.isInteger(level) && level >= 1 && level <= most) return { format, level }
  throw new InputError({
    message: `The input \`compression-level\` is "${text}"; for ${format}, it must be a number from 1 to ${most}`,
  })
}

export function readReuseFrom(env: Environment, images: readonly Repository[], variant = ''): readonly Reference[] {
  const given = splitList(inputOf(env, 'reuse-from'))
  // The merge of a variant publishes a tag with the name of the variant by default.
  const isDefault = given.length === 1 && given[0] === 'latest' && variant !== '' && isTag(variant)
  return (isDefault ? [variant, ...given] : given).flatMap((text) => {
    if (isTag(text)) return images.map((repository) => ({ repository, tag: text }))
    const reference = valid('reuse-from', () => parseReference(lowercaseName(text)))
    if (reference.tag !== undefined || reference.digest !== undefined) return [reference]
    throw new InputError({
      message: `The input \`reuse-from\` contains "${text}", which has no tag`,
      hint: 'Write `name:tag`, or only the tag.',
    })
  })
}

/** Makes the name in a reference lowercase, like `image` and `tags`. The tag keeps its case. */
export function lowercaseName(reference: string): string {
  const [name = ''] = /^.*?(?=(:[^/@]*)?(@.*)?$)/.exec(reference) ?? []
  return name.toLowerCase() + reference.slice(name.length)
}

export function readLabels(env: Environment, pushWith: PushWith): Readonly<Record<string, string>> {
  const lines = linesOf(inputOf(env, 'labels'))
  if (lines.length > 0 && pushWith === 'docker')
    throw new InputError({
      message: 'The input `labels` needs `push-with: registry`: Docker pushes the image unchanged',
      hint: 'Remove `labels` or `push-with`, or set the labels in Nix (config.Labels).',
    })
  return Object.fromEntries(lines.map(readLabel))
}

function readLabel(line: string): readonly [string, string] {
  const equals = line.indexOf('=')
  if (equals > 0) return [line.slice(0, equals), line.slice(equals + 1)]
  throw new InputError({ message: `The input \`labels\` contains "${line}", which does not have the form key=value` })
}

export function readFlake(env: Environment): string {
  const flake = rejectOption('flake', inputOf(env, 'flake') || '.')
  if (!flake.includes('#')) return flake
  throw new InputError({
    message: `The input \`flake\` is "${flake}", which also names an attribute`,
    hint: 'Move the part after "#" to `attribute`, or use `installable` (build) for the whole.',
  })
}

export function readAttribute(env: Environment): string {
  const attribute = rejectOption('attribute', inputOf(env, 'attribute') || 'containerImage')
  const hash = attribute.indexOf('#')
  if (hash === -1) return attribute
  throw new InputError({
    message: `The input \`attribute\` is "${attribute}", which also names a flake`,
    hint: `Move the flake to \`flake\`, or use \`installable\` (build) for the whole:\n  attribute: ${attribute.slice(hash + 1) || 'containerImage'}`,
  })
}

/** Reads the attribute of the flake or, if there is one, of the file. Empty: the value of the file itself. */
export function readFileAttribute(env: Environment, file: string): string {
  return file !== '' && inputOf(env, 'attribute') === '' ? '' : readAttribute(env)
}

/** Rejects a value that Nix would read as an option. @throws InputError */
export function rejectOption(input: string, text: string): string {
  if (!text.startsWith('-')) return text
  throw new InputError({
    message: `The input \`${input}\` is "${text}", which Nix would read as an option`,
    hint: `Set \`${input}\` to what to build, and move options for Nix to \`nix-args\`, one per line.`,
  })
}

export function checkNixArg(line: string): string {
  if (!/^--?[A-Za-z][\w-]*\s/.test(line)) return line
  throw new InputError({
    message: `The input \`nix-args\` contains "${line}" on one line, but each line is one argument`,
    hint: `Write each argument on its own line:\n  nix-args: |\n${line
      .split(/\s+/)
      .map((one) => `    ${one}`)
      .join('\n')}`,
  })
}
