import type { Compression } from '../compress/compress.ts'
import { ownSystem } from '../context.ts'
import { platformOf } from '../nix/system.ts'
import { type Annotation, parseAnnotation } from '../oci/annotation.ts'
import type { LayerFormat } from '../oci/media-type.ts'
import {
  formatRepository,
  isTag,
  parseReference,
  type Reference,
  type Repository,
  tagProblem,
} from '../oci/reference.ts'
import { isVariant } from '../record/record.ts'
import {
  type Environment,
  fillPlaceholders,
  InputError,
  inputOf,
  isTagPattern,
  linesOf,
  listOf,
  readBoolean,
  readChoice,
  unique,
  uniqueBy,
  valid,
  validFrom,
  withSampleSha,
} from './field.ts'
import { readMetadata, readTags, type TagReference } from './tags.ts'

interface CommonInputs {
  /** At least one, all different. */
  readonly images: readonly Repository[]
  /** `false`: build and check everything, publish nothing. */
  readonly push: boolean
  /** What the user should know of how the inputs were read. */
  readonly notices: readonly string[]
  /** As `notices`, for those who read the log. */
  readonly notes: readonly string[]
}

/** What builds and merges are given. */
interface VariantInputs {
  /** Keeps apart several images of one repository in a run; empty if there is one. */
  readonly variant: string
}

/** What a step with `mode: build` is given. */
export interface BuildInputs extends CommonInputs, VariantInputs {
  readonly mode: 'build'
  readonly system: string
  readonly flake: string
  readonly attribute: string
  readonly installable: string
  /** A file of Nix expressions that has `attribute`, in place of the flake; or empty. */
  readonly file: string
  readonly nixArgs: readonly string[]
  /** The tag of this system's image, with its placeholders; empty: it is pushed by digest alone. */
  readonly tag: string
  readonly pushWith: 'docker' | 'registry'
  readonly compression: Compression
  /** Images published before, whose layers need not be pushed again. */
  readonly reuseFrom: readonly Reference[]
  /** Added to the image's config. */
  readonly labels: Readonly<Record<string, string>>
  readonly retentionDays: number
  /** How many jobs the matrix has, where the runner tells. */
  readonly jobTotal: number | undefined
  /** Which of them this one is, from 0. */
  readonly jobIndex: number | undefined
  /** Builds also what is published unchanged. */
  readonly rebuild: boolean
}

/** What a step with `mode: merge` is given. */
export interface MergeInputs extends CommonInputs, VariantInputs {
  readonly mode: 'merge'
  /** At least one, all different. They may have `{sha}`. */
  readonly tags: readonly TagReference[]
  readonly annotations: readonly Annotation[]
  /** The systems that must all be there; empty: those of the records. */
  readonly systems: readonly string[]
  /** Records or bare digests as text; nothing: they are in the run's artifacts. */
  readonly digests: readonly string[] | undefined
  /** The names of other actions' artifacts, `*` standing for any text, whose files are named by digests; or empty. */
  readonly artifactPattern: string
  /** Whether a tag may lose a platform that it has. */
  readonly allowMissingPlatforms: boolean
  /** Whether a tag may be moved to a commit before the one that it is of. */
  readonly allowOlder: boolean
  /** Whether the index is made anew where nothing has changed. */
  readonly republish: boolean
  /** For the Git host's API; or empty. */
  readonly token: string
}

/** What a step with `mode: plan` is given. */
export interface PlanInputs extends CommonInputs {
  readonly mode: 'plan'
  readonly flake: string
  readonly attribute: string
  readonly nixArgs: readonly string[]
  /** Images published before, which may be what would be built. */
  readonly reuseFrom: readonly Reference[]
  /** Of the layers that a build pushes; nothing where Docker pushes them. */
  readonly format: LayerFormat | undefined
  /** Added to the images' configs. */
  readonly labels: Readonly<Record<string, string>>
  /** Whether all is built, whatever is published. */
  readonly rebuild: boolean
  /** The labels of runners for systems, where they are not the hosted ones. */
  readonly runners: ReadonlyMap<string, string>
}

/**
 * Reads the step's inputs as the runner hands them over, in `INPUT_…` variables.
 * @throws InputError for the first one that is wrong
 */
