import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import { type ClientRequest, type IncomingMessage, STATUS_CODES } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DefaultArtifactClient } from '@actions/artifact'
import * as v from 'valibot'
import { jobLog } from '../actions/log.ts'
import { startActivity } from '../activity.ts'
import { firstLine, messageOf, sanitizeLine } from '../errors.ts'
import { isDiskError } from '../fs/disk.ts'
import { createBackOffs } from '../http/back-off.ts'
import { createBudgets, STALL, type Work } from '../http/budget.ts'
import { createClock } from '../http/clock.ts'
import { isRetryable, retryDelay } from '../http/retry.ts'
import { readJson } from '../json.ts'
import { readErrorAnswer } from '../registry/registry-error.ts'
import { RecordError } from './record.ts'

/** There is no artifact service that this action knows: GitHub Enterprise Server and old versions of Gitea have none. */
export class NoArtifactService extends RecordError {}

/** A call into the artifact client that failed. */
export class ArtifactError extends RecordError {
  /** How often the work that the call is part of is done at most. */
  readonly attempts: number
  /** The header, where there was an answer. */
  readonly retryAfter: string | undefined

  constructor(parts: ConstructorParameters<typeof RecordError>[0], attempts: number, retryAfter?: string) {
    super(parts)
    this.attempts = attempts
    this.retryAfter = retryAfter
  }
}

/**
 * Calls the artifact client.
 * @param purpose fits after "can't": `list the artifacts of the run`
 * @throws ArtifactError or NoArtifactService
 */
export type CallClient = <Result>(
  operation: string,
  start: (client: DefaultArtifactClient) => Promise<Result>,
) => Promise<Result>

/** Replaced by tests. */
export interface CallSettings {
  /** Waits for so many milliseconds. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** How long a call may take, in milliseconds. */
  readonly timeout?: number
}

/** Work that consists of calls into the artifact client. */
export interface ArtifactCalls {
  /** Does work, and all of it again after failures that may pass, for 120 s after the service last answered. */
  persist<Result>(work: (call: CallClient) => Promise<Result>): Promise<Result>
}

/** How often work is done again that probably fails for good. */
export const FEW_ATTEMPTS = 5

