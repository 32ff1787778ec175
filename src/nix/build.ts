import * as v from 'valibot'
import { NixError } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { readJson } from '../json.ts'
import type { CommandResult } from '../process/command.ts'
import { printLine } from '../process/output.ts'
import { lastLines, withoutEscapes } from '../text.ts'
import { evaluateStorePath } from './evaluate.ts'
import { explainBuildFailure, explainIgnoredSettings } from './explain.ts'
import { foreignOptions, type NixCall, runNix } from './nix.ts'
import {
  type DerivationLog,
  derivationName,
  endNixLog,
  type NixLog,
  type Read,
  readNixLine,
  remind,
  startNixLog,
} from './nix-log.ts'
import { suggestFileAttributes, suggestPackages } from './packages.ts'
import { isStorePath } from './store-path.ts'

export interface NixBuildCall extends NixCall {
  /** The folders that a build writes to. If a disk is full, the error names their free space. */
  readonly folders: readonly string[]
}

/**
 * Builds with Nix, without a `result` link. Prints the log as `readNixLine` formats it.
 * @throws NixError with the errors of Nix, the last log lines of the failed derivations, and a hint for known failures
 */
export async function buildInstallable(call: NixBuildCall): Promise<Built> {
  // Not --print-out-paths, which Nix 2.8 does not support.
  const args = ['build', '--json', '--no-link', ...foreignOptions(call)]
  const target = [...call.nixArgs, ...call.installable.options, call.installable.text]
  const build = await runShown([...args, '--log-format', 'internal-json', ...target])
  const { result, log } = supportsLogFormat(build) ? build : await runShown([...args, '--print-build-logs', ...target])
  if (result.exitCode !== 0) throw await buildFailed(call, result, log)
  return { storePath: await builtPath(result.stdout, call), ignoredSettings: log.ignoredSettings }
}

/** The result of a build. */
export interface Built {
  /** The store path of the output. */
  readonly storePath: string
  /** The names of settings in the flake's `nixConfig` that Nix did not apply. */
  readonly ignoredSettings: readonly string[]
}

interface ShownRun {
  readonly result: CommandResult
  readonly log: NixLog
}

async function runShown(args: readonly string[]): Promise<ShownRun> {
  let log = startNixLog(performance.now())
  const show = (lines: readonly string[]) => lines.forEach(printLine)
  const update = (read: Read) => {
    log = read.log
    show(read.shown)
  }
  const reminder = setInterval(() => update(remind(log, performance.now())), 1000)
  try {
    const result = await runNix(args, (line) => update(readNixLine(log, line, performance.now())))
    // After a failure, the progress would be wrong: Nix does not count failed builds as left.
    if (result.exitCode === 0) show(endNixLog(log))
    return { result, log }
  } finally {
    clearInterval(reminder)
  }
}

