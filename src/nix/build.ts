import * as v from 'valibot'
import type { CommandResult } from '../command.ts'
import { lastLines, oneLine } from '../failure.ts'
import { type BuildContext, explainBuildFailure } from './explain.ts'
import type { Installable } from './installable.ts'
import { foreignOptions, runNix } from './nix.ts'
import { NixError } from './nix-error.ts'

export interface NixBuildCall extends BuildContext {
  readonly installable: Installable
  /** More arguments for `nix build`. */
  readonly nixArgs: readonly string[]
}

/**
 * Builds with Nix, its log shown, without leaving a `result` link.
 * @returns the store path of the output
 * @throws NixError with Nix's last lines and, for the failures that are known, what to do
 */
export async function buildInstallable(call: NixBuildCall): Promise<string> {
  const { installable, nixArgs } = call
  const { options, text } = installable
  // --json rather than --print-out-paths, which Nix 2.8 does not have yet.
  const args = [
    'build',
    '--json',
    '--no-link',
    '--print-build-logs',
    ...foreignOptions(call),
    ...nixArgs,
    ...options,
    text,
  ]
  const result = await runNix(args, true)
  if (result.exitCode !== 0) throw await buildFailed(call, result)
  return outputOf(result.stdout, installable.name)
}

/** What is in the store already is not built, but named: as `{"path": "…"}` by Nix 2.8, as a text by newer versions. */
const BUILD_RESULT = v.pipe(
  v.string(),
  v.parseJson(),
  v.array(
    v.union([
      v.pipe(
        v.object({ outputs: v.record(v.string(), v.string()) }),
        v.transform(({ outputs }) => outputs.out ?? Object.values(outputs)[0]),
      ),
      v.pipe(
        v.object({ path: v.string() }),
        v.transform(({ path }) => path),
      ),
      v.string(),
    ]),
  ),
)

function outputOf(json: string, installable: string): string {
  const result = v.safeParse(BUILD_RESULT, json)
  if (!result.success)
    throw new NixError({ what: `Nix built ${installable}, but its answer can't be read`, words: json.trim() })
  const outputs = result.output
  const [path, ...more] = outputs
  if (path !== undefined && more.length === 0) return path
  throw new NixError({
    what: `${installable} is ${outputs.length} derivations, and an image is one`,
    words: outputs.join('\n'),
  })
}

async function buildFailed(call: NixBuildCall, { log }: CommandResult): Promise<NixError> {
  const { installable } = call
  const words = lastLines(log, 20)
  if (installable.options.length > 0 || !/does not provide attribute/.test(log))
    return new NixError({
      what: `Nix could not build ${installable.name}`,
      words,
      help: explainBuildFailure(log, call),
    })
  return new NixError({
    what: `There is no ${installable.name}`,
    words,
    help: await whatThereIs(installable.text, call.system),
  })
}

const PACKAGES = v.pipe(v.string(), v.parseJson(), v.record(v.string(), v.array(v.string())))

/** What a flake has in place of the attribute that it lacks, found without evaluating the packages themselves. */
async function whatThereIs(installable: string, system: string): Promise<string> {
  const [flake = '.'] = installable.split('#')
  // The set of one system may fail to evaluate; that says nothing of the others.
  const list =
    'builtins.mapAttrs (_: set: let names = builtins.tryEval (builtins.attrNames set); in if names.success then names.value else [ ])'
  const { stdout, log } = await runNix(['eval', '--json', `${flake}#packages`, '--apply', list], false)
  const packages = v.safeParse(PACKAGES, stdout)
  if (!packages.success && /does not provide attribute/.test(log))
    return `The flake has no "packages" at all; add packages.${system}.containerImage to its outputs.`
  if (!packages.success) return `What the flake has instead could not be listed: ${oneLine(lastLines(log, 3))}`
  const lines = Object.entries(packages.output).map(([of, names]) => `  ${of}: ${names.join(', ') || 'none'}`)
  return [
    'The flake has these packages:',
    ...lines,
    'Name one of them in the inputs `attribute` and `system`, or add the one that is missing to the flake.',
  ].join('\n')
}
