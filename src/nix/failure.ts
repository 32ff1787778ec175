import { NixError } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { lastLines, withoutEscapes } from '../text.ts'
import { explainBuildFailure, explainIgnoredSettings } from './explain.ts'
import { flakeOf } from './installable.ts'
import type { LoggedRun } from './logged-run.ts'
import { type DerivationLog, derivationName, type NixLog } from './nix-log.ts'
import { suggestFileAttributes, suggestPackages } from './packages.ts'
import type { NixCall } from './setup.ts'
import { submodulesOf } from './submodules.ts'

export interface NixBuildCall extends NixCall {
  /** The folders that a build writes to. If a disk is full, the error names their free space. */
  readonly folders: readonly string[]
}

/** Returns the error for an evaluation or a build that failed, with a hint for known causes. */
export async function buildFailed(call: NixBuildCall, { result, log }: LoggedRun): Promise<NixError> {
  const { installable, system, runnerSystem, setup } = call
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
  const flake = flakeOf(installable)
  const hint =
    explainBuildFailure(evidence, {
      system,
      runnerSystem,
      hasBuilder: setup.hasBuilder,
      flake,
      submodules: flake === undefined ? [] : await submodulesOf(flake),
      space: formatFreeSpace(disks),
    }) ?? (ignoredSettings.length > 0 ? explainIgnoredSettings(ignoredSettings) : undefined)
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
  const detail = [...shown, ...(reported.some((error) => GIT_FAILED.test(error)) ? gitLines(others) : []), ...messages]
  const evident = failed.slice(0, EVIDENT_BUILDS).flatMap((build) => lastLinesOf(build, EVIDENT_LINES))
  return {
    detail: withoutEscapes((detail.length > 0 ? detail : others.slice(-SHOWN_LINES)).join('\n')),
    evidence: withoutEscapes([...others, ...errors, ...evident].join('\n')),
  }
}

/** Matches the errors of Nix after Git has failed. They do not say why: Git has printed that. */
const GIT_FAILED =
  /program '(?:[^']*\/)?git' failed|Failed to fetch git repository|resolving Git reference|Cannot find Git revision|could not update local clone of Git repository/

/** Matches the lines in which Git, SSH or the host say why, without progress and what follows from it. */
const GIT_REASON =
  /^(?:fatal: (?!Refusing to point HEAD)|ERROR: |ssh: |Host key verification failed|remote: (?!\w+ objects|Total ))|: Permission denied \(/

function gitLines(lines: readonly string[]): readonly string[] {
  return [...new Set(lines.map(withoutEscapes).filter((line) => GIT_REASON.test(line)))].slice(-SHOWN_GIT_LINES)
}

const SHOWN_GIT_LINES = 5

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
