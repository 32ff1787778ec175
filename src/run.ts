import { appendFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import * as core from '@actions/core'
import { adviceFor } from './actions/advice.ts'
import { declareArtifacts } from './actions/artifacts.ts'
import { isCancelled } from './actions/cancel.ts'
import { jobLog } from './actions/log.ts'
import { type Environment, readWorkflow } from './context.ts'
import { ActionError } from './errors.ts'
import { diskFailure } from './fs/disk.ts'
import { inputOf } from './inputs/field.ts'
import { type Inputs, readInputs } from './inputs/inputs.ts'
import { reportSilence } from './log.ts'
import { summarizeFailure } from './modes/failure-summary.ts'
import type { Result } from './modes/mode.ts'
import { startPhases } from './modes/phases.ts'
import { platformOf } from './nix/system.ts'
import { formatPlatform } from './oci/platform.ts'
import { formatReference, formatRepository, type Repository } from './oci/reference.ts'
import { explainError, type Progress, runMode } from './run-mode.ts'
import { withoutSecrets } from './secrets.ts'
import { withoutEscapes, withoutHidden } from './text.ts'
import { VERSION } from './version.ts'

/**
 * Runs the action: reads the inputs, runs the mode, and writes its outputs and summary. Reports a failure as one error.
 *
 * - `inputs/` parses and validates inputs; `context.ts` reads what the runner says about the run.
 * - `modes/build.ts`, `modes/merge.ts`, `modes/plan.ts` and `modes/verify.ts` are the modes, top to bottom.
 * - `actions/` talks to the runner. The artifact client in `record/` and `attest/` also talk to GitHub.
 * @param env the runner's environment
 * @returns the exit code. Connections and child processes may still be open
 */
export async function run(env: Environment): Promise<number> {
  const stopReports = reportSilence(jobLog.info)
  const step: Step = { phases: startPhases(), writes: [] }
  try {
    const failure = await runStep(env, step)
    if (failure !== undefined) jobLog.error(failure.message)
    return failure === undefined ? 0 : 1
  } catch (error) {
    // The signal handler ends the process after its child processes.
    if (isCancelled()) return new Promise(() => undefined)
    const failure = await explainError(error, env, (one) => adviceFor(one, inputOf(env, 'mode')))
    jobLog.error(failure.message)
    if (error instanceof Error) jobLog.debug(error.stack ?? error.message)
    if (wantsSummary(env)) await writeSummary(summarizeFailedStep(failure, step, env), env, false)
    return 1
  } finally {
    stopReports()
  }
}

/** @returns the failure of a mode that has outputs and a summary even so */
async function runStep(env: Environment, step: Step): Promise<ActionError | undefined> {
  // Before anything else, because errors quote inputs.
  const token = inputOf(env, 'token')
  if (token !== '') jobLog.mask(token)
  // Bug reports need this line.
  jobLog.info(`nix-image-action ${VERSION}, Node ${process.versions.node}`)
  const inputs = readInputs(env)
  step.inputs = inputs
  for (const notice of inputs.notices) jobLog.notice(notice)
  for (const note of inputs.notes) jobLog.info(note)
  const { outputs, summary, artifacts = [], failure } = await runMode(inputs, env, readWorkflow(env), jobLog, step)
  await writeOutputs(outputs, env)
  for (const warning of await declareArtifacts(artifacts, env)) jobLog.warning(warning)
  if (inputs.summary) await writeSummary(summary, env, failure === undefined)
  return failure
}

interface Step extends Progress {
  /** Absent until they have been read. */
  inputs?: Inputs
}

/** Reports whether to write a summary, also if the inputs are not valid. */
function wantsSummary(env: Environment): boolean {
  return inputOf(env, 'summary').toLowerCase() !== 'false'
}

function summarizeFailedStep({ parts }: ActionError, { inputs, phases, writes }: Step, env: Environment): string {
  // Secrets in formatted text would not be found.
  const [message = '', detail, hint] = [parts.message, parts.detail, parts.hint].map((text) => text && forSummary(text))
  const mode = inputs?.mode ?? inputOf(env, 'mode')
  return summarizeFailure({
    step: STEPS.get(mode) ?? 'Step',
    ...describeSubject(inputs),
    failure: { message, detail, hint },
    ...((mode === 'build' || mode === 'merge') && { writes }),
    times: phases.times(),
  })
}

/** By mode. */
const STEPS: ReadonlyMap<string, string> = new Map([
  ['build', 'Build'],
  ['merge', 'Merge'],
  ['plan', 'Plan'],
  ['verify', 'Verification'],
])

function describeSubject(inputs: Inputs | undefined): { readonly image?: string; readonly platform?: string } {
  switch (inputs?.mode) {
    case 'build':
      return { ...nameFirst(inputs.images), platform: formatPlatform(platformOf(inputs.system)) }
    case 'merge':
      return nameFirst(inputs.images)
    case 'verify':
      return { image: formatReference(inputs.reference), platform: formatPlatform(platformOf(inputs.system)) }
    default:
      return {}
  }
}

function nameFirst([first]: readonly Repository[]): { readonly image?: string } {
  return first === undefined ? {} : { image: formatRepository(first) }
}

async function writeOutputs(outputs: Result['outputs'], env: Environment): Promise<void> {
  try {
    for (const [name, value] of Object.entries(outputs)) core.setOutput(name, value)
  } catch (error) {
    const { GITHUB_OUTPUT: file = '' } = env
    throw await diskFailure(`Can't write the outputs of this step to ${file}`, dirname(file), error)
  }
}

/** Only warns if the summary can't be written: the step has done its work. */
async function writeSummary(
  summary: string,
  { GITHUB_STEP_SUMMARY: file }: Environment,
  succeeded: boolean,
): Promise<void> {
  if (!file) return
  try {
    await appendFile(file, forSummary(summary).slice(0, SUMMARY_LIMIT))
  } catch (error) {
    const failure = await diskFailure(`Can't write the summary of this step to ${file}`, dirname(file), error)
    const { message, detail } = failure.parts
    const hint = succeeded ? 'The step has succeeded.' : undefined
    jobLog.warning(new ActionError({ message, detail, hint }).message)
  }
}

/** Removes secrets and control characters. */
function forSummary(text: string): string {
  return withoutHidden(withoutEscapes(withoutSecrets(text)))
}

/** In characters, of up to four bytes. The runner accepts at most 1 MiB. */
const SUMMARY_LIMIT = 256 * 1024
