import * as v from 'valibot'
import { readJson } from '../json.ts'
import type { Log } from '../log.ts'
import { mapAtMost } from '../promises.ts'
import { failureIn } from './failure.ts'
import { type LoggedRun, runNixLogged } from './logged-run.ts'
import { errorIn } from './nix.ts'
import { attributeNames, nixString, type PackagesCall, packagesNotEvaluated, WITHOUT_BUILDS } from './packages.ts'
import { readSettings } from './settings.ts'
import { setupOf } from './setup.ts'
import { isStorePath } from './store-path.ts'
import { SYSTEMS } from './system.ts'

export interface SystemsCall extends PackagesCall {
  /** `containerImage`, or a path such as `images.app`. */
  readonly attribute: string
}

/** The image of a flake for one system, as far as its evaluation shows. */
export type SystemImage = { readonly system: string } & (
  | {
      readonly kind: 'found'
      readonly names: readonly string[]
      /** Undefined if it was not needed, or only the build determines it. */
      readonly storePath: string | undefined
    }
  /** The packages for the system, whose names are given, do not include the image. */
  | { readonly kind: 'absent'; readonly names: readonly string[] }
  /** The attribute is not a derivation. `type` is its Nix type, such as `null` or `set`. */
  | { readonly kind: 'unsuitable'; readonly names: readonly string[]; readonly type: string }
  /**
   * Nix can't evaluate the image here, but the job that builds it may: the evaluation imports from a derivation that
   * has to be built first, or Nix was killed, which the system does if memory runs out.
   */
  | { readonly kind: 'unknown'; readonly because: 'import' | 'killed'; readonly why: string }
  | ({ readonly kind: 'failed' } & FailedEvaluation)
  /** Container images can't be built for the system, so it is not evaluated. */
  | { readonly kind: 'unsupported' }
)

export interface FailedEvaluation {
  /** The packages for the system. Undefined if not even their names can be evaluated. */
  readonly names: readonly string[] | undefined
  /** Nix's error in one line. */
  readonly why: string
  /** Nix's complete error. */
  readonly detail: string
  /** Whether the flake has the image for the system, or might: it fails only later, or because of the network. */
  readonly offered: boolean
}

/**
 * Lists the systems of `packages` without evaluating the packages. Nix fetches the inputs of most flakes for this, so that
 * evaluations that run at the same time after it do not fetch them several times.
 * @throws NixError if the flake can't be evaluated or has no packages
 */
export async function listSystems(call: PackagesCall, log: Log): Promise<readonly string[]> {
  log.info(`Listing the systems of the flake ${call.flake}`)
  const run = await evaluate(call, '', [], 'builtins.attrNames', (line) => log.info(line))
  const systems = readJson(v.array(v.string()), run.result.stdout)
  if (!systems.ok) throw packagesNotEvaluated(call, detailOf(run))
  return systems.value
}

/**
 * Evaluates the image once for each system, several at the same time. Without a need for the store path, evaluates the
 * image only until it is known to be a derivation, and builds nothing: with nixpkgs, this takes some tenths of a second,
 * while the store path takes an evaluation of everything in the image.
 * @param needsStorePath reports whether the store path for a system is of use
 * @param limit how many evaluations run at the same time
 * @throws NixError if Nix is not installed
 */
export async function evaluateSystems(
  call: SystemsCall,
  systems: readonly string[],
  needsStorePath: (system: string) => boolean,
  limit: number,
  log: Log,
): Promise<readonly SystemImage[]> {
  const supported = systems.filter((system) => SYSTEMS.includes(system))
  const settings = supported.some(needsStorePath) ? await readSettings(call.nixArgs) : undefined
  let ended = 0
  const evaluated = await mapAtMost(limit, supported, async (system) => {
    log.info(`Evaluating ${call.attribute} for ${system}`)
    const start = performance.now()
    const setup =
      settings && needsStorePath(system) ? await setupOf({ ...call, system }, settings, call.nixArgs) : undefined
    const image = await evaluateSystem(call, system, setup?.platformOptions, log)
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    const failed = image.kind === 'failed' || image.kind === 'unknown'
    log.info(
      `Evaluated ${++ended} of ${supported.length} systems: ${system} ${failed ? 'failed after' : 'took'} ${seconds} s`,
    )
    return image
  })
  return systems.map((system) => evaluated.find((one) => one.system === system) ?? { system, kind: 'unsupported' })
}

/**
 * Returns how many systems to evaluate at the same time.
 * @param available memory in bytes
 */
export function evaluationsAtOnce(available: number, processors: number): number {
  return Math.max(1, Math.min(processors, Math.floor(available / EVALUATION_MEMORY)))
}

/** The memory that an evaluation of an image with nixpkgs takes at most, in bytes. */
const EVALUATION_MEMORY = 1e9

/** @param platformOptions let Nix build what an import needs. Undefined if the store path is of no use */
async function evaluateSystem(
  call: SystemsCall,
  system: string,
  platformOptions: readonly string[] | undefined,
  log: Log,
): Promise<SystemImage> {
  const withStorePath = platformOptions !== undefined
  let steps: Steps = {}
  const show = (line: string): void => {
    const step = readStep(line)
    if (step === undefined) log.info(`${system}: ${line}`.trimEnd())
    else steps = { ...steps, ...step }
  }
  const options = platformOptions ?? WITHOUT_BUILDS
  const apply = describeImage(attributeNames(call.attribute), withStorePath)
  const run = await evaluate(call, `.${system}`, options, apply, show)
  const { exitCode, stdout } = run.result
  return readSystemImage(system, { exitCode, stdout, steps, detail: detailOf(run) })
}

