import { tmpdir } from 'node:os'
import type { Environment } from './inputs/field.ts'
import { runnerSystem } from './nix/system.ts'

/** What the runner says of the run that this step belongs to. */
export interface Workflow {
  readonly run: { readonly id: string; readonly attempt: number }
  readonly job: string
  /** The commit; empty where the runner names none. */
  readonly revision: string
  /** The Git repository: as `owner/name`, and its address. */
  readonly repository: string
  readonly source: string
  /** Of the Git host's API. */
  readonly api: string
  /** For files of this step alone; the runner empties it after the job. */
  readonly tempFolder: string
  /** The Nix system of the machine. */
  readonly runnerSystem: string
}

/** The Nix system of the runner; outside of a run, of this machine. */
export function ownSystem(env: Environment): string {
  return runnerSystem(env.RUNNER_OS || 'Linux', env.RUNNER_ARCH || process.arch)
}

/** What the runner says of the run, in its environment. */
export function readWorkflow(env: Environment): Workflow {
  return {
    run: { id: env.GITHUB_RUN_ID ?? '', attempt: Number(env.GITHUB_RUN_ATTEMPT) || 1 },
    job: env.GITHUB_JOB ?? '',
    revision: env.GITHUB_SHA ?? '',
    repository: env.GITHUB_REPOSITORY ?? '',
    source: env.GITHUB_SERVER_URL && env.GITHUB_REPOSITORY ? `${env.GITHUB_SERVER_URL}/${env.GITHUB_REPOSITORY}` : '',
    api: env.GITHUB_API_URL ?? '',
    tempFolder: env.RUNNER_TEMP || tmpdir(),
    runnerSystem: ownSystem(env),
  }
}
