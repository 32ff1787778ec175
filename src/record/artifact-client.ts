import { setTimeout as sleep } from 'node:timers/promises'
import type { DefaultArtifactClient } from '@actions/artifact'
import { firstLine, messageOf, RecordError } from '../errors.ts'
import { isDiskError } from '../fs/disk.ts'
import { createBudgets, STALL, type Work } from '../http/budget.ts'
import { createBackOffs, createClock, formatAttempts, isRetryable, retryDelay } from '../http/retry.ts'
import type { Log } from '../log.ts'
import { callWithin, ErrorResponse, isGitea, watchClient } from './artifact-requests.ts'

/** The server has no supported artifact service: GitHub Enterprise Server and old versions of Gitea. */
export class NoArtifactService extends RecordError {}

/** A failed call to the artifact client. */
export class ArtifactError extends RecordError {
  /** How often the work that includes the call is attempted at most. */
  readonly attempts: number
  /** The `Retry-After` header of the response. */
  readonly retryAfter: string | undefined

  constructor(parts: ConstructorParameters<typeof RecordError>[0], attempts: number, retryAfter?: string) {
    super(parts)
    this.attempts = attempts
    this.retryAfter = retryAfter
  }
}

/**
 * Calls the artifact client.
 * @param operation fits after "can't": `list the artifacts of the run`
 * @throws ArtifactError or NoArtifactService
 */
export type CallClient = <Result>(
  operation: string,
  start: (client: DefaultArtifactClient) => Promise<Result>,
) => Promise<Result>

