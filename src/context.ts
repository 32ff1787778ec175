import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as v from 'valibot'
import { readJson } from './json.ts'
import { runnerSystem } from './nix/system.ts'
import { isCommitId } from './process/git.ts'

/** The run that this step belongs to, from the runner's environment. */
export interface Workflow {
  readonly run: { readonly id: string; readonly attempt: number }
  readonly job: string
  /** The commit of the run (GITHUB_SHA). May be empty. */
  readonly revision: string
  /** The head commit of a pull request; `revision` is a temporary merge commit then. */
  readonly pullRequestHead?: string | undefined
  /** `owner/name` */
  readonly repository: string
  /** The URL of the Git repository. */
  readonly source: string
  /** The URL of the Git host's API. */
  readonly api: string
  /** Shared by the steps of a job. The runner empties it after the job. */
  readonly tempFolder: string
  /** A folder through which builds hand records over to merges, in place of artifacts. Absent in a job. */
  readonly recordFolder?: string | undefined
  /** The Nix system of the machine. */
  readonly runnerSystem: string
  /** Absent without the permission `id-token: write`. */
  readonly identity?: IdentitySource | undefined
}

/** Where a job gets its identity tokens. */
export interface IdentitySource {
  readonly url: URL
  /** Authorizes the requests. Secret. */
  readonly token: string
}

/** Returns the Nix system of the runner or, outside of a run, of this machine. */
export function ownSystem(env: Environment): string {
  return runnerSystem(env.RUNNER_OS || 'Linux', env.RUNNER_ARCH ?? '', process.arch)
}

/** Returns the commit of a run: for pull requests, their head. May be empty. */
export function commitOfRun({ revision, pullRequestHead }: Pick<Workflow, 'revision' | 'pullRequestHead'>): string {
  return pullRequestHead ?? revision
}

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
    identity: readIdentitySource(env),
  }
}

/** Returns where this job gets its identity tokens. The runner sets the variables only with `id-token: write`. */
export function readIdentitySource(env: Environment): IdentitySource | undefined {
  const { ACTIONS_ID_TOKEN_REQUEST_URL: url = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN: token = '' } = env
  return URL.canParse(url) && token !== '' ? { url: new URL(url), token } : undefined
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
    // Other runners than GitHub's may provide no event.
    return undefined
  }
}

/** Environment variables. */
export type Environment = Readonly<Record<string, string | undefined>>
