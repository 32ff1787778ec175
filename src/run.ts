import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as core from '@actions/core'
import { adviceFor } from './advice.ts'
import { build } from './build.ts'
import { Failure, messageOf } from './failure.ts'
import { type Environment, readInputs } from './inputs.ts'
import { jobLog } from './job-log.ts'
import { merge } from './merge.ts'
import { credentialsFrom } from './registry/credentials.ts'
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
    for (const notice of inputs.notices) jobLog.notice(notice)
    const registry = openRegistry(env)
    const tools = { registry, log: jobLog }
    const workflow = readWorkflow(env)
    const { outputs, summary } =
      inputs.mode === 'build' ? await build(inputs, workflow, tools) : await merge(inputs, workflow, tools)
    await registry.close()
    for (const [name, value] of Object.entries(outputs)) core.setOutput(name, value)
    if (env.GITHUB_STEP_SUMMARY) await appendFile(env.GITHUB_STEP_SUMMARY, summary)
  } catch (error) {
    core.setFailed(explain(error))
    if (error instanceof Error) core.debug(error.stack ?? error.message)
  }
}

function openRegistry(env: Environment): Registry {
  const onSecret = (secret: string) => core.setSecret(secret)
  const runtime = env.XDG_RUNTIME_DIR && join(env.XDG_RUNTIME_DIR, 'containers', 'auth.json')
  const files = {
    docker: join(env.DOCKER_CONFIG || join(env.HOME ?? '', '.docker'), 'config.json'),
    podman: [env.REGISTRY_AUTH_FILE, runtime].flatMap((file) => file || []),
  }
  const credentials = credentialsFrom(files, onSecret)
  return createRegistry({ log: jobLog, credentials, onSecret, userAgent: 'nix-image-action' })
}

/** The message of an error, for a person who reads it in the log of a workflow. */
function explain(error: unknown): string {
  if (error instanceof RegistryError && error.parts.help === undefined)
    return [error.message, adviceFor(error)].filter(Boolean).join('\n')
  if (error instanceof Failure) return error.message
  return `This is a defect of nix-image-action, please report it: ${messageOf(error)}`
}
