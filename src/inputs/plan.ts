import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { platformOf } from '../nix/system.ts'
import type { LayerFormat } from '../oci/manifest.ts'
import type { Reference } from '../oci/reference.ts'
import {
  checkNixArg,
  readAttribute,
  readCompression,
  readFlake,
  readLabels,
  readPushWith,
  readReuseFrom,
} from './build.ts'
import { type CommonInputs, inputOf, linesOf, readBoolean, readCommonInputs, readSystems, valid } from './field.ts'

/** The inputs of a step with `mode: plan`. */
export interface PlanInputs extends CommonInputs {
  readonly mode: 'plan'
  /** The systems that the matrix must have. Empty: all that the flake has the image for. */
  readonly systems: readonly string[]
  readonly flake: string
  readonly attribute: string
  readonly nixArgs: readonly string[]
  /** Published images that builds may not need to build again. */
  readonly reuseFrom: readonly Reference[]
  /** The compression of layers. Undefined if Docker pushes. */
  readonly format: LayerFormat | undefined
  /** Added to the configs of the images. */
  readonly labels: Readonly<Record<string, string>>
  /** Whether builds attach an SBOM to images. */
  readonly sbom: boolean
  /** Whether to build images that are already published. */
  readonly rebuild: boolean
  /** Runner labels for systems, in place of GitHub-hosted runners. */
  readonly runners: ReadonlyMap<string, string>
}

export function readPlanInputs(env: Environment): PlanInputs {
  const common = readCommonInputs(env)
  const pushWith = readPushWith(env)
  const { format } = readCompression(env, pushWith)
  return {
    ...common,
    mode: 'plan',
    systems: readSystems(env),
    flake: readFlake(env),
    attribute: readAttribute(env),
    nixArgs: linesOf(inputOf(env, 'nix-args')).map(checkNixArg),
    reuseFrom: readReuseFrom(env, common.images),
    format: pushWith === 'registry' ? format : undefined,
    labels: readLabels(env, pushWith),
    sbom: readBoolean(env, 'sbom', true),
    rebuild: readBoolean(env, 'rebuild', false),
    runners: readRunners(env),
  }
}

function readRunners(env: Environment): ReadonlyMap<string, string> {
  const runners = linesOf(inputOf(env, 'runners')).map(readRunner)
  const duplicate = runners.find(([system], at) => runners.findIndex(([one]) => one === system) !== at)
  if (duplicate === undefined) return new Map(runners)
  throw new InputError({ message: `The input \`runners\` contains two runners for ${duplicate[0]}`, hint: ONE_RUNNER })
}

const ONE_RUNNER = 'Write one system per line, with one label:\n  runners: |\n    aarch64-linux=self-hosted-arm'

function readRunner(line: string): readonly [string, string] {
  const [, system, runner] = /^([^=\s]+)\s*=\s*(\S.*)$/.exec(line) ?? []
  // Labels contain no commas: this line lists several systems or labels.
  if (system === undefined || runner === undefined || runner.includes(','))
    throw new InputError({
      message: `The input \`runners\` contains "${line}", which does not have the form system=label`,
      hint: ONE_RUNNER,
    })
  valid('runners', () => platformOf(system))
  return [system, runner]
}