/** What an evaluation has reported before it ended. */
export interface Steps {
  /** The names of the packages for the system. */
  readonly names?: readonly string[] | undefined
  /** The type of the image: `derivation`, `absent` or a Nix type. */
  readonly type?: string | undefined
}

export interface ImageEvaluation {
  readonly exitCode: number
  readonly stdout: string
  readonly steps: Steps
  /** Nix's errors. */
  readonly detail: string
}

/** Returns what an evaluation shows about the image for a system. */
export function readSystemImage(
  system: string,
  { exitCode, stdout, steps: { names, type }, detail }: ImageEvaluation,
): SystemImage {
  const read = exitCode === 0 ? readJson(IMAGE, stdout) : undefined
  if (read?.ok) {
    const { value } = read
    if (value.type === 'absent') return { system, kind: 'absent', names: value.names }
    if (!BUILDABLE.includes(value.type)) return { system, kind: 'unsuitable', names: value.names, type: value.type }
    const storePath = value.storePath !== null && isStorePath(value.storePath) ? value.storePath : undefined
    return { system, kind: 'found', names: value.names, storePath }
  }
  const why = errorIn(detail) || `nix exited with code ${exitCode} and printed no error`
  if (BUILD_NEEDED.test(detail)) return { system, kind: 'unknown', because: 'import', why }
  if (exitCode > 128) return { system, kind: 'unknown', because: 'killed', why: `exit code ${exitCode}` }
  const offered = (type !== undefined && BUILDABLE.includes(type)) || NOT_FETCHED.test(detail)
  return { system, kind: 'failed', names, why, detail, offered }
}

/** The types that Nix accepts as an installable. */
const BUILDABLE = ['derivation', 'string', 'path']

/** Matches errors of evaluations that import from a derivation. Plan does not allow builds, or this runner can't build it. */
const BUILD_NEEDED =
  /allow-import-from-derivation|error: (?:builder for|build of|[Cc]annot build) '|is required to build '|\d+ dependenc(?:y|ies) of derivation|Build failed due to failed dependency/

const NOT_FETCHED = /unable to download '|Could(?:n't| not) resolve host|fatal: unable to access '/

const IMAGE = v.object({ names: v.array(v.string()), type: v.string(), storePath: v.nullable(v.string()) })
const STEP = v.object({ names: v.optional(v.array(v.string())), type: v.optional(v.string()) })

/** Begins the lines in which the evaluation reports what it knows so far, in case that it fails later. */
const STEP_PREFIX = 'nix-image-action: '
/** More names would make the line too long. The error lists far fewer. */
const STEP_NAMES = 1000

/** Returns the step that a line of Nix's log reports. */
function readStep(line: string): Steps | undefined {
  const [, json] = line.split(`trace: ${STEP_PREFIX}`, 2)
  if (json === undefined) return undefined
  const read = readJson(STEP, json)
  return read.ok ? read.value : {}
}

/**
 * Returns a Nix function from the packages of one system to the form of `IMAGE`. Does not use builtins.tryEval, which
 * catches only some errors and does not return their messages.
 */
function describeImage(path: readonly string[], withStorePath: boolean): string {
  const storePath = 'builtins.unsafeDiscardStringContext found.value.outPath'
  return `(
    let
      report = step: builtins.trace "${STEP_PREFIX}\${builtins.toJSON step}";
      first = names: builtins.genList (builtins.elemAt names) (let all = builtins.length names; in if all < ${STEP_NAMES} then all else ${STEP_NAMES});
      find = path: value:
        if path == [ ] then { inherit value; }
        else if builtins.isAttrs value && builtins.hasAttr (builtins.head path) value
        then find (builtins.tail path) (builtins.getAttr (builtins.head path) value)
        else null;
      typeOf = value: if (value.type or null) == "derivation" then "derivation" else builtins.typeOf value;
    in
    set:
      let
        names = builtins.attrNames set;
        found = find [ ${path.map(nixString).join(' ')} ] set;
        type = if found == null then "absent" else typeOf found.value;
        storePath = ${withStorePath ? `if type == "derivation" then ${storePath} else null` : 'null'};
      in
      report { names = first names; } (builtins.seq type (report { inherit type; } { inherit names type storePath; })))`
}

function evaluate(
  { flake, nixArgs }: PackagesCall,
  of: string,
  options: readonly string[],
  apply: string,
  show: (line: string) => void,
): Promise<LoggedRun> {
  const target = [...nixArgs, `${flake}#packages${of}`, '--apply', apply]
  // Evaluations of one flake that run at the same time would get in each other's way in Nix's evaluation cache.
  return runNixLogged(['eval', '--json', '--option', 'eval-cache', 'false', ...options], target, show, false)
}

/** Returns Nix's errors without the reported steps. */
function detailOf({ result, log }: LoggedRun): string {
  const text = log.structured ? failureIn(log).detail : result.log
  return text
    .split('\n')
    .filter((line) => readStep(line) === undefined)
    .join('\n')
}
