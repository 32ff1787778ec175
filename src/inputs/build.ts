import type { Compression } from '../compress/compress.ts'
import { type Environment, ownSystem } from '../context.ts'
import { InputError } from '../errors.ts'
import { platformOf } from '../nix/system.ts'
import { type Reference, tagProblem } from '../oci/reference.ts'
import { type CommonInputs, readCommonInputs, readVariant, type VariantInputs } from './common.ts'
import { inputOf, linesOf, readBoolean, validFrom } from './field.ts'
import { DEFAULT_TAG, PARTIAL_INPUTS, TAGS } from './mode.ts'
import { checkNixArg, readAttribute, readFlake, rejectOption } from './nix.ts'
import { fillPlaceholders, isTagPattern, withSampleSha } from './placeholders.ts'
import { type PushWith, readCompression, readLabels, readPushWith, readReuseFrom } from './push.ts'

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
  /** Whether to build images that are already published. */
  readonly rebuild: boolean
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
    // Empty: the file's value itself.
    attribute: file !== '' && inputOf(env, 'attribute') === '' ? '' : readAttribute(env),
    installable: rejectOption('installable', inputOf(env, 'installable')),
    file,
    nixArgs: linesOf(inputOf(env, 'nix-args')).map(checkNixArg),
    tag: readTagInput(env, { system, variant }, pushWith),
    pushWith,
    compression: readCompression(env, pushWith),
    reuseFrom: readReuseFrom(env, common.images, variant),
    labels: readLabels(env, pushWith),
    rebuild: readBoolean(env, 'rebuild', false),
    retentionDays: readRetention(env),
    jobTotal: Number(inputOf(env, 'job-total')) || undefined,
    jobIndex: /^\d+$/.test(inputOf(env, 'job-index')) ? Number(inputOf(env, 'job-index')) : undefined,
  }
}

/** Returns notices about inputs that `installable` or `file` override. */
function noticesOfIgnored(env: Environment): readonly string[] {
  const isGiven = (name: string) => !['', PARTIAL_INPUTS[name]?.default].includes(inputOf(env, name))
  const instead = isGiven('installable') ? 'installable' : 'file'
  if (!isGiven(instead)) return []
  const names = instead === 'installable' ? ['flake', 'attribute'] : ['flake']
  return names.filter(isGiven).map((name) => `Ignoring \`${name}\`: \`${instead}\` is set`)
}

function readSystem(env: Environment): string {
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
