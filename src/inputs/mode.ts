import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { inputOf } from './field.ts'

/** All modes. */
export const MODES = ['build', 'merge', 'plan', 'verify'] as const

export type Mode = (typeof MODES)[number]

export function readMode(env: Environment): Mode {
  const text = inputOf(env, 'mode')
  const mode = MODES.find((one) => one === text)
  if (mode !== undefined) return mode
  throw new InputError({
    message:
      text === ''
        ? 'The input `mode` is missing'
        : `The input \`mode\` is "${text}"; it must be \`build\`, \`merge\`, \`plan\` or \`verify\``,
    hint: 'Set `mode: build` in the jobs that build the image of one system, and `mode: merge` in the job that publishes the multi-platform image. To generate the matrix, set `mode: plan` in a job before them. To compare a published image with its source, set `mode: verify`.',
  })
}

/** An input that only some modes have. */
interface PartialInput {
  readonly modes: readonly Mode[]
  /** Its default in action.yml. Absent: empty. */
  readonly default?: string
  /** Hints for the modes in which ignoring the input would build or publish something else than its author means. */
  readonly refused?: Readonly<Partial<Record<Mode, string>>>
}

const IN_FLAKE =
  'plan finds the systems in the flake. Set `flake` and `attribute`, or remove this job and write the matrix by hand.'

const IN_IMAGE = 'Name the image to verify in `image`, with its tag or digest.'

export const TAGS =
  'build pushes the image of one system with one tag, `tag`. Set the tags that users pull in `tags` of a step with `mode: merge`, which may follow in the same job.'

/** Applied in action.yml only: here, an empty input and a missing one look the same. */
export const DEFAULT_TAG = '{sha}-{system}'

/** Without `system`, `token` and the inputs that the runner sets, which have a value in every mode. */
export const PARTIAL_INPUTS: Readonly<Record<string, PartialInput>> = {
  flake: { modes: ['build', 'plan', 'verify'], default: '.' },
  attribute: { modes: ['build', 'plan', 'verify'], default: 'containerImage' },
  installable: { modes: ['build', 'verify'], refused: { plan: IN_FLAKE } },
  file: { modes: ['build', 'verify'], refused: { plan: IN_FLAKE } },
  'nix-args': { modes: ['build', 'plan', 'verify'] },
  variant: { modes: ['build', 'merge'] },
  tag: {
    modes: ['build'],
    default: DEFAULT_TAG,
    refused: { merge: 'Set the tags that merge publishes in `tags`.', verify: IN_IMAGE },
  },
  'push-with': { modes: ['build', 'plan'], default: 'registry' },
  compression: { modes: ['build', 'plan'], default: 'gzip' },
  'compression-level': { modes: ['build'] },
  'reuse-from': { modes: ['build', 'plan'], default: 'latest' },
  labels: { modes: ['build', 'plan'] },
  rebuild: { modes: ['build', 'plan'], default: 'false' },
  sbom: { modes: ['build', 'plan'], default: 'true' },
  'retention-days': { modes: ['build'], default: '1' },
  test: {
    modes: ['build'],
    refused: { merge: 'Set `test` on the builds: an image that fails its test is not handed over to merge.' },
  },
  runners: { modes: ['plan'] },
  tags: { modes: ['merge'], refused: { build: TAGS, verify: IN_IMAGE } },
  annotations: { modes: ['merge'] },
  systems: {
    modes: ['plan', 'merge'],
    refused: {
      build: 'build builds the image of one `system`.',
      verify: 'verify verifies the image of one `system`.',
    },
  },
  digests: { modes: ['merge'] },
  'artifact-pattern': { modes: ['merge'] },
  'allow-missing-platforms': { modes: ['merge'], default: 'false' },
  'allow-older': { modes: ['merge'], default: 'false' },
  republish: { modes: ['merge'], default: 'false' },
  'immutable-tags': { modes: ['merge'] },
  attest: { modes: ['merge'], default: 'false' },
}

/**
 * Returns notices about inputs that the mode ignores.
 * @throws InputError if ignoring one would build or publish something else than its author means
 */
export function noticesOfOtherModes(env: Environment, mode: Mode): readonly string[] {
  const given = Object.entries(PARTIAL_INPUTS).filter(([name, { modes, default: usual = '' }]) => {
    const text = inputOf(env, name)
    return !modes.includes(mode) && text !== '' && text !== usual
  })
  return given.map(([name, { modes, refused }]) => {
    const message = `The input \`${name}\` does not apply to \`mode: ${mode}\``
    const owners = `It applies to ${modes.map((one) => `\`mode: ${one}\``).join(' and ')}.`
    const instead = refused?.[mode]
    if (instead !== undefined) throw new InputError({ message, hint: `${owners} ${instead}` })
    return `${message} and is ignored. ${owners}`
  })
}
