import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { adviceForDisk } from './actions/advice.ts'
import { cancellation } from './actions/cancel.ts'
import type { Environment, Workflow } from './context.ts'
import { ActionError, DiskError, messageOf } from './errors.ts'
import { diskFailure } from './fs/disk.ts'
import { createHttp, type Http } from './http/client.ts'
import type { Inputs } from './inputs/inputs.ts'
import { readTokenLogin } from './inputs/token.ts'
import type { JobLog } from './log.ts'
import { build } from './modes/build.ts'
import { merge } from './modes/merge.ts'
import type { Result, Tools } from './modes/mode.ts'
import type { PhaseTimer } from './modes/phases.ts'
import { plan } from './modes/plan.ts'
import { verify } from './modes/verify.ts'
import { waitUnlessCancelled } from './process/cancellation.ts'
import { createRegistry } from './registry/client.ts'
import { credentialsFrom, withTokenLogin } from './registry/credentials.ts'
import type { Registry } from './registry/registry.ts'
import { RegistryError } from './registry/registry-error.ts'
import { observeWrites, type RegistryWrite } from './registry/writes.ts'

/** The progress of a run, for its summary if it fails. */
export interface Progress {
  readonly phases: PhaseTimer
  /** The writes to registries so far. */
  readonly writes: RegistryWrite[]
}

/** Runs the mode of the inputs, in a step of a job or on the command line. */
export async function runMode(
  inputs: Inputs,
  env: Environment,
  workflow: Workflow,
  log: JobLog,
  { phases, writes }: Progress,
  more: Pick<Tools, 'compareCommits'> = {},
): Promise<Result> {
  const wait = (milliseconds: number) => waitUnlessCancelled(milliseconds, cancellation.signal)
  const http = createHttp({ log, userAgent: 'nix-image-action', env, wait })
  const onWrite = (write: RegistryWrite) => void writes.push(write)
  const registry = observeWrites(openRegistry(http, inputs, env, log), onWrite)
  const tools = { http, registry, log, phases, onWrite, cancellation, ...more }
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

function openRegistry(http: Http, inputs: Inputs, env: Environment, log: JobLog): Registry {
  const onSecret = (secret: string) => log.mask(secret)
  const runtime = env.XDG_RUNTIME_DIR && join(env.XDG_RUNTIME_DIR, 'containers', 'auth.json')
  const files = {
    docker: join(env.DOCKER_CONFIG || join(env.HOME || homedir(), '.docker'), 'config.json'),
    podman: [env.REGISTRY_AUTH_FILE, runtime].flatMap((file) => file || []),
  }
  const credentials = withTokenLogin(credentialsFrom(files, onSecret), readTokenLogin(env, inputs))
  return createRegistry({ http, credentials, onSecret })
}

/**
 * Returns an error with advice.
 * @param advise returns what to do after a registry error
 */
export async function explainError(
  error: unknown,
  env: Environment,
  advise: (error: RegistryError) => string | undefined,
): Promise<ActionError> {
  const { RUNNER_TEMP = tmpdir() } = env
  if (!(error instanceof ActionError) && isShortage(error))
    return explainError(await diskFailure("This step can't continue", RUNNER_TEMP, error), env, advise)
  if (!(error instanceof ActionError))
    return new ActionError({ message: `This is a bug in nix-image-action. Please report it: ${messageOf(error)}` })
  if (error instanceof DiskError) return withHint(error, adviceForDisk(error))
  const cause = registryErrorIn(error)
  return withHint(error, cause && advise(cause))
}

function withHint({ parts }: ActionError, more: string | undefined): ActionError {
  return new ActionError({ ...parts, hint: [parts.hint, more].filter(Boolean).join('\n') })
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
