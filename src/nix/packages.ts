import * as v from 'valibot'
import type { CommandResult } from '../command.ts'
import { lastLines } from '../failure.ts'
import { explainBuildFailure } from './explain.ts'
import { errorIn, runNix } from './nix.ts'
import { NixError } from './nix-error.ts'
import { SYSTEMS } from './system.ts'

export interface PackagesCall {
  readonly flake: string
  /** `containerImage`, or a path: `images.app`. Empty is the whole of them. */
  readonly attribute: string
  /** More arguments for `nix eval`. */
  readonly nixArgs: readonly string[]
  readonly runnerSystem: string
  /** What to add to a flake that has no packages: `packages.aarch64-linux.containerImage`. */
  readonly missing: string
}

/** What a flake has for one system, as `packages.<system>`. */
export type SystemPackages =
  | {
      readonly kind: 'evaluated'
      readonly system: string
      readonly names: readonly string[]
      /** Whether the attribute that was asked for is among them. */
      readonly offered: boolean
    }
  /** Nix can't evaluate it; why, in one line of its own words. */
  | { readonly kind: 'failed'; readonly system: string; readonly why: string }
  /** No container images are for it, and it is not looked at. */
  | { readonly kind: 'foreign'; readonly system: string }

/**
 * Reads which packages a flake has for each system, without evaluating the packages themselves.
 * @throws NixError where the flake can't be evaluated, or has no packages
 */
export async function readPackages(call: PackagesCall): Promise<readonly SystemPackages[]> {
  const describe = describeSet(attributeNames(call.attribute))
  const known = `{ ${SYSTEMS.map((system) => `${system} = null;`).join(' ')} }`
  const all = await evaluate(
    call,
    '',
    `packages: {
    systems = builtins.attrNames packages;
    packages = builtins.mapAttrs (_: ${describe}) (builtins.intersectAttrs ${known} packages);
  }`,
  )
  const { success, output } = v.safeParse(ALL, all.stdout)
  // One system may fail, and builtins.tryEval does not catch all that can go wrong: then they are asked one by one.
  if (!success) return readEach(call, describe)
  return output.systems.map((system) => {
    const packages = output.packages[system]
    return packages === undefined ? { kind: 'foreign', system } : { kind: 'evaluated', system, ...packages }
  })
}

/** On one line, for people. */
export function printPackages(packages: SystemPackages): string {
  const { system, kind } = packages
  if (kind === 'failed') return `${system}: can't be evaluated: ${packages.why}`
  if (kind === 'foreign') return `${system}: no container images are for it`
  return `${system}: ${packages.names.join(', ') || 'none'}`
}

const PACKAGES = v.object({ names: v.array(v.string()), offered: v.boolean() })
const ALL = v.pipe(
  v.string(),
  v.parseJson(),
  v.object({ systems: v.array(v.string()), packages: v.record(v.string(), PACKAGES) }),
)
const ONE = v.pipe(v.string(), v.parseJson(), PACKAGES)
const NAMES = v.pipe(v.string(), v.parseJson(), v.array(v.string()))

async function readEach(call: PackagesCall, describe: string): Promise<readonly SystemPackages[]> {
  const listed = await evaluate(call, '', 'builtins.attrNames')
  const systems = v.safeParse(NAMES, listed.stdout)
  if (!systems.success) throw notEvaluated(call, listed)
  const read: SystemPackages[] = []
  // One after the other: each takes all the memory that nixpkgs does.
  for (const system of systems.output) {
    if (!SYSTEMS.includes(system)) {
      read.push({ kind: 'foreign', system })
      continue
    }
    const { stdout, log } = await evaluate(call, `.${system}`, describe)
    const { success, output } = v.safeParse(ONE, stdout)
    read.push(success ? { kind: 'evaluated', system, ...output } : { kind: 'failed', system, why: errorIn(log) })
  }
  return read
}

function evaluate({ flake, nixArgs }: PackagesCall, of: string, apply: string): Promise<CommandResult> {
  return runNix(['eval', '--json', ...nixArgs, `${flake}#packages${of}`, '--apply', apply], false)
}

/** A function of Nix's, from the packages of one system to what is told of them. */
function describeSet(path: readonly string[]): string {
  return `(
    let
      has = path: set: path == [ ] || (builtins.isAttrs set && builtins.hasAttr (builtins.head path) set
        && has (builtins.tail path) (builtins.getAttr (builtins.head path) set));
    in
    set: { names = builtins.attrNames set; offered = has [ ${path.map(nixString).join(' ')} ] set; })`
}

/** The names in an attribute path, as Nix reads it in installables: separated by dots, but for those within quotes. */
function attributeNames(attribute: string): readonly string[] {
  return (attribute.match(/(?:"[^"]*"|[^."])+/g) ?? []).map((name) => name.replaceAll('"', ''))
}

function nixString(text: string): string {
  return `"${text.replace(/["\\$]/g, '\\$&')}"`
}

function notEvaluated({ flake, runnerSystem, missing }: PackagesCall, { log }: CommandResult): NixError {
  if (/does not provide attribute/.test(log))
    return new NixError({
      what: `The flake ${flake} has no "packages" at all`,
      help: `Add ${missing} to its outputs.`,
    })
  return new NixError({
    what: `Nix could not evaluate ${flake}#packages`,
    words: lastLines(log, 20),
    help: explainBuildFailure(log, { system: runnerSystem, runnerSystem }),
  })
}