export interface ArtifactSettings {
  /** For files during uploads and downloads. */
  readonly tempFolder: string
  readonly log: Log
  /** Waits before a retry. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  readonly timeoutMs?: number
}

/** Calls the artifact client with retries. */
export interface ArtifactCalls {
  /** Repeats work as a whole after retryable failures, until 120 s after the last response of the service. */
  persist<Result>(work: (call: CallClient) => Promise<Result>): Promise<Result>
}

/** For failures that are probably permanent. */
export const FEW_ATTEMPTS = 5

/**
 * Loads the artifact client, which is larger than the rest of this action.
 * @throws Error if the runner has no artifact service
 */
async function loadArtifactClient(): Promise<DefaultArtifactClient> {
  const missing = missingVariable()
  if (missing !== undefined) throw new Error(`the environment variable ${missing} is not set`)
  // The client rejects servers with other host names than GitHub's, although Gitea and Forgejo have the same service.
  if (isGitea()) process.env.GITHUB_SERVER_URL = 'https://github.com'
  const { DefaultArtifactClient } = await import('@actions/artifact')
  watchClient()
  return new DefaultArtifactClient()
}

/** Starts to load the code of the artifact client. Call it while the step waits, before a record is handed over. */
export function preloadArtifactClient(): void {
  // An error is reported when the client is used.
  if (missingVariable() === undefined) import('@actions/artifact').catch(() => undefined)
}

/** Returns a variable that a runner with an artifact service sets, and this one does not. */
function missingVariable(): string | undefined {
  return ['ACTIONS_RUNTIME_TOKEN', 'ACTIONS_RESULTS_URL'].find((name) => !process.env[name])
}

/** Prepares calls of the artifact client, which the first call loads. */
export function openArtifactCalls({
  log,
  wait = sleep,
  timeoutMs = STALL,
}: Omit<ArtifactSettings, 'tempFolder'>): ArtifactCalls {
  let loading: Promise<DefaultArtifactClient> | undefined
  const client = () => {
    loading ??= loadArtifactClient()
    return loading
  }
  const clock = createClock(() => performance.now(), wait)
  const budgets = createBudgets(clock.now)
  const backOffs = createBackOffs(clock, log)

  function callsOf(work: Work): CallClient {
    return async (operation, start) => {
      const attempt = budgets.startAttempt(SERVICE, work)
      try {
        const result = await callWithin(attempt.limit(timeoutMs), operation, async () => start(await client()))
        attempt.answered()
        return result
      } catch (error) {
        const failure = explainArtifactError(operation, error)
        if (failure instanceof ArtifactError && failure.attempts === 1) attempt.answered()
        else attempt.failed()
        throw failure
      }
    }
  }

  /** Waits before a retry. @throws the failure if it can't be retried */
  async function pause(error: unknown, work: Work): Promise<void> {
    work.count++
    if (!(error instanceof ArtifactError)) throw error
    work.since ??= clock.now()
    const { attempts, retryAfter, parts } = error
    const delay = retryDelay(work.count, retryAfter, Date.now(), Math.random())
    const left = budgets.left(SERVICE, work) - LAST_ATTEMPT
    if (work.count >= attempts || delay > left) throw withTries(error, work, clock.now())
    const why = `${parts.message}: ${firstLine(parts.detail)}`
    await backOffs.wait({ origin: SERVICE, count: work.count, delay, asked: false, why })
  }

  return {
    async persist(doWork) {
      const work = budgets.startWork()
      const call = callsOf(work)
      while (true) {
        try {
          return await doWork(call)
        } catch (error) {
          await pause(error, work)
        }
      }
    },
  }
}

/** Counts failures of the service and its blob store together. */
const SERVICE = 'artifacts'

/** Reserved for the last attempt, in milliseconds. */
const LAST_ATTEMPT = 5_000

/** Adds to an error how often and how long the work was attempted. */
function withTries(error: ArtifactError, { count, start }: Work, now: number): ArtifactError {
  if (count === 1) return error
  return new ArtifactError(
    { ...error.parts, message: `${error.parts.message} (${formatAttempts(count, now - start)})` },
    error.attempts,
  )
}

/** Reports whether an artifact could not be created because its name is taken. */
export function isNameTaken(error: unknown): boolean {
  const { cause } = error as { readonly cause?: unknown }
  return cause instanceof ErrorResponse && cause.status === 409 && cause.operation === 'CreateArtifact'
}

/** Explains a failure of the client or of one of its requests. */
function explainArtifactError(operation: string, error: unknown): unknown {
  const detail = messageOf(error)
  if (/ACTIONS_(RUNTIME_TOKEN|RESULTS_URL)/.test(detail) || errorName(error) === 'GHESNotSupportedError')
    return new NoArtifactService({
      message: `Can't ${operation}: this runner has no artifact service`,
      detail,
      hint: HAND_OVER_OUTPUTS,
    })
  if (isGitea() && error instanceof ErrorResponse && error.status === 404 && UPLOAD_OR_LIST.has(error.operation ?? ''))
    return new NoArtifactService({
      message: `Can't ${operation}: this server does not support the current version of the artifact service`,
      detail,
      hint: HAND_OVER_OUTPUTS,
    })
  // Explained where the temporary folder is created.
  if (isDiskError(error)) return error
  const parts = { message: `Can't ${operation}`, detail, hint: artifactHint(detail), cause: error }
  return new ArtifactError(parts, attemptsAfter(error), error instanceof ErrorResponse ? error.retryAfter : undefined)
}

/** Methods that don't name an existing artifact: 404 means that the service itself is missing. */
const UPLOAD_OR_LIST = new Set(['CreateArtifact', 'ListArtifacts'])

function attemptsAfter(error: unknown): number {
  if (errorName(error) === 'ArtifactNotFoundError') return FEW_ATTEMPTS
  if (!(error instanceof ErrorResponse)) return Number.POSITIVE_INFINITY
  const { status, operation, text } = error
  if (isNameTaken(error) || QUOTA.test(text)) return 1
  if (status < 400 || isRetryable(status, text)) return Number.POSITIVE_INFINITY
  // A signed URL may have expired: the next attempt gets a new one.
  if (operation === undefined || status === 404 || status === 409) return FEW_ATTEMPTS
  return 1
}

function errorName(error: unknown): unknown {
  return (error as { readonly name?: unknown } | undefined)?.name
}

const QUOTA = /insufficient usage|storage quota/i

const HAND_OVER_OUTPUTS =
  'Pass the `record` outputs of the build jobs to the `digests` input of the merge. See examples/workflows/without-artifacts.yml in the repository of this action.'

function artifactHint(detail: string): string {
  if (QUOTA.test(detail)) return `Delete artifacts that are no longer needed, and re-run this job. ${WITHOUT_ARTIFACTS}`
  return `Re-run this job. ${WITHOUT_ARTIFACTS}`
}

const WITHOUT_ARTIFACTS = `To avoid artifacts: ${HAND_OVER_OUTPUTS.replace('Pass', 'pass')}`
