import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as v from 'valibot'
import type { Environment } from './inputs/field.ts'
import { readJson } from './json.ts'
import { runnerSystem } from './nix/system.ts'
import { isCommitId } from './record/record.ts'

/** What the runner says of the run that this step belongs to. */
export interface Workflow {
  readonly run: { readonly id: string; readonly attempt: number }
  readonly job: string
  /** The commit; empty where the runner names none. */
  readonly revision: string
  /** The commit that a pull request proposes, in place of the temporary merge commit that `revision` is then. */
  readonly pullRequestHead?: string | undefined
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
  return runnerSystem(env.RUNNER_OS || 'Linux', env.RUNNER_ARCH ?? '', process.arch)
}

/** Returns the commit that a run is of, as its users know it; empty if the runner names none. */
export function commitOfRun({ revision, pullRequestHead }: Pick<Workflow, 'revision' | 'pullRequestHead'>): string {
  return pullRequestHead ?? revision
}

/** What the runner says of the run, in its environment. */
export function readWorkflow(env: Environment): Workflow {
  return {
    run: { id: env.GITHUB_RUN_ID ?? '', attempt: Number(env.GITHUB_RUN_ATTEMPT) || 1 },
    job: env.GITHUB_JOB ?? '',
    revision: env.GITHUB_SHA ?? '',
    pullRequestHead: readPullRequestHead(env),
    repository: env.GITHUB_REPOSITORY ?? '',
    source: env.GITHUB_SERVER_URL && env.GITHUB_REPOSITORY ? `${env.GITHUB_SERVER_URL}/${env.GITHUB_REPOSITORY}` : '',
    api: env.GITHUB_API_URL ?? '',
    tempFolder: env.RUNNER_TEMP || tmpdir(),
    runnerSystem: ownSystem(env),
  }
}

const PULL_REQUEST_EVENT = v.object({ pull_request: v.object({ head: v.object({ sha: v.string() }) }) })

/** https://docs.github.com/en/webhooks/webhook-events-and-payloads#pull_request */
function readPullRequestHead({ GITHUB_EVENT_NAME: name, GITHUB_EVENT_PATH: file }: Environment): string | undefined {
  if (!name?.match(/^pull_request(_review|_review_comment)?$/) || !file) return undefined
  try {
    const event = readJson(PULL_REQUEST_EVENT, readFileSync(file))
    const head = event.ok ? event.value.pull_request.head.sha : ''
    return isCommitId(head) ? head : undefined
  } catch {
    // Runners other than GitHub's may give no event.
    return undefined
  }
}
