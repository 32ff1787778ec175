import * as v from 'valibot'
import { NixError } from '../errors.ts'
import { readJson } from '../json.ts'
import type { CommandResult } from '../process/command.ts'
import { cut, lastLines, sanitizeLine } from '../text.ts'
import { explainBuildFailure } from './explain.ts'
import { errorIn, type NixCall, runNix } from './nix.ts'
import { SYSTEMS } from './system.ts'

export interface PackagesCall {
  readonly flake: string
  /** `containerImage`, or a path such as `images.app`. Empty: only list the packages. */
  readonly attribute: string
  /** Additional arguments for `nix eval`. */
  readonly nixArgs: readonly string[]
  readonly runnerSystem: string
  /** The attribute to add if the flake has no packages: `packages.aarch64-linux.containerImage`. */
  readonly missing: string
}

/** The packages of a flake for one system (`packages.<system>`). */
export type SystemPackages =
  | {
      readonly kind: 'evaluated'
      readonly system: string
      readonly names: readonly string[]
      /** Whether the requested attribute exists and can be built. */
      readonly offered: boolean
      /** Why the requested attribute can't be built although it exists. */
      readonly refused?: string
    }
  /** Nix can't evaluate the packages. `why` is its error in one line. */
  | { readonly kind: 'failed'; readonly system: string; readonly why: string }
  /** Container images can't be built for the system, so it is not evaluated. */
  | { readonly kind: 'unsupported'; readonly system: string }

/**
 * Lists the packages of a flake for each system. Builds nothing, and evaluates only the requested package, only until it
 * is known to be a derivation: with nixpkgs, this takes some tenths of a second per system, while its `drvPath` would
 * take an evaluation of the whole image. A package that its platforms or license forbid therefore counts as offered. A
 * package that is `null` for a system, or that throws, does not.
 * @throws NixError if the flake can't be evaluated or has no packages
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
  // builtins.tryEval does not catch every error. If one system fails, evaluate each by itself.
  if (!found.ok) return readSystems(call, path)
  const read: SystemPackages[] = []
  for (const system of found.value.systems) {
    const packages = found.value.packages[system]
    read.push(packages === undefined ? { kind: 'unsupported', system } : await examined(call, path, system, packages))
  }
  return read
}

/**
 * Formats the packages of one system as a line.
 * @param attribute the requested attribute. Of many packages, those with the most similar names are listed.
 */
export function formatPackages(packages: SystemPackages, attribute: string): string {
  const { system, kind } = packages
  if (kind === 'failed') return `${system}: can't be evaluated: ${packages.why}`
  if (kind === 'unsupported') return `${system}: container images can't be built for it`
  return `${system}: ${formatNearest(packages.names, attributeNames(attribute)[0] ?? '') || 'none'}${packages.refused ? ` (${packages.refused})` : ''}`
}

/**
 * `found` describes the requested attribute: `absent`, `derivation`, `throw`, another Nix type, or `unseen` if it exists
 * but was not evaluated.
 */
const PACKAGES = v.object({ names: v.array(v.string()), found: v.string() })
const ALL = v.object({ systems: v.array(v.string()), packages: v.record(v.string(), PACKAGES) })
const NAMES = v.array(v.string())

/** Listing packages must not build anything, which imports from derivations would. */
const WITHOUT_BUILDS = ['--option', 'allow-import-from-derivation', 'false']

async function readSystems(call: PackagesCall, path: readonly string[]): Promise<readonly SystemPackages[]> {
  const listed = await evaluate(call, '', 'builtins.attrNames')
  const systems = readJson(NAMES, listed.stdout)
  if (!systems.ok) throw notEvaluated(call, listed)
  const read: SystemPackages[] = []
  // One after the other: each evaluation needs the memory that nixpkgs takes.
  for (const system of systems.value)
    read.push(SYSTEMS.includes(system) ? await readPackagesFor(call, path, system) : { kind: 'unsupported', system })
  return read
}

async function readPackagesFor(call: PackagesCall, path: readonly string[], system: string): Promise<SystemPackages> {
  const looked = await evaluate(call, `.${system}`, describeSet(path, 'look'), WITHOUT_BUILDS)
  const seen = readJson(PACKAGES, looked.stdout)
  if (seen.ok) return examined(call, path, system, seen.value)
  // The runner that builds may succeed, for example if it can build a derivation that is imported. Only list the names.
  const { stdout, log } = await evaluate(call, `.${system}`, describeSet(path, 'list'))
  const listed = readJson(PACKAGES, stdout)
  return listed.ok ? examined(call, path, system, listed.value) : { kind: 'failed', system, why: errorIn(log) }
}

/** The types that Nix accepts as an installable. */
const BUILDABLE = ['derivation', 'string', 'path', 'unseen']

async function examined(
  call: PackagesCall,
  path: readonly string[],
  system: string,
  { names, found }: v.InferOutput<typeof PACKAGES>,
): Promise<SystemPackages> {
  const offered = BUILDABLE.includes(found)
  if (offered || found === 'absent') return { kind: 'evaluated', system, names, offered }
  const name = `packages.${system}.${call.attribute}`
  // builtins.tryEval does not return the error that was thrown.
  const why =
    found === 'throw'
      ? `can't be evaluated: ${errorIn((await evaluate(call, `.${system}`, forceValue(path), WITHOUT_BUILDS)).log)}`
      : `is ${TYPES[found] ?? `of type ${found}`}`
  return { kind: 'evaluated', system, names, offered, refused: `${name} ${why}` }
}

