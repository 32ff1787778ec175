import * as v from 'valibot'
import { NixError } from '../errors.ts'
import { readJson } from '../json.ts'
import { printLine } from '../process/output.ts'
import type { Evaluation } from './evaluate.ts'
import { buildFailed, type NixBuildCall } from './failure.ts'
import { runNixLogged } from './logged-run.ts'
import { isStorePath } from './store-path.ts'

/**
 * Builds an installable with Nix, without a `result` link. Prints the log as `readNixLine` formats it.
 * @throws NixError with the errors of Nix, the last log lines of the failed derivations, and a hint for known failures
 */
export async function buildInstallable(call: NixBuildCall): Promise<Built> {
  const { options, text } = call.installable
  return runBuild(call, [...options, text], (outputs) => oneOutput(outputs, call))
}

/**
 * Builds an output of a derivation that is evaluated already, like `buildInstallable`.
 * @param call names the installable, for errors
 */
export async function buildDerivation(
  call: NixBuildCall,
  derivation: Pick<Evaluation, 'derivation' | 'output' | 'nixVersion' | 'ignoredSettings'>,
): Promise<Built> {
  const choose = (outputs: Outputs) => {
    const path = outputs[derivation.output]
    return path === undefined ? oneOutput(outputs, call) : checkedPath(path, call)
  }
  return runBuild(call, [derivationTarget(derivation)], choose, derivation.ignoredSettings)
}

/**
 * Returns the installable for an output of a derivation. Before 2.15, Nix built all outputs of a path that ends in .drv.
 * https://nix.dev/manual/nix/2.34/release-notes/rl-2.15
 */
export function derivationTarget({
  derivation,
  output,
  nixVersion,
}: Pick<Evaluation, 'derivation' | 'output' | 'nixVersion'>): string {
  const [major = 0, minor = 0] = nixVersion.split('.').map((part) => Number.parseInt(part, 10))
  return major === 2 && minor < 15 ? derivation : `${derivation}^${output}`
}

/** @param ignoredBefore the settings that Nix ignored when it evaluated the target */
async function runBuild(
  call: NixBuildCall,
  target: readonly string[],
  choose: (outputs: Outputs) => string,
  ignoredBefore: readonly string[] = [],
): Promise<Built> {
  // Not --print-out-paths, which Nix 2.8 does not support.
  const args = ['build', '--json', '--no-link', ...call.setup.platformOptions]
  const { result, log } = await runNixLogged(args, [...call.nixArgs, ...target], printLine)
  const ignoredSettings = [...new Set([...ignoredBefore, ...log.ignoredSettings])]
  if (result.exitCode !== 0) throw await buildFailed(call, { result, log: { ...log, ignoredSettings } })
  return { storePath: choose(builtOutputs(result.stdout, call)), ignoredSettings }
}

/** The result of a build. */
export interface Built {
  /** The store path of the output. */
  readonly storePath: string
  /** The names of settings in the flake's `nixConfig` that Nix did not apply. */
  readonly ignoredSettings: readonly string[]
}

/** The output for an installable that is a store path is `{"path": "…"}` in Nix 2.8, and a string in newer versions. */
const BUILD_RESULT = v.array(
  v.union([
    v.pipe(
      v.object({ outputs: v.record(v.string(), v.string()) }),
      v.transform(({ outputs }) => outputs),
    ),
    v.pipe(
      v.object({ path: v.string() }),
      v.transform(({ path }) => ({ out: path })),
    ),
    v.pipe(
      v.string(),
      v.transform((path) => ({ out: path })),
    ),
  ]),
)

/** Store paths by the names of outputs. */
type Outputs = Readonly<Record<string, string>>

function builtOutputs(json: string, call: NixBuildCall): Outputs {
  const { name } = call.installable
  const result = readJson(BUILD_RESULT, json)
  if (!result.ok)
    throw new NixError({ message: `Nix built ${name}, but its JSON output can't be read`, detail: json.trim() })
  const built: readonly Outputs[] = result.value
  const [outputs, ...more] = built
  if (outputs !== undefined && more.length === 0) return outputs
  throw new NixError({
    message: `${name} evaluates to ${built.length} derivations instead of one image`,
    detail: built.flatMap((one) => Object.values(one)).join('\n'),
    hint: call.installable.text === '' ? 'Set `attribute` to the derivation that is the image.' : undefined,
  })
}

/** Returns the only output. Newer versions of Nix build all outputs that `meta.outputsToInstall` names, or `^*` selects. */
function oneOutput(outputs: Outputs, call: NixBuildCall): string {
  const { text, name } = call.installable
  const [path, ...more] = Object.values(outputs)
  if (path !== undefined && more.length === 0) return checkedPath(path, call)
  const names = Object.keys(outputs)
  throw new NixError({
    message: `Nix built ${names.length} outputs of ${name} instead of one image`,
    detail: Object.entries(outputs)
      .map(([output, path]) => `${output}: ${path}`)
      .join('\n'),
    hint: `Select the output that is the image, for example:\n  installable: ${text.replace(/\^[^#]*$/, '')}^${names[0]}`,
  })
}

function checkedPath(path: string, { installable }: NixBuildCall): string {
  if (isStorePath(path)) return path
  throw new NixError({ message: `Nix built ${installable.name}, but its output is not a store path`, detail: path })
}