/** Loads the artifact client, whose code is larger than that of all the rest together. */
export async function openArtifactCalls({ wait = sleep, timeout = STALL }: CallSettings): Promise<ArtifactCalls> {
  // The client refuses servers that are not GitHub's by their host name. Gitea and Forgejo have the same service.
  if (isGitea()) process.env.GITHUB_SERVER_URL = 'https://github.com'
  const { DefaultArtifactClient } = await import('@actions/artifact')
  const client = new DefaultArtifactClient()
  watchClient()
  const clock = createClock(() => performance.now(), wait)
  const budgets = createBudgets(clock.now)
  const backOffs = createBackOffs(clock, jobLog)

  function callsOf(work: Work): CallClient {
    return async (operation, start) => {
      const attempt = budgets.startAttempt(SERVICE, work)
      try {
        const result = await callWithin(attempt.limit(timeout), operation, () => start(client))
        attempt.answered()
        return result
      } catch (error) {
        const failure = explain(operation, error)
        if (failure instanceof ArtifactError && failure.attempts === 1) attempt.answered()
        else attempt.failed()
        throw failure
      }
    }
  }

  /** Waits before work is done again. @throws what it failed with, if that does not help */
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

/** The service and its blob store are one host as far as failures are concerned. */
const SERVICE = 'artifacts'

/** What is left of the time for the attempt after the last wait, in milliseconds. */
const LAST_ATTEMPT = 5_000

/** Has an error say how often and how long the work was tried. */
function withTries(error: ArtifactError, { count, start }: Work, now: number): ArtifactError {
  if (count === 1) return error
  const tries = `${count} attempts in ${Math.round((now - start) / 1000)} s`
  return new ArtifactError({ ...error.parts, message: `${error.parts.message} (${tries})` }, error.attempts)
}

/** A call into the client that is under way, or that nothing waits for any more. */
interface Call {
  ended: boolean
  readonly requests: Set<ClientRequest>
  /** Ends the call, unless it has ended. */
  readonly fail: (error: unknown) => void
}

const calls = new AsyncLocalStorage<Call>()

/** Makes a call that ends with the first of its requests that fails, whatever the client makes of that. */
async function callWithin<Result>(limit: number, operation: string, start: () => Promise<Result>): Promise<Result> {
  const { promise, reject } = Promise.withResolvers<never>()
  const call: Call = { ended: false, requests: new Set(), fail: reject }
  const late = new Error(`the connection stalled: no answer within ${Math.round(limit / 1000)} s`)
  const timer = setTimeout(() => reject(late), limit)
  const activity = startActivity(`the artifact service to ${operation}`)
  try {
    return await Promise.race([calls.run(call, start), promise])
  } finally {
    clearTimeout(timer)
    activity.end()
    // What the client still does must change nothing: the next attempt may have done it already.
    call.ended = true
    for (const request of call.requests) abandon(request)
  }
}

let watching = false

/**
 * Watches all requests of the client. By itself it never settles its promises where an answer breaks off, loses the
 * words of an answer that is not JSON, and repeats some requests in silence and for minutes.
 */
function watchClient(): void {
  if (watching) return
  watching = true
  subscribe('http.client.request.created', (message) => {
    const call = calls.getStore()
    if (call !== undefined) watchRequest((message as { readonly request: ClientRequest }).request, call)
  })
  // What its streams and timers throw would end the process.
  process.on('uncaughtException', (error) => {
    const call = calls.getStore()
    if (call !== undefined) call.fail(error)
    else if (process.listenerCount('uncaughtException') === 1) throw error
  })
}

/** Reports whether the runner belongs to Gitea or Forgejo, which set variables of their own as well. */
export function isGitea({ GITEA_ACTIONS, FORGEJO_ACTIONS }: NodeJS.ProcessEnv = process.env): boolean {
  return GITEA_ACTIONS === 'true' || FORGEJO_ACTIONS === 'true'
}

/** Reports whether the service refuses to create an artifact whose name is taken. Gitea and act let it be overwritten. */
export function reservesNames(): boolean {
  return !isGitea() && process.env.ACT !== 'true'
}

/**
 * Changes a request so that the artifact server of act accepts it. The server rejects the field `mime_type`
 * (https://github.com/nektos/act/issues/6022), and requires the padding of the signature, which the client for the blob
 * store drops from the URL. Tried with act 0.2.89.
 */
function adaptToAct(request: ClientRequest): void {
  request.path = request.path.replace(/([?&]sig=[\w-]{43})(?=&|$)/, '$1%3D')
  if (!request.path.endsWith('/CreateArtifact')) return
  const write = request.write.bind(request)
  const rewrite = (body: unknown): boolean => {
    const { mime_type: _, ...message }: Readonly<Record<string, unknown>> = JSON.parse(String(body))
    const text = JSON.stringify(message)
    request.setHeader('content-length', Buffer.byteLength(text))
    return write(text)
  }
  Object.assign(request, { write: rewrite })
}

function watchRequest(request: ClientRequest, call: Call): void {
  request.once('error', call.fail)
  // Gitea's runner is made from act, and sets its variable as well.
  if (process.env.ACT === 'true' && !isGitea()) adaptToAct(request)
  if (call.ended) {
    abandon(request)
    return
  }
  call.requests.add(request)
  request.once('close', () => call.requests.delete(request))
  request.once('response', (response: IncomingMessage) => {
    response.once('close', () => {
      if (!response.complete) call.fail(new Error('the connection ended in the middle of the answer'))
    })
    const operation = /\/twirp\/.*\/(\w+)$/.exec(request.path)?.[1]
    const { statusCode: status = 0, headers } = response
    const fail = (text: string) => call.fail(new Refusal(status, operation, text, headers['retry-after']))
    if (status >= 400) readText(response, fail)
    else if (status === 200 && operation !== undefined)
      whenRead(response, () =>
        readText(response, (text) => {
          if (!isJson(text)) fail(text)
        }),
      )
  })
}

/** Ends a request with an error that its sender does not retry: Twirp's client and the blob store's differ in these. */
function abandon(request: ClientRequest): void {
  const code = request.path.includes('/twirp/') ? 'ECONNRESET' : 'ERR_CANCELED'
  request.destroy(Object.assign(new Error('the call has ended'), { code }))
}

/** Calls back once the client reads a body: to read it earlier would take its beginning from the client. */
function whenRead(response: IncomingMessage, onRead: () => void): void {
  response.on('newListener', function listen(event: string | symbol) {
    if (event !== 'data') return
    response.off('newListener', listen)
    onRead()
  })
}

function readText(response: IncomingMessage, onEnd: (text: string) => void): void {
  const chunks: Buffer[] = []
  let size = 0
  response.on('data', (chunk: Buffer) => {
    if (size < ANSWER_LIMIT) chunks.push(chunk)
    size += chunk.length
  })
  response.once('end', () => onEnd(Buffer.concat(chunks).toString('utf8')))
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** In bytes: a list of a thousand artifacts has half as many. */
const ANSWER_LIMIT = 4 * 1024 * 1024

/** An answer of the service or its blob store that is none to the request. */
class Refusal extends Error {
  readonly status: number
  /** The service's method, such as `CreateArtifact`; absent for the blob store. */
  readonly operation: string | undefined
  readonly text: string
  readonly retryAfter: string | undefined

  constructor(status: number, operation: string | undefined, text: string, retryAfter: string | undefined) {
    const said = wordsOf(text)
    const where = operation === undefined ? 'the blob store' : operation
    const message = `${status} ${STATUS_CODES[status] ?? ''}`.trim()
    super(`${where} answered ${message}${status < 400 ? ', but not with JSON' : ''}${said === '' ? '' : `: ${said}`}`)
    this.status = status
    this.operation = operation
    this.text = text
    this.retryAfter = retryAfter
  }
}

const TWIRP_ERROR = v.object({ msg: v.string() })

/** https://twitchtv.github.io/twirp/docs/spec_v7.html#error-codes, or what a proxy or the blob store says instead. */
function wordsOf(text: string): string {
  const twirp = readJson(TWIRP_ERROR, text)
  return twirp.ok ? sanitizeLine(twirp.value.msg) : readErrorAnswer(text).detail
}

/** Returns whether an artifact could not be created because its name is taken. */
export function isNameTaken(error: unknown): boolean {
  const { cause } = error as { readonly cause?: unknown }
  return cause instanceof Refusal && cause.status === 409 && cause.operation === 'CreateArtifact'
}

/** Returns the error for what the client, or one of its requests, failed with. */
function explain(operation: string, error: unknown): unknown {
  const detail = messageOf(error)
  if (/ACTIONS_(RUNTIME_TOKEN|RESULTS_URL)/.test(detail) || nameOf(error) === 'GHESNotSupportedError')
    return new NoArtifactService({
      message: `Can't ${operation}: there is no artifact service here`,
      detail,
      hint: HAND_OVER_OUTPUTS,
    })
  if (isGitea() && error instanceof Refusal && error.status === 404 && UPLOAD_OR_LIST.has(error.operation ?? ''))
    return new NoArtifactService({
      message: `Can't ${operation}: this server has no artifact service of the current version`,
      detail,
      hint: HAND_OVER_OUTPUTS,
    })
  // Whoever made the folder knows what to say.
  if (isDiskError(error)) return error
  const parts = { message: `Can't ${operation}`, detail, hint: helpFor(detail), cause: error }
  return new ArtifactError(parts, attemptsFor(error), error instanceof Refusal ? error.retryAfter : undefined)
}

/** The methods that work on whatever the run has, so that 404 means that the service itself is missing. */
const UPLOAD_OR_LIST = new Set(['CreateArtifact', 'ListArtifacts'])

function attemptsFor(error: unknown): number {
  if (nameOf(error) === 'ArtifactNotFoundError') return FEW_ATTEMPTS
  if (!(error instanceof Refusal)) return Number.POSITIVE_INFINITY
  const { status, operation, text } = error
  if (isNameTaken(error) || QUOTA.test(text)) return 1
  if (status < 400 || isRetryable(status, text)) return Number.POSITIVE_INFINITY
  // A signed URL that has expired: the next attempt gets another one.
  if (operation === undefined || status === 404 || status === 409) return FEW_ATTEMPTS
  return 1
}

function nameOf(error: unknown): unknown {
  return (error as { readonly name?: unknown } | undefined)?.name
}

const QUOTA = /insufficient usage|storage quota/i

const HAND_OVER_OUTPUTS =
  'Hand the `record` outputs of the build jobs to `digests` of the merge; examples/workflows/without-artifacts.yml of this action shows how.'

function helpFor(detail: string): string {
  if (QUOTA.test(detail)) return `Delete artifacts that are no longer needed, and re-run this job. ${WITHOUT_ARTIFACTS}`
  return `Re-run this job. ${WITHOUT_ARTIFACTS}`
}

const WITHOUT_ARTIFACTS = `To do without artifacts: ${HAND_OVER_OUTPUTS.replace('Hand', 'hand')}`