const TYPES: Readonly<Record<string, string>> = {
  null: 'null',
  set: 'a set, not a derivation',
  lambda: 'a function, not a derivation',
}

function evaluate(
  { flake, nixArgs }: PackagesCall,
  of: string,
  apply: string,
  options: readonly string[] = [],
): Promise<CommandResult> {
  return runNix(['eval', '--json', ...nixArgs, ...options, `${flake}#packages${of}`, '--apply', apply], false)
}

/** Returns a Nix function from the packages of one system to the form of `PACKAGES`. */
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

/** Returns a Nix function that fails with the error that a package throws. */
function forceValue(path: readonly string[]): string {
  const value = path.reduce((set, name) => `(builtins.getAttr ${nixString(name)} ${set})`, 'set')
  return `set: builtins.seq (${value}.type or null) null`
}

/** Splits an attribute path as Nix does in installables: at dots, except within quotes. */
function attributeNames(attribute: string): readonly string[] {
  return (attribute.match(/(?:"[^"]*"|[^."])+/g) ?? []).map((name) => name.replaceAll('"', ''))
}

function nixString(text: string): string {
  return `"${text.replace(/["\\$]/g, '\\$&')}"`
}

function notEvaluated({ flake, runnerSystem, missing }: PackagesCall, { log }: CommandResult): NixError {
  if (/does not provide attribute/.test(log))
    return new NixError({
      message: `The flake ${flake} has no output "packages"`,
      hint: `Add ${missing} to the outputs of the flake.`,
    })
  return new NixError({
    message: `Nix could not evaluate ${flake}#packages`,
    detail: lastLines(log, 20),
    hint: explainBuildFailure(log, { runnerSystem }),
  })
}

const SHOWN_NAMES = 20
/** In characters. A flake can have names of any length, and comparing them takes time for each character. */
const NAME_LIMIT = 100

/** Formats a list of names. Of many, lists those that are most similar to the wanted one, and the number of the others. */
export function formatNearest(all: readonly string[], wanted: string): string {
  const names = all.map((name) => cut(name, NAME_LIMIT))
  if (names.length <= SHOWN_NAMES) return names.join(', ')
  const distances = new Map(
    names.map((name) => [name, editDistance(name.toLowerCase(), wanted.slice(0, NAME_LIMIT).toLowerCase())]),
  )
  const nearest = names.toSorted((one, other) => (distances.get(one) ?? 0) - (distances.get(other) ?? 0))
  return `${nearest.slice(0, SHOWN_NAMES).join(', ')} and ${names.length - SHOWN_NAMES} more`
}

/** Returns the Levenshtein distance. */
function editDistance(from: string, to: string): number {
  const target = [...to]
  let row = [0, ...target.map((_, at) => at + 1)]
  for (const character of from) {
    const next = [(row[0] ?? 0) + 1]
    for (const [at, other] of target.entries()) {
      const replaced = (row[at] ?? 0) + (character === other ? 0 : 1)
      next.push(Math.min(replaced, (row[at + 1] ?? 0) + 1, (next[at] ?? 0) + 1))
    }
    row = next
  }
  return row[target.length] ?? 0
}

/** Returns the hint for a flake without the requested attribute: the packages that it has. */
export async function suggestPackages({ installable, system, nixArgs, runnerSystem }: NixCall): Promise<string> {
  const [flake = '.', fragment = ''] = installable.text.replace(/\^[^#]*$/, '').split('#')
  // As Nix completes it: https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix#flake-output-attribute
  const missing = /^(?:legacyP|p)ackages\./.test(fragment) ? fragment : `packages.${system}.${fragment || 'default'}`
  try {
    const packages = await readPackages({ flake, attribute: '', nixArgs, runnerSystem, missing })
    return [
      'The flake has these packages:',
      ...packages.map((one) => `  ${formatPackages(one, missing.replace(/^\w+\.[^.]+\./, ''))}`),
      'Set `attribute` and `system` to one of them, or add the missing package to the flake.',
    ].join('\n')
  } catch (error) {
    if (!(error instanceof NixError)) throw error
    return [`${error.parts.message}.`, error.parts.detail && sanitizeLine(error.parts.detail), error.parts.hint]
      .filter(Boolean)
      .join(' ')
  }
}

/** Returns the hint for a file without the requested attribute: the attributes that it has. */
export async function suggestFileAttributes({ installable, system, nixArgs }: NixCall): Promise<string> {
  // Nix calls a file that is a function only if an attribute of it is named.
  const type = await runNix(['eval', '--raw', ...nixArgs, ...installable.options, 'type'], false)
  if (type.exitCode === 0 && type.stdout.trim() === 'derivation')
    return `The file evaluates to a derivation, which has no such attribute. If the derivation is the image, set:
  attribute: ""`
  const describe = `file:
    let
      arguments = builtins.intersectAttrs (builtins.functionArgs file) { system = "${system}"; };
      value = if builtins.isFunction file then file arguments else file;
    in
    {
      is = builtins.typeOf value;
      names = if builtins.isAttrs value then builtins.attrNames value else [ ];
    }`
  const { stdout } = await runNix(
    ['eval', '--json', ...nixArgs, ...installable.options, '', '--apply', describe],
    false,
  )
  const file = readJson(FILE_VALUE, stdout)
  const rule =
    'Set `attribute` (default: containerImage) to an attribute of the set that the file contains or its function returns.'
  if (!file.ok || file.value.is !== 'set') return rule
  return `The file has these attributes: ${formatNearest(file.value.names, installable.text) || 'none'}. ${rule}`
}

const FILE_VALUE = v.object({ is: v.string(), names: v.array(v.string()) })