/** Returns false if Nix does not support the log format `internal-json`, which a version may remove. */
function supportsLogFormat({ result, log }: ShownRun): boolean {
  return result.exitCode === 0 || log.structured || !/log[- ]format|internal-json/i.test(result.log)
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

async function builtPath(json: string, call: NixBuildCall): Promise<string> {
  const { name } = call.installable
  const result = readJson(BUILD_RESULT, json)
  if (!result.ok)
    throw new NixError({ message: `Nix built ${name}, but its JSON output can't be read`, detail: json.trim() })
  const built: readonly Outputs[] = result.value
  const [outputs, ...more] = built
  if (outputs !== undefined && more.length === 0) return oneOutput(outputs, call)
  throw new NixError({
    message: `${name} evaluates to ${built.length} derivations instead of one image`,
    detail: built.flatMap((one) => Object.values(one)).join('\n'),
    hint: call.installable.text === '' ? 'Set `attribute` to the derivation that is the image.' : undefined,
  })
}

/**
 * Chooses the image among several outputs. Without a selection, newer versions of Nix build all outputs in
 * `meta.outputsToInstall`. The image is then the derivation's default output, which is the only one that Nix 2.8 builds.
 * https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix#derivation-output-selection
 */
async function oneOutput(outputs: Outputs, call: NixBuildCall): Promise<string> {
  const { text, name } = call.installable
  const invalid = Object.values(outputs).find((path) => !isStorePath(path))
  if (invalid !== undefined)
    throw new NixError({ message: `Nix built ${name}, but its output is not a store path`, detail: invalid })
  const [path, ...more] = Object.values(outputs)
  if (path !== undefined && more.length === 0) return path
  const main = text.includes('^') ? undefined : await evaluateStorePath(call)
  if (main !== undefined && Object.values(outputs).includes(main)) return main
  const names = Object.keys(outputs)
  throw new NixError({
    message: `Nix built ${names.length} outputs of ${name} instead of one image`,
    detail: Object.entries(outputs)
      .map(([output, path]) => `${output}: ${path}`)
      .join('\n'),
    hint: `Select the output that is the image, for example:\n  installable: ${text.replace(/\^[^#]*$/, '')}^${names[0]}`,
  })
}

async function buildFailed(call: NixBuildCall, result: CommandResult, log: NixLog): Promise<NixError> {
  const { installable, system, runnerSystem } = call
  const { detail, evidence } = log.structured
    ? failureIn(log)
    : { detail: lastLines(result.log, 20), evidence: result.log }
  const shownDetail = detail.trim() === '' ? `nix exited with code ${result.exitCode} and printed no error` : detail
  if (installable.options.length === 0 && /does not provide attribute/.test(evidence))
    return new NixError({
      message: `There is no ${installable.name}`,
      detail: shownDetail,
      hint: await suggestPackages(call),
    })
  if (installable.options.length > 0 && /\bselection path '/.test(evidence))
    return new NixError({
      message: `There is no ${installable.name}`,
      detail: shownDetail,
      hint: await suggestFileAttributes(call),
    })
  const disks = await freeSpace(call.folders)
  const { ignoredSettings } = log
  const hint =
    explainBuildFailure(evidence, { system, runnerSystem, space: formatFreeSpace(disks) }) ??
    (ignoredSettings.length > 0 ? explainIgnoredSettings(ignoredSettings) : undefined)
  return new NixError({ message: `Nix could not build ${installable.name}`, detail: shownDetail, hint })
}

/** The failure of a run of Nix. */
export interface NixFailure {
  /** The errors of Nix, after the last log lines of the derivations that they are about. */
  readonly detail: string
  /** All lines that may show the cause. Excludes the logs of derivations that did not fail. */
  readonly evidence: string
}

/** Returns the failure from a structured log. */
export function failureIn({ builds, errors, others }: NixLog): NixFailure {
  const causes = errors.filter((error) => !CONSEQUENCE.test(error))
  const reported = causes.length > 0 ? causes : errors
  const failed = [...builds.values()].filter(
    ({ derivation, lines }) => lines.length > 0 && reported.some((error) => error.includes(derivation)),
  )
  const shown = failed.slice(0, SHOWN_BUILDS).flatMap((build) => lastLinesOf(build, SHOWN_LINES))
  // If the build's own lines are unknown, the log in the error is all there is.
  const messages = reported.map((error) =>
    failed.some(({ derivation }) => error.includes(derivation)) ? error.replace(REPEATED_LOG, '') : error,
  )
  const detail = [...shown, ...messages]
  const evident = failed.slice(0, EVIDENT_BUILDS).flatMap((build) => lastLinesOf(build, EVIDENT_LINES))
  return {
    detail: withoutEscapes((detail.length > 0 ? detail : others.slice(-SHOWN_LINES)).join('\n')),
    evidence: withoutEscapes([...others, ...errors, ...evident].join('\n')),
  }
}

/** How much of the failed builds an error shows. */
const SHOWN_LINES = 20
const SHOWN_BUILDS = 3
/** How much of them is searched for the cause. */
const EVIDENT_LINES = 200
const EVIDENT_BUILDS = 30

/** Matches errors that are only the consequence of another error: in Nix 2.8 and Lix, and two forms in newer versions. */
const CONSEQUENCE =
  /\d+ dependencies of derivation '.*' failed to build|^ *Reason: \d+ dependenc(?:y|ies) failed|Build failed due to failed dependency/m

/**
 * Matches the last log lines in the error of a derivation. With a daemon, the error has them even if Nix has printed the
 * log, because the daemon composes the error. Versions differ in "last" or "Last" and in where the command is.
 */
const REPEATED_LOG = /[;,]?\n *last \d+ log lines:(?:\n *>.*)*(?:\n *For full logs, run.*(?:\n +\S*nix[^\n]*\.drv)?)?/i

function lastLinesOf(build: DerivationLog, count: number): readonly string[] {
  return build.lines.slice(-count).map((line) => `${derivationName(build)}> ${line}`)
}