export function readInputs(env: Environment): BuildInputs | MergeInputs | PlanInputs {
  const mode = readMode(env)
  const notices = noticesOfOtherModes(env, mode)
  const inputs = readInputsOf(env, mode)
  return { ...inputs, notices: [...notices, ...inputs.notices] }
}

function readInputsOf(env: Environment, mode: Mode): BuildInputs | MergeInputs | PlanInputs {
  switch (mode) {
    case 'build':
      return readBuildInputs(env)
    case 'merge':
      return readMergeInputs(env)
    case 'plan':
      return readPlanInputs(env)
  }
}

type Mode = 'build' | 'merge' | 'plan'

function readMode(env: Environment): Mode {
  const mode = inputOf(env, 'mode')
  if (mode === 'build' || mode === 'merge' || mode === 'plan') return mode
  throw new InputError({
    message: mode === '' ? 'The input `mode` is missing' : `The input \`mode\` is "${mode}", which is no mode`,
    hint: 'Add `mode: build` to the jobs that build the image of one system, and `mode: merge` to the job that publishes them together; `mode: plan` to one before them, if it is to make their matrix.',
  })
}

function readBuildInputs(env: Environment): BuildInputs {
  const common = readCommonInputs(env)
  const system = readSystem(env)
  const flake = readFlake(env)
  const file = readFile(env)
  const pushWith = readPushWith(env)
  const variant = readVariant(env)
  return {
    ...common,
    notices: [...common.notices, ...noticesOfPassedOver(env)],
    mode: 'build',
    variant,
    system,
    flake,
    // Empty, it is the value of the file itself.
    attribute: file !== '' && inputOf(env, 'attribute') === '' ? '' : readAttribute(env),
    installable: refuseOption('installable', inputOf(env, 'installable')),
    file,
    nixArgs: linesOf(inputOf(env, 'nix-args')).map(checkNixArg),
    tag: readTag(env, { system, variant }, pushWith),
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

function readMergeInputs(env: Environment): MergeInputs {
  const common = readCommonInputs(env)
  const metadata = readMetadata(env)
  const annotations = linesOf(inputOf(env, 'annotations'))
  const systems = unique(listOf(inputOf(env, 'systems')))
  for (const system of systems) valid('systems', () => platformOf(system))
  const variant = readVariant(env)
  const { tags, notices } = readTags(env, common.images, metadata, variant)
  return {
    ...common,
    mode: 'merge',
    variant,
    // Where nothing is published, nobody misses a tag.
    notices: common.push ? [...common.notices, ...notices] : common.notices,
    tags,
    annotations: (annotations.length > 0 ? annotations : (metadata?.annotations ?? [])).flatMap((text) =>
      valid('annotations', () => parseAnnotation(text)),
    ),
    systems,
    digests: readDigests(env, common.push),
    artifactPattern: inputOf(env, 'artifact-pattern'),
    allowMissingPlatforms: readBoolean(env, 'allow-missing-platforms', false),
    allowOlder: readBoolean(env, 'allow-older', false),
    republish: readBoolean(env, 'republish', false),
    token: inputOf(env, 'token'),
  }
}

function readPlanInputs(env: Environment): PlanInputs {
  const common = readCommonInputs(env)
  const pushWith = readPushWith(env)
  const { format } = readCompression(env, pushWith)
  return {
    ...common,
    mode: 'plan',
    flake: readFlake(env),
    attribute: readAttribute(env),
    nixArgs: linesOf(inputOf(env, 'nix-args')).map(checkNixArg),
    reuseFrom: readReuseFrom(env, common.images),
    format: pushWith === 'registry' ? format : undefined,
    labels: readLabels(env, pushWith),
    rebuild: readBoolean(env, 'rebuild', false),
    runners: readRunners(env),
  }
}

/** An input that some modes don't have. */
interface PartialInput {
  readonly modes: readonly Mode[]
  /** Its default in action.yml, which it has in every mode; absent: it is empty. */
  readonly usual?: string
  /** Modes in which something else would be built or published than is asked for, if it were passed over; what to do. */
  readonly refused?: Readonly<Partial<Record<Mode, string>>>
}

const IN_FLAKE =
  'plan looks for the systems in the flake: name the flake in `flake` and the image in `attribute`; or leave this job out, and write the matrix by hand.'
const TAGS =
  'build gives the image of its system one tag, `tag`. The tags that users pull are `tags` of a step with `mode: merge`, which may follow in the same job.'

/** Its default in action.yml alone: an empty text and a missing input look alike. */
const DEFAULT_TAG = '{sha}-{system}'

/** `system`, `token` and what the runner sets are not here: their defaults have a value in every mode. */
const PARTIAL_INPUTS: Readonly<Record<string, PartialInput>> = {
  flake: { modes: ['build', 'plan'], usual: '.' },
  attribute: { modes: ['build', 'plan'], usual: 'containerImage' },
  installable: { modes: ['build'], refused: { plan: IN_FLAKE } },
  file: { modes: ['build'], refused: { plan: IN_FLAKE } },
  'nix-args': { modes: ['build', 'plan'] },
  variant: { modes: ['build', 'merge'] },
  tag: {
    modes: ['build'],
    usual: DEFAULT_TAG,
    refused: { merge: 'The tags that merge publishes are `tags`.' },
  },
  'push-with': { modes: ['build', 'plan'], usual: 'registry' },
  compression: { modes: ['build', 'plan'], usual: 'gzip' },
  'compression-level': { modes: ['build'] },
  'reuse-from': { modes: ['build', 'plan'], usual: 'latest' },
  labels: { modes: ['build', 'plan'] },
  rebuild: { modes: ['build', 'plan'], usual: 'false' },
  'retention-days': { modes: ['build'], usual: '1' },
  runners: { modes: ['plan'] },
  tags: { modes: ['merge'], refused: { build: TAGS } },
  annotations: { modes: ['merge'] },
  systems: { modes: ['merge'], refused: { build: 'build makes the image of one `system`.', plan: IN_FLAKE } },
  digests: { modes: ['merge'] },
  'artifact-pattern': { modes: ['merge'] },
  'allow-missing-platforms': { modes: ['merge'], usual: 'false' },
  'allow-older': { modes: ['merge'], usual: 'false' },
  republish: { modes: ['merge'], usual: 'false' },
}

/**
 * Tells of inputs of other modes, which this one does not have.
 * @throws InputError where the step would do something else than its author means
 */
function noticesOfOtherModes(env: Environment, mode: Mode): readonly string[] {
  const given = Object.entries(PARTIAL_INPUTS).filter(([name, { modes, usual = '' }]) => {
    const text = inputOf(env, name)
    return !modes.includes(mode) && text !== '' && text !== usual
  })
  return given.map(([name, { modes, refused }]) => {
    const message = `The input \`${name}\` is not for \`mode: ${mode}\``
    const owners = `\`${name}\` is for ${modes.map((one) => `\`mode: ${one}\``).join(' and ')}.`
    const instead = refused?.[mode]
    if (instead !== undefined) throw new InputError({ message, hint: `${owners} ${instead}` })
    return `${message}, which does without it. ${owners}`
  })
}

/** Tells of inputs in whose place another one says what is built. */
function noticesOfPassedOver(env: Environment): readonly string[] {
  const isGiven = (name: string) => !['', PARTIAL_INPUTS[name]?.usual].includes(inputOf(env, name))
  const instead = isGiven('installable') ? 'installable' : 'file'
  if (!isGiven(instead)) return []
  const names = instead === 'installable' ? ['flake', 'attribute'] : ['flake']
  return names.filter(isGiven).map((name) => `\`${name}\` is passed over: \`${instead}\` says what is built`)
}

function readDigests(env: Environment, push: boolean): readonly string[] | undefined {
  const digests = linesOf(inputOf(env, 'digests'))
  if (digests.length > 0) return digests
  // Where it is not given at all, there is not even a line.
  if ((env.INPUT_DIGESTS ?? '') === '') return undefined
  // Builds that push nothing have no records.
  if (!push) return []
  throw new InputError({
    message: 'The input `digests` has only empty lines: the outputs that it is made of are empty',
    hint: 'Did the builds fail, or push nothing? Or does a record hold a secret, such as the user name in the name of the image? The runner drops such outputs: keep that in `vars`, not in `secrets`.',
  })
}

function readRunners(env: Environment): ReadonlyMap<string, string> {
  const runners = linesOf(inputOf(env, 'runners')).map(readRunner)
  const twice = runners.find(([system], at) => runners.findIndex(([one]) => one === system) !== at)
  if (twice === undefined) return new Map(runners)
  throw new InputError({ message: `The input \`runners\` has two runners for ${twice[0]}`, hint: ONE_RUNNER })
}

const ONE_RUNNER = 'Write one system a line, each with one label:\n  runners: |\n    aarch64-linux=self-hosted-arm'

function readRunner(line: string): readonly [string, string] {
  const [, system, runner] = /^([^=\s]+)\s*=\s*(\S.*)$/.exec(line) ?? []
  // No label has a comma: several systems on one line, or several labels.
  if (system === undefined || runner === undefined || runner.includes(','))
    throw new InputError({
      message: `The input \`runners\` has "${line}", which is not of the form system=label`,
      hint: ONE_RUNNER,
    })
  valid('runners', () => platformOf(system))
  return [system, runner]
}

function readSystem(env: Environment): string {
  const given = inputOf(env, 'system')
  const system = given || ownSystem(env)
  // Whether it is the input's or the default, which is the matrix's, the runner does not say.
  const origin =
    given === ''
      ? `The input \`system\` is empty, and the runner reports RUNNER_OS=${env.RUNNER_OS ?? ''} and RUNNER_ARCH=${env.RUNNER_ARCH ?? ''}`
      : 'The input `system` (default: `matrix.system`) is not valid'
  validFrom(origin, () => platformOf(system))
  return system
}

function readFlake(env: Environment): string {
  const flake = refuseOption('flake', inputOf(env, 'flake') || '.')
  if (!flake.includes('#')) return flake
  throw new InputError({
    message: `The input \`flake\` is "${flake}", which names an attribute too`,
    hint: 'Put what follows the "#" into `attribute`, or the whole into `installable` (build).',
  })
}

function readAttribute(env: Environment): string {
  const attribute = refuseOption('attribute', inputOf(env, 'attribute') || 'containerImage')
  const hash = attribute.indexOf('#')
  if (hash === -1) return attribute
  throw new InputError({
    message: `The input \`attribute\` is "${attribute}", which names a flake too`,
    hint: `Leave the flake to \`flake\`, or put the whole into \`installable\` (build):\n  attribute: ${attribute.slice(hash + 1) || 'containerImage'}`,
  })
}

/** Nix would take a name that begins with "-" for an option. @throws InputError */
function refuseOption(input: string, text: string): string {
  if (!text.startsWith('-')) return text
  throw new InputError({
    message: `The input \`${input}\` is "${text}", which Nix would take for an option`,
    hint: `Name what to build in \`${input}\`, and give options for Nix in \`nix-args\`, one per line.`,
  })
}

function readPushWith(env: Environment): BuildInputs['pushWith'] {
  return readChoice(env, 'push-with', ['registry', 'docker'])
}

function readCommonInputs(env: Environment): CommonInputs {
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
      message: `The input \`image\` is not valid: "${listed}" has a comma`,
      hint: 'Write one name a line, without commas.',
    })
  const images = names.map((name) => valid('image', () => readImageName(name)))
  return {
    images: uniqueBy(images, formatRepository),
    push: readBoolean(env, 'push', true),
    notices: [],
    notes: lowered.map((name) => `Image names are lower case: "${name}" is taken as "${name.toLowerCase()}"`),
  }
}

