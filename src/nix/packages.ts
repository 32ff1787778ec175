import * as v from 'valibot'
import { lastLines } from '../errors.ts'
import { readJson } from '../json.ts'
import type { CommandResult } from '../process/command.ts'
import { explainBuildFailure } from './explain.ts'
import { formatNearest } from './nearest.ts'
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
      /** Whether the attribute that was asked for is among them, and nothing that can't be built. */
      readonly offered: boolean
      /** Why it is not offered though it is there. */
      readonly refused?: string
    }
  /** Nix can't evaluate it; why, in one line of its own words. */
  | { readonly kind: 'failed'; readonly system: string; readonly why: string }
  /** No container images are for it, and it is not looked at. */
  | { readonly kind: 'foreign'; readonly system: string }

/**
 * Reads which packages a flake has for each system. Nothing is built, and of the packages themselves only the one that
 * was asked for is looked at, and no further than to tell that it is a derivation. With nixpkgs that takes its standard
 * environment, some tenths of a second for each system, where its `drvPath` takes all that the image is made from. So a
 * package that only its platforms or its license forbid is offered; what is `null` for a system, or throws, is not.
 * @throws NixError where the flake can't be evaluated, or has no packages
 */
export async function readPackages(call: PackagesCall): Promise<readonly SystemPackages[]> {
  const path = attributeNames(call.attribute)
  const known = `{ ${SYSTEMS.map((system) => `${system} = null;`).join(' ')} }`
  const all = await evaluate(
    call,
    '',
    `packages: {
    systems = builtins.attrNames packages;
    packages = builtins.mapAttrs (_: ${describeSet(path, 'look')}) (builtins.intersectAttrs ${known} packages);
  }`,
    WITHOUT_BUILDS,
  )
  const found = readJson(ALL, all.stdout)
  // One system may fail, and builtins.tryEval does not catch all that can go wrong: then they are asked one by one.
  if (!found.ok) return readEach(call, path)
  const read: SystemPackages[] = []
  for (const system of found.value.systems) {
    const packages = found.value.packages[system]
    read.push(packages === undefined ? { kind: 'foreign', system } : await evaluated(call, path, system, packages))
  }
  return read
}

/**
 * On one line, for people.
 * @param attribute that was asked for: of many packages those are told that are most like it
 */
export function formatPackages(packages: SystemPackages, attribute: string): string {
  const { system, kind } = packages
  if (kind === 'failed') return `${system}: can't be evaluated: ${packages.why}`
  if (kind === 'foreign') return `${system}: no container images are for it`
  return `${system}: ${formatNearest(packages.names, attributeNames(attribute)[0] ?? '') || 'none'}${packages.refused ? ` (${packages.refused})` : ''}`
}

/**
 * What the attribute that was asked for is: `absent`, `derivation`, `throw`, another type of Nix's, or `unseen` where it
 * is there and was not looked at.
 */
const PACKAGES = v.object({ names: v.array(v.string()), found: v.string() })
const ALL = v.object({ systems: v.array(v.string()), packages: v.record(v.string(), PACKAGES) })
const NAMES = v.array(v.string())

/** An evaluation may have to build, to import what comes of it; for a look at a package that is too much. */
const WITHOUT_BUILDS = ['--option', 'allow-import-from-derivation', 'false']

async function readEach(call: PackagesCall, path: readonly string[]): Promise<readonly SystemPackages[]> {
  const listed = await evaluate(call, '', 'builtins.attrNames')
  const systems = readJson(NAMES, listed.stdout)
  if (!systems.ok) throw notEvaluated(call, listed)
  const read: SystemPackages[] = []
  // One after the other: each takes all the memory that nixpkgs does.
  for (const system of systems.value)
    read.push(SYSTEMS.includes(system) ? await readOne(call, path, system) : { kind: 'foreign', system })
  return read
}

async function readOne(call: PackagesCall, path: readonly string[], system: string): Promise<SystemPackages> {
  const looked = await evaluate(call, `.${system}`, describeSet(path, 'look'), WITHOUT_BUILDS)
  const seen = readJson(PACKAGES, looked.stdout)
  if (seen.ok) return evaluated(call, path, system, seen.value)
  // What a look fails by need not be there on the machine that builds, such as an import of what this one can't build.
  const { stdout, log } = await evaluate(call, `.${system}`, describeSet(path, 'list'))
  const listed = readJson(PACKAGES, stdout)
  return listed.ok ? evaluated(call, path, system, listed.value) : { kind: 'failed', system, why: errorIn(log) }
}

/** What Nix takes for an installable. */
const BUILDABLE = ['derivation', 'string', 'path', 'unseen']

async function evaluated(
  call: PackagesCall,
  path: readonly string[],
  system: string,
  { names, found }: v.InferOutput<typeof PACKAGES>,
): Promise<SystemPackages> {
  const offered = BUILDABLE.includes(found)
  if (offered || found === 'absent') return { kind: 'evaluated', system, names, offered }
  const name = `packages.${system}.${call.attribute}`
  // builtins.tryEval keeps to itself what was thrown.
  const why =
    found === 'throw'
      ? `can't be evaluated: ${errorIn((await evaluate(call, `.${system}`, forceValue(path), WITHOUT_BUILDS)).log)}`
      : `is ${TYPES[found] ?? `of type ${found}`}`
  return { kind: 'evaluated', system, names, offered, refused: `${name} ${why}` }
}

const TYPES: Readonly<Record<string, string>> = {
  null: 'null',
  set: 'a set, and no derivation',
  lambda: 'a function, and no derivation',
}

function evaluate(
  { flake, nixArgs }: PackagesCall,
  of: string,
  apply: string,
  options: readonly string[] = [],
): Promise<CommandResult> {
  return runNix(['eval', '--json', ...nixArgs, ...options, `${flake}#packages${of}`, '--apply', apply], false)
}

/** A function of Nix's, from the packages of one system to what is told of them. */
function describeSet(path: readonly string[], how: 'look' | 'list'): string {
  return `(
    let
      typeOf = value: if (value.type or null) == "derivation" then "derivation" else builtins.typeOf value;
      look = value: let tried = builtins.tryEval (typeOf value); in if tried.success then tried.value else "throw";
      find = path: value:
        if path == [ ] then ${how === 'look' && path.length > 0 ? 'look value' : '"unseen"'}
        else if builtins.isAttrs value && builtins.hasAttr (builtins.head path) value
        then find (builtins.tail path) (builtins.getAttr (builtins.head path) value)
        else "absent";
    in
    set: { names = builtins.attrNames set; found = find [ ${path.map(nixString).join(' ')} ] set; })`
}

/** A function of Nix's that fails by what a package of the set throws. */
function forceValue(path: readonly string[]): string {
  const value = path.reduce((set, name) => `(builtins.getAttr ${nixString(name)} ${set})`, 'set')
  return `set: builtins.seq (${value}.type or null) null`
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
      message: `The flake ${flake} has no "packages" at all`,
      hint: `Add ${missing} to its outputs.`,
    })
  return new NixError({
    message: `Nix could not evaluate ${flake}#packages`,
    detail: lastLines(log, 20),
    hint: explainBuildFailure(log, { runnerSystem }),
  })
}
