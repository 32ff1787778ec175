import { tmpdir } from 'node:os'
import type { Environment } from './inputs.ts'
import { runnerSystem } from './nix/system.ts'

/** What the runner says of the run that this step belongs to. */
export interface Workflow {
  readonly run: { readonly id: string; readonly attempt: number }
  readonly job: string
  /** For files of this step alone; the runner empties it after the job. */
  readonly tempFolder: string
  /** The Nix system of the machine. */
  readonly runnerSystem: string
}

export function readWorkflow(env: Environment): Workflow {
  return {
    run: { id: env.GITHUB_RUN_ID ?? '', attempt: Number(env.GITHUB_RUN_ATTEMPT) || 1 },
    job: env.GITHUB_JOB ?? '',
    tempFolder: env.RUNNER_TEMP || tmpdir(),
    runnerSystem: runnerSystem(env.RUNNER_OS || 'Linux', env.RUNNER_ARCH || process.arch),
  }
}