function readImageName(name: string): Repository {
  const { repository, tag, digest } = parseReference(name.toLowerCase())
  if (tag === undefined && digest === undefined) return repository
  throw new InputError({
    message: `The input \`image\` is "${name}", which has a ${tag === undefined ? 'digest' : 'tag'}`,
    hint: `Leave that out: \`image: ${formatRepository(repository)}\`. Tags belong into \`tag\` (build) and \`tags\` (merge).`,
  })
}

function readFile(env: Environment): string {
  const file = inputOf(env, 'file')
  if (file !== '' && inputOf(env, 'installable') !== '')
    throw new InputError({
      message: 'The inputs `file` and `installable` are both given, and each says what to build',
      hint: 'Leave `installable` out, and name what the file has in `attribute`.',
    })
  return file
}

function readVariant(env: Environment): string {
  const variant = inputOf(env, 'variant')
  if (variant === '' || isVariant(variant)) return variant
  throw new InputError({
    message: `The input \`variant\` is "${variant}"; it can have lower-case letters, digits, ".", "_" and "-", at most 64 of them`,
  })
}

/** Checks the tag as well as that is possible before the commit is known. */
function readTag(
  env: Environment,
  placeholders: { readonly system: string; readonly variant: string },
  pushWith: BuildInputs['pushWith'],
): string {
  const given = inputOf(env, 'tag')
  if (given === '' && pushWith === 'registry') return ''
  if (given === '')
    throw new InputError({
      message: 'The input `tag` is empty, and Docker can push nothing without a tag',
      hint: 'Leave `tag` out (its default is {sha}-{system}), or let `push-with` be `registry`.',
    })
  const pattern = given === DEFAULT_TAG && placeholders.variant !== '' ? '{sha}-{variant}-{system}' : given
  const tag = fillPlaceholders('tag', pattern, placeholders)
  if (isTagPattern(tag)) return pattern
  // A list, a full reference or a branch: somebody means the tags that merge publishes.
  const hint = /[\s,:/]/.test(tag) ? TAGS : undefined
  throw new InputError({
    message: `The input \`tag\` is not valid: ${tagProblem(withSampleSha(tag).replace(/\s+/g, ' '))}`,
    hint,
  })
}

