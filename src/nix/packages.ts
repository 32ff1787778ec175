import * as v from 'valibot'
import { NixError } from '../errors.ts'
import { readJson } from '../json.ts'
import type { CommandResult } from '../process/command.ts'
import { cut, lastLines, sanitizeLine } from '../text.ts'
import { explainBuildFailure } from './explain.ts'
import { errorIn, runNix } from './nix.ts'
import type { NixCall } from './setup.ts'
import { SYSTEMS } from './system.ts'

export interface PackagesCall {
  readonly flake: string
  /** Additional arguments for `nix eval`. */
  readonly nixArgs: readonly string[]
  readonly runnerSystem: string
  /** The Git submodules in the flake's repository, for hints. */
  readonly submodules?: readonly string[]
  /** The attribute to add if the flake has no packages: `packages.aarch64-linux.containerImage`. */
  readonly missing: string
}

/** The packages of a flake for one system (`packages.<system>`). */
export type SystemPackages =
  | { readonly kind: 'evaluated'; readonly system: string; readonly names: readonly string[] }
  /** Nix can't evaluate the packages. `why` is its error in one line. */
  | { readonly kind: 'failed'; readonly system: string; readonly why: string }
  /** Container images can't be built for the system, so it is not evaluated. */
  | { readonly kind: 'unsupported'; readonly system: string }

/**
 * Lists the names of a flake's packages for each system. Evaluates and builds no package.
 * @throws NixError if the flake can't be evaluated or has no packages
 */
async function readPackages(call: PackagesCall): Promise<readonly SystemPackages[]> {
  const known = `{ ${SYSTEMS.map((system) => `${system} = null;`).join(' ')} }`
  const all = await evaluate(
    call,
    '',
    `packages: {
    systems = builtins.attrNames packages;
    names = builtins.mapAttrs (_: builtins.attrNames) (builtins.intersectAttrs ${known} packages);
  }`,
    WITHOUT_BUILDS,
  )
  const found = readJson(ALL, all.stdout)
  // If one system fails, evaluate each by itself.
  if (!found.ok) return readSystems(call)
  return found.value.systems.map((system): SystemPackages => {
    const names = found.value.names[system]
    return names === undefined ? { kind: 'unsupported', system } : { kind: 'evaluated', system, names }
  })
}

/**
 * Formats the packages of one system as a line.
 * @param attribute the requested attribute. Of many packages, those with the most similar names are listed.
 */
export function formatPackages(packages: SystemPackages, attribute: string): string {
  const { system, kind } = packages
  if (kind === 'failed') return `${system}: can't be evaluated: ${packages.why}`
  if (kind === 'unsupported') return `${system}: container images can't be built for it`
  return `${system}: ${formatNearest(packages.names, attributeNames(attribute)[0] ?? '') || 'none'}`
}

const NAMES = v.array(v.string())
const ALL = v.object({ systems: NAMES, names: v.record(v.string(), NAMES) })

/** Listing packages must not build anything, which imports from derivations would. */
export const WITHOUT_BUILDS = ['--option', 'allow-import-from-derivation', 'false']

async function readSystems(call: PackagesCall): Promise<readonly SystemPackages[]> {
  const listed = await evaluate(call, '', 'builtins.attrNames')
  const systems = readJson(NAMES, listed.stdout)
  if (!systems.ok) throw packagesNotEvaluated(call, listed.log)
  const read: SystemPackages[] = []
  // One after the other: each evaluation needs the memory that nixpkgs takes.
  for (const system of systems.value)
    read.push(SYSTEMS.includes(system) ? await readPackagesFor(call, system) : { kind: 'unsupported', system })
  return read
}

async function readPackagesFor(call: PackagesCall, system: string): Promise<SystemPackages> {
  const { stdout, log } = await evaluate(call, `.${system}`, 'builtins.attrNames')
  const names = readJson(NAMES, stdout)
  return names.ok ? { kind: 'evaluated', system, names: names.value } : { kind: 'failed', system, why: errorIn(log) }
}

function evaluate(
  { flake, nixArgs }: PackagesCall,
  of: string,
  apply: string,
  options: readonly string[] = [],
): Promise<CommandResult> {
  return runNix(['eval', '--json', ...nixArgs, ...options, `${flake}#packages${of}`, '--apply', apply], false)
}

/** Splits an attribute path as Nix does in installables: at dots, except within quotes. */
export function attributeNames(attribute: string): readonly string[] {
  return (attribute.match(/(?:"[^"]*"|[^."])+/g) ?? []).map((name) => name.replaceAll('"', ''))
}

export function nixString(text: string): string {
  return `"${text.replace(/["\\$]/g, '\\$&')}"`
}

/** Returns the error for a flake whose systems can't be listed. @param log the errors of Nix */
export function packagesNotEvaluated(call: PackagesCall, log: string): NixError {
  const { flake, missing } = call
  if (/does not provide attribute/.test(log))
    return new NixError({
      message: `The flake ${flake} has no output "packages"`,
      hint: `Add ${missing} to the outputs of the flake.`,
    })
  return new NixError({
    message: `Nix could not evaluate ${flake}#packages`,
    detail: lastLines(log, 20),
    hint: explainPackagesFailure(log, call),
  })
}

/** Returns a hint for an evaluation of several systems that failed. */
export function explainPackagesFailure(
  log: string,
  { runnerSystem, flake, submodules = [] }: PackagesCall,
): string | undefined {
  return explainBuildFailure(log, { runnerSystem, flake, submodules })
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
    const packages = await readPackages({ flake, nixArgs, runnerSystem, missing })
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
