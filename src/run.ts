import { appendFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import * as core from '@actions/core'
import { adviceFor, adviceForDisk } from './actions/advice.ts'
import { declareArtifacts } from './actions/artifacts.ts'
import { cancellation, isCancelled } from './actions/cancel.ts'
import { jobLog } from './actions/log.ts'
import { type Environment, readWorkflow, type Workflow } from './context.ts'
import { ActionError, DiskError, messageOf } from './errors.ts'
import { diskFailure } from './fs/disk.ts'
import { createHttp, type Http } from './http/client.ts'
import { inputOf } from './inputs/field.ts'
import { type Inputs, readInputs } from './inputs/inputs.ts'
import { type JobLog, reportSilence } from './log.ts'
import { build } from './modes/build.ts'
import { merge } from './modes/merge.ts'
import type { Result, Tools } from './modes/mode.ts'
import { plan } from './modes/plan.ts'
import { verify } from './modes/verify.ts'
import { waitUnlessCancelled } from './process/cancellation.ts'
import { createRegistry } from './registry/client.ts'
import { credentialsFrom } from './registry/credentials.ts'
import type { Registry } from './registry/registry.ts'
import { RegistryError } from './registry/registry-error.ts'
import { withoutSecrets } from './secrets.ts'
import { withoutEscapes, withoutHidden } from './text.ts'

/**
 * Runs the action: reads the inputs, runs the mode, and writes its outputs and summary. Reports a failure as one error.
 *
 * - `inputs/` parses and validates inputs; `context.ts` reads what the runner says about the run.
 * - `modes/build.ts`, `modes/merge.ts`, `modes/plan.ts` and `modes/verify.ts` are the modes, top to bottom.
 * - `actions/` talks to GitHub Actions. Below the modes, only the artifact client in `record/` does.
 * @param env the runner's environment
 * @returns the exit code. Connections and child processes may still be open
 */
export async function run(env: Environment): Promise<number> {
  const stopReports = reportSilence(jobLog.info)
  try {
    const inputs = readInputs(env)
    if (inputs.mode === 'merge' && inputs.token !== '') jobLog.mask(inputs.token)
    for (const notice of inputs.notices) jobLog.notice(notice)
    for (const note of inputs.notes) jobLog.info(note)
    const { outputs, summary, artifacts = [], failure } = await runMode(inputs, env, readWorkflow(env), jobLog)
    await writeOutputs(outputs, env)
    for (const warning of await declareArtifacts(artifacts, env)) jobLog.warning(warning)
    if (inputs.summary) await writeSummary(summary, env, failure === undefined)
    if (failure !== undefined) throw failure
    return 0
  } catch (error) {
    // The signal handler ends the process after its child processes.
    if (isCancelled()) return new Promise(() => undefined)
    jobLog.error(await explainError(error, env, (failure) => adviceFor(failure, inputOf(env, 'mode'))))
    if (error instanceof Error) jobLog.debug(error.stack ?? error.message)
    return 1
  } finally {
    stopReports()
  }
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
    await appendFile(file, forSummary(summary))
  } catch (error) {
    const failure = await diskFailure(`Can't write the summary of this step to ${file}`, dirname(file), error)
    const { message, detail } = failure.parts
    const hint = succeeded ? 'The step has succeeded.' : undefined
    jobLog.warning(new ActionError({ message, detail, hint }).message)
  }
}

function forSummary(text: string): string {
  return withoutHidden(withoutEscapes(withoutSecrets(text))).slice(0, SUMMARY_LIMIT)
}

/** In characters, of up to four bytes. The runner accepts at most 1 MiB. */
const SUMMARY_LIMIT = 256 * 1024

/** Runs the mode of the inputs. */
export async function runMode(
  inputs: Inputs,
  env: Environment,
  workflow: Workflow,
  log: JobLog,
  more: Pick<Tools, 'compareCommits'> = {},
): Promise<Result> {
  const wait = (milliseconds: number) => waitUnlessCancelled(milliseconds, cancellation.signal)
  const http = createHttp({ log, userAgent: 'nix-image-action', env, wait })
  const tools = { http, registry: openRegistry(http, env, log), log, cancellation, ...more }
  switch (inputs.mode) {
    case 'plan':
      return plan(inputs, workflow, tools)
    case 'build':
      return build(inputs, workflow, tools)
    case 'merge':
      return merge(inputs, workflow, tools)
    case 'verify':
      return verify(inputs, workflow, tools)
  }
}

function openRegistry(http: Http, env: Environment, log: JobLog): Registry {
  const onSecret = (secret: string) => log.mask(secret)
  const runtime = env.XDG_RUNTIME_DIR && join(env.XDG_RUNTIME_DIR, 'containers', 'auth.json')
  const files = {
    docker: join(env.DOCKER_CONFIG || join(env.HOME || homedir(), '.docker'), 'config.json'),
    podman: [env.REGISTRY_AUTH_FILE, runtime].flatMap((file) => file || []),
  }
  const credentials = credentialsFrom(files, onSecret)
  return createRegistry({ http, credentials, onSecret })
}

/**
 * Returns the message of an error, with advice.
 * @param advise returns what to do after a registry error
 */
export async function explainError(
  error: unknown,
  env: Environment,
  advise: (error: RegistryError) => string | undefined,
): Promise<string> {
  const { RUNNER_TEMP = tmpdir() } = env
  if (!(error instanceof ActionError) && isShortage(error))
    return explainError(await diskFailure("This step can't continue", RUNNER_TEMP, error), env, advise)
  if (!(error instanceof ActionError)) return `This is a bug in nix-image-action. Please report it: ${messageOf(error)}`
  if (error instanceof DiskError) return `${error.message}\n${adviceForDisk(error)}`
  const cause = registryErrorIn(error)
  return [error.message, cause && advise(cause)].filter(Boolean).join('\n')
}

/** Reports whether the runner has run out of disk space or file handles. */
function isShortage(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE'].includes(String((error as NodeJS.ErrnoException | undefined)?.code))
}

/** Returns the registry error that caused an error, if it has no hint yet. */
function registryErrorIn(error: unknown): RegistryError | undefined {
  if (error instanceof RegistryError) return error.parts.hint === undefined ? error : undefined
  return error instanceof ActionError ? registryErrorIn(error.cause) : undefined
}