const LEVELS = { gzip: { most: 9, usual: 4 }, zstd: { most: 19, usual: 3 } } as const

function readCompression(env: Environment, pushWith: BuildInputs['pushWith']): Compression {
  const format = readChoice(env, 'compression', ['gzip', 'zstd'])
  const { most, usual } = LEVELS[format]
  const text = inputOf(env, 'compression-level')
  if (pushWith === 'docker' && (format !== 'gzip' || text !== ''))
    throw new InputError({
      message: `The input \`${text === '' ? 'compression' : 'compression-level'}\` needs \`push-with: registry\`: Docker compresses layers as it likes`,
      hint: 'Leave `compression` and `compression-level`, or `push-with`, out.',
    })
  const level = text === '' ? usual : Number(text)
  if (Number.isInteger(level) && level >= 1 && level <= most) return { format, level }
  throw new InputError({
    message: `The input \`compression-level\` is "${text}"; for ${format} it is a number from 1 to ${most}`,
  })
}

function readReuseFrom(env: Environment, images: readonly Repository[], variant = ''): readonly Reference[] {
  const given = listOf(inputOf(env, 'reuse-from'))
  // The default does not know of variants, whose merges publish a tag of that name.
  const isDefault = given.length === 1 && given[0] === 'latest' && variant !== '' && isTag(variant)
  return (isDefault ? [variant, ...given] : given).flatMap((text) => {
    if (isTag(text)) return images.map((repository) => ({ repository, tag: text }))
    const reference = valid('reuse-from', () => parseReference(text))
    if (reference.tag !== undefined || reference.digest !== undefined) return [reference]
    throw new InputError({
      message: `The input \`reuse-from\` has "${text}", which has no tag`,
      hint: 'Write `name:tag`, or the tag alone.',
    })
  })
}

