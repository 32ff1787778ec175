import { tmpdir } from 'node:os'
import { type Environment, ownSystem } from './inputs.ts'

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
