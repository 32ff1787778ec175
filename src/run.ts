import { appendFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import * as core from '@actions/core'
import { adviceFor } from './advice.ts'
import { build } from './build/build.ts'
import { Failure, messageOf } from './failure.ts'
import type { Environment } from './inputs/field.ts'
import { type BuildInputs, type MergeInputs, type PlanInputs, readInputs } from './inputs/inputs.ts'
import { jobLog } from './job-log.ts'
import { merge } from './merge/merge.ts'
import type { Result } from './mode.ts'
import { plan } from './plan/plan.ts'
import { credentialsFrom } from './registry/credentials.ts'
import { createHttp, type Http } from './registry/http.ts'
import { createRegistry, type Registry } from './registry/registry.ts'
import { RegistryError } from './registry/registry-error.ts'
import { readWorkflow } from './workflow.ts'

/**
 * Runs the action: inputs in, outputs and the summary out. What fails is told by one error, the step then fails.
 * @param env the runner's environment
 */
export async function run(env: Environment): Promise<void> {
  try {
    const inputs = readInputs(env)
    if (inputs.mode === 'merge' && inputs.token !== '') jobLog.mask(inputs.token)
    for (const notice of inputs.notices) jobLog.notice(notice)
    const { outputs, summary } = await runMode(inputs, env)
    for (const [name, value] of Object.entries(outputs)) core.setOutput(name, value)
    if (env.GITHUB_STEP_SUMMARY) await appendFile(env.GITHUB_STEP_SUMMARY, summary)
  } catch (error) {
    core.setFailed(explain(error))
    if (error instanceof Error) core.debug(error.stack ?? error.message)
  }
}

async function runMode(inputs: BuildInputs | MergeInputs | PlanInputs, env: Environment): Promise<Result> {
  const http = createHttp({ log: jobLog, userAgent: 'nix-image-action', env })
  const tools = { http, registry: openRegistry(http, env), log: jobLog }
  const workflow = readWorkflow(env)
  try {
    switch (inputs.mode) {
      case 'plan':
        return await plan(inputs, workflow, tools)
      case 'build':
        return await build(inputs, workflow, tools)
      case 'merge':
        return await merge(inputs, workflow, tools)
    }
  } finally {
    await http.close()
  }
}

function openRegistry(http: Http, env: Environment): Registry {
  const onSecret = (secret: string) => jobLog.mask(secret)
  const runtime = env.XDG_RUNTIME_DIR && join(env.XDG_RUNTIME_DIR, 'containers', 'auth.json')
  const files = {
    docker: join(env.DOCKER_CONFIG || join(env.HOME || homedir(), '.docker'), 'config.json'),
    podman: [env.REGISTRY_AUTH_FILE, runtime].flatMap((file) => file || []),
  }
  const credentials = credentialsFrom(files, onSecret)
  return createRegistry({ http, credentials, onSecret })
}

/** The message of an error, for a person who reads it in the log of a workflow. */
function explain(error: unknown): string {
  if (!(error instanceof Failure)) return `This is a defect of nix-image-action, please report it: ${messageOf(error)}`
  const advice = registryErrorIn(error)
  return [error.message, advice && adviceFor(advice)].filter(Boolean).join('\n')
}

/** The registry's refusal that led to an error and says nothing itself of what to do. */
function registryErrorIn(error: unknown): RegistryError | undefined {
  if (error instanceof RegistryError) return error.parts.help === undefined ? error : undefined
  return error instanceof Failure ? registryErrorIn(error.cause) : undefined
}