function readLabels(env: Environment, pushWith: BuildInputs['pushWith']): Readonly<Record<string, string>> {
  const lines = linesOf(inputOf(env, 'labels'))
  if (lines.length > 0 && pushWith === 'docker')
    throw new InputError({
      message: 'The input `labels` needs `push-with: registry`: Docker pushes the image as Nix made it',
      hint: 'Leave `labels` or `push-with` out, or set the labels in Nix (config.Labels).',
    })
  return Object.fromEntries(lines.map(readLabel))
}

function readLabel(line: string): readonly [string, string] {
  const equals = line.indexOf('=')
  if (equals > 0) return [line.slice(0, equals), line.slice(equals + 1)]
  throw new InputError({ message: `The input \`labels\` has "${line}", which is not of the form key=value` })
}

function checkNixArg(line: string): string {
  if (!/^--?[A-Za-z][\w-]*\s/.test(line)) return line
  throw new InputError({
    message: `The input \`nix-args\` has "${line}" on one line, which is one argument`,
    hint: `Write each argument on a line of its own:\n  nix-args: |\n${line
      .split(/\s+/)
      .map((one) => `    ${one}`)
      .join('\n')}`,
  })
}

function readRetention(env: Environment): number {
  const text = inputOf(env, 'retention-days') || '1'
  const days = Number(text)
  if (Number.isInteger(days) && days >= 1 && days <= 90) return days
  throw new InputError({ message: `The input \`retention-days\` is "${text}"; it is a number from 1 to 90` })
}
