import * as v from 'valibot'
import { lastLines } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { readJson } from '../json.ts'
import { type CommandResult, printLine } from '../process/command.ts'
import { evaluateStorePath } from './evaluate.ts'
import { explainBuildFailure } from './explain.ts'
import { foreignOptions, type NixCall, runNix } from './nix.ts'
import { NixError } from './nix-error.ts'
import { endNixLog, failureIn, type NixLog, type Read, readNixLine, remind, startNixLog } from './nix-log.ts'
import { isStorePath } from './store-path.ts'
import { whatFileHas, whatFlakeHas } from './what-there-is.ts'

export interface NixBuildCall extends NixCall {
  /** The folders that a build fills, whose disks an error names where they are full. */
  readonly folders: readonly string[]
}

/**
 * Builds with Nix without leaving a `result` link; its log is shown as `readNixLine` has it.
 * @throws NixError with Nix's errors, the last lines of the derivations that failed, and, for the failures that are
 * known, what to do
 */
export async function buildInstallable(call: NixBuildCall): Promise<Built> {
  // --json rather than --print-out-paths, which Nix 2.8 does not have yet.
  const args = ['build', '--json', '--no-link', ...foreignOptions(call)]
  const message = [...call.nixArgs, ...call.installable.options, call.installable.text]
  const build = await runShown([...args, '--log-format', 'internal-json', ...message])
  const { result, log } = knowsFormat(build) ? build : await runShown([...args, '--print-build-logs', ...message])
  if (result.exitCode !== 0) throw await buildFailed(call, result, log)
  return { storePath: await outputOf(result.stdout, call), ignoredSettings: log.ignoredSettings }
}

/** What Nix built. */
export interface Built {
  /** Of the output. */
  readonly storePath: string
  /** The names of settings that the flake asks for, and that Nix does not apply. */
  readonly ignoredSettings: readonly string[]
}

/** What to do about settings that Nix does not apply. */
export function adviseOnSettings(names: readonly string[]): string {
  return `Nix ignores settings that the flake asks for (nixConfig): ${names.join(', ')}. If you trust the flake, allow them:
  nix-args: --accept-flake-config`
}

/** Where Nix keeps what it builds. */
export function storeFolder(): string {
  return process.env.NIX_STORE_DIR || '/nix/store'
}

interface ShownRun {
  readonly result: CommandResult
  readonly log: NixLog
}

async function runShown(args: readonly string[]): Promise<ShownRun> {
  let log = startNixLog(performance.now())
  const show = (lines: readonly string[]) => lines.forEach(printLine)
  const take = (read: Read) => {
    log = read.log
    show(read.shown)
  }
  const reminder = setInterval(() => take(remind(log, performance.now())), 1000)
  try {
    const result = await runNix(args, (line) => take(readNixLine(log, line, performance.now())))
    // What has failed Nix does not count as left.
    if (result.exitCode === 0) show(endNixLog(log))
    return { result, log }
  } finally {
    clearInterval(reminder)
  }
}

/** The log's format is internal to Nix, as its name says: some version may not have it. */
function knowsFormat({ result, log }: ShownRun): boolean {
  return result.exitCode === 0 || log.structured || !/log[- ]format|internal-json/i.test(result.log)
}

/** What is in the store already is not built, but named: as `{"path": "…"}` by Nix 2.8, as a text by newer versions. */
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

async function outputOf(json: string, call: NixBuildCall): Promise<string> {
  const { name } = call.installable
  const result = readJson(BUILD_RESULT, json)
  if (!result.ok)
    throw new NixError({ message: `Nix built ${name}, but its answer can't be read`, detail: json.trim() })
  const built: readonly Outputs[] = result.value
  const [outputs, ...more] = built
  if (outputs !== undefined && more.length === 0) return oneOutput(outputs, call)
  throw new NixError({
    message: `${name} is ${built.length} derivations, and an image is one`,
    detail: built.flatMap((one) => Object.values(one)).join('\n'),
    hint: call.installable.text === '' ? 'Name the one that is the image in `attribute`.' : undefined,
  })
}

/**
 * Where nobody chose outputs, newer versions of Nix build those of `meta.outputsToInstall`, and of these it is the one
 * that stands for the derivation in Nix's language: Nix 2.8 builds no other.
 * https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix#derivation-output-selection
 */
async function oneOutput(outputs: Outputs, call: NixBuildCall): Promise<string> {
  const { text, name } = call.installable
  const odd = Object.values(outputs).find((path) => !isStorePath(path))
  if (odd !== undefined)
    throw new NixError({ message: `Nix built ${name}, but its answer names what is not a store path`, detail: odd })
  const [path, ...more] = Object.values(outputs)
  if (path !== undefined && more.length === 0) return path
  const main = text.includes('^') ? undefined : await evaluateStorePath(call)
  if (main !== undefined && Object.values(outputs).includes(main)) return main
  const names = Object.keys(outputs)
  throw new NixError({
    message: `Nix built ${names.length} outputs of ${name}, and an image is one`,
    detail: Object.entries(outputs)
      .map(([output, path]) => `${output}: ${path}`)
      .join('\n'),
    hint: `Name the one that is the image, for example by \`${text.replace(/\^[^#]*$/, '')}^${names[0]}\`.`,
  })
}

async function buildFailed(call: NixBuildCall, result: CommandResult, log: NixLog): Promise<NixError> {
  const { installable, system, runnerSystem } = call
  const { detail, evidence } = log.structured
    ? failureIn(log)
    : { detail: lastLines(result.log, 20), evidence: result.log }
  const told = detail.trim() === '' ? `nix ended with exit code ${result.exitCode}, and said nothing` : detail
  if (installable.options.length === 0 && /does not provide attribute/.test(evidence))
    return new NixError({
      message: `There is no ${installable.name}`,
      detail: told,
      hint: await whatFlakeHas(call),
    })
  if (installable.options.length > 0 && /\bselection path '/.test(evidence))
    return new NixError({ message: `There is no ${installable.name}`, detail: told, hint: await whatFileHas(call) })
  const disks = await freeSpace(call.folders)
  const { ignoredSettings } = log
  const hint =
    explainBuildFailure(evidence, { system, runnerSystem, space: formatFreeSpace(disks) }) ??
    (ignoredSettings.length > 0 ? adviseOnSettings(ignoredSettings) : undefined)
  return new NixError({ message: `Nix could not build ${installable.name}`, detail: told, hint })
}
