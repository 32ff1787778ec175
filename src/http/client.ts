import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../log.ts'
import { createSender, startRequestActivity } from './attempt.ts'
import { discard, readBody, readBodyStart, readSteadily } from './body.ts'
import { type Attempt, createBudgets, STALL, type Work } from './budget.ts'
import { HttpError } from './http-error.ts'
import type { HttpReply, HttpRequest, HttpSuccess, ResponseHeaders } from './messages.ts'
import { createNetwork, type NetworkSettings, RefusedAddress, refusedAddress } from './network.ts'
import {
  answeringHost,
  attemptLimit,
  isHeadOfPage,
  isHtml,
  isRateLimited,
  isRedirect,
  type Outcome,
  outcomeOf,
  requestKind,
  retryReason,
  unanswered,
} from './outcome.ts'
import { createConnections, proxyFor, readProxies } from './proxy.ts'
import {
  type ClockSkew,
  clockSkew,
  createBackOffs,
  createClock,
  formatAttempts,
  formatTime,
  parseRetryAfter,
  retryDelay,
} from './retry.ts'

/** An HTTP client that shares its connections between requests. A process needs one. */
export interface Http {
  /**
   * Sends a request, and retries transient failures. Returns redirects without following them.
   * @throws HttpError if there is no answer
   */
  send(request: HttpRequest): Promise<HttpReply>
  /**
   * Sends a request whose result does not matter, once, with a short timeout. It is not logged, and does not affect the
   * retries of other requests.
   * @returns the status of the answer
   */
  sendOnce(request: HttpRequest): Promise<number>
  /**
   * Retries work of several requests as a whole after transient failures.
   * @param attempt sends the requests, each with the work that it belongs to
   * @param attempts the maximum number of attempts
   */
  retry(call: RetryCall, attempt: (work: Work) => Promise<HttpReply>, attempts?: number): Promise<HttpReply>
  /** Reads a body of any size. Throws if the transfer stalls. */
  read(reply: HttpSuccess): AsyncIterable<Buffer>
  /** Discards a body without waiting for it. The connection stays open if the body is short. */
  drain(reply: HttpReply): HttpReply
  /** Waits for a number of milliseconds. */
  pause(milliseconds: number): Promise<unknown>
  readonly log: Log
  /** Closes all connections, and cancels open requests. */
  close(): Promise<void>
}

export type RetryCall = Pick<HttpRequest, 'url' | 'operation' | 'initiator'> & Partial<Pick<HttpRequest, 'method'>>

/** In milliseconds. */
export interface Timeouts {
  /** For progress of an upload, for an answer to begin, for a body with a limit, and for each KiB of other bodies. */
  readonly stall: number
  /** For a proxy to open a tunnel to a host. */
  readonly tunnel: number
  /** For a discarded body to end before its connection is closed. */
  readonly drain: number
}

const TIMEOUTS: Timeouts = { stall: STALL, tunnel: 30_000, drain: 5_000 }

export interface HttpSettings extends NetworkSettings {
  readonly log: Log
  readonly userAgent: string
  /** For HTTPS_PROXY, HTTP_PROXY and NO_PROXY. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Waits for a number of milliseconds. Replaced by tests and by code that can be cancelled. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** Returns a monotonic time in milliseconds. Replaced by tests. */
  readonly now?: () => number
  /** Replaced by tests. */
  readonly timeouts?: Partial<Timeouts>
}

/** Creates a client that speaks HTTP/1.1, and uses the proxy that the environment names. */
export function createHttp(settings: HttpSettings): Http {
  const closing = new AbortController()
  const pause = (milliseconds: number) => sleep(milliseconds, undefined, { signal: closing.signal })
  const { log, userAgent, env } = settings
  const clock = createClock(settings.now ?? (() => performance.now()), settings.wait ?? pause)
  const budgets = createBudgets(clock.now)
  const backOffs = createBackOffs(clock, log)
  const timeouts = { ...TIMEOUTS, ...settings.timeouts }
  const network = createNetwork(settings)
  const proxies = readProxies(env)
  const connections = createConnections(network, proxies, timeouts.tunnel)
  const sendRequest = createSender(connections, userAgent, timeouts.stall)
  let skew: ClockSkew | undefined

  // Errors after all retries. Work that includes the failed request must not be retried because of them.
  const exhausted = new WeakSet<Error>()

  async function sendAttempt(call: HttpRequest, work: Work): Promise<HttpReply> {
    const { origin } = call.url
    await backOffs.ready(origin)
    const attempt = budgets.startAttempt(origin, work, requestKind(call))
    const endActivity = startRequestActivity(call)
    const outcome = await outcomeOf(readReply(call, attempt))
    endActivity()
    if (retryReason(outcome, budgets.hasAnswered(origin)) !== undefined) attempt.failed()
    // A redirect counts only once its target has answered.
    else if (outcome.reply !== undefined && !isRedirect(outcome.reply)) attempt.answered()
    return replyOrThrow(call, outcome)
  }

  async function readReply(call: HttpRequest, attempt: Attempt): Promise<HttpReply> {
    const { status, headers, body } = await sendRequest(call, attempt)
    const answer = { url: call.url, status, headers }
    compareClocks(call.url.host, answer.headers)
    const limit = attempt.limit(timeouts.stall)
    if (status >= 400 || isHeadOfPage(call, answer)) {
      const text = (await readBodyStart(body, ERROR_LIMIT, limit)).toString('utf8')
      return { ok: false, ...answer, text }
    }
    if (call.limit === undefined) return { ok: true, ...answer, body }
    const content = await readBody(body, call.limit, limit)
    if (content !== undefined && isHtml(content))
      return { ok: false, ...answer, text: content.subarray(0, ERROR_LIMIT).toString('utf8') }
    return { ok: true, ...answer, body, content }
  }

  function compareClocks(host: string, headers: ResponseHeaders): void {
    const now = Date.now()
    const found = skew === undefined ? clockSkew(host, headers, now) : undefined
    if (found === undefined) return
    skew = found
    log.warning(
      `The clocks of this runner and of ${host} differ: the runner's says ${formatTime(now)}, ${host}'s says ${formatTime(now + found.milliseconds)}. Correct the wrong one: certificates and logins depend on it.`,
    )
  }

  async function replyOrThrow(call: RetryCall, { reply, error }: Outcome): Promise<HttpReply> {
    if (reply !== undefined) return reply
    if (error instanceof RefusedAddress) throw refusedAddress(call, error, await network.reachFor(call))
    if (error instanceof HttpError) throw error
    const { url, operation } = call
    const answered = budgets.hasAnswered(url.origin)
    const validity = network.certificateOf(url.origin)
    throw unanswered({ url, operation, error, proxy: proxyFor(url, proxies), answered, validity, skew })
  }

  /** Counts the outcome for the host that was asked first, wherever it redirected to. */
  function countOutcome(call: RetryCall, { reply }: Outcome, reason: string | undefined, { since }: Work): void {
    const { origin } = call.url
    if (reason !== undefined) budgets.failed(origin, requestKind(call), since)
    else if (reply !== undefined) budgets.answered(origin, requestKind(call))
  }

  async function retry(
    call: RetryCall,
    attempt: (work: Work) => Promise<HttpReply>,
    attempts = Number.POSITIVE_INFINITY,
  ): Promise<HttpReply> {
    const { host, origin } = call.url
    const work = budgets.startWork()
    while (true) {
      const outcome = await outcomeOf(attempt(work))
      work.count++
      const { reply, error } = outcome
      const answered = budgets.hasAnswered(origin)
      const reason = retryReason(outcome, answered)
      const limit = attemptLimit(outcome, answered, attempts)
      countOutcome(call, outcome, reason, work)
      if (reason === undefined || work.count >= limit || isExhausted(error)) return withAttempts(outcome, work)
      work.since ??= clock.now()
      const retryAfter = reply?.headers.get('retry-after') ?? undefined
      const now = Date.parse(reply?.headers.get('date') ?? '') || Date.now()
      const delay = retryDelay(work.count, retryAfter, now, Math.random())
      if (delay > budgets.left(origin, work, requestKind(call))) return withAttempts(outcome, work)
      await backOffs.wait({
        origin,
        count: work.count,
        delay,
        asked: parseRetryAfter(retryAfter, now) !== undefined,
        limited: isRateLimited(reply),
        why: `${answeringHost(outcome) ?? host}: ${reason}`,
      })
    }
  }

  /** Adds the number of attempts to the outcome of the last one. */
  function withAttempts({ reply, error }: Outcome, { count, start }: Work): HttpReply {
    const tries = formatAttempts(count, clock.now() - start)
    if (reply !== undefined) return reply.ok || count === 1 ? reply : { ...reply, tries }
    if (!(error instanceof HttpError) || isExhausted(error)) throw error
    const { message } = error.parts
    const last = error.withMessage(count === 1 ? message : `${message} (${tries})`)
    exhausted.add(last)
    throw last
  }

  function isExhausted(error: unknown): boolean {
    return error instanceof Error && (exhausted.has(error) || isExhausted(error.cause))
  }

  return {
    send: (call) =>
      call.work === undefined
        ? retry(call, (work) => sendAttempt(call, work), call.attempts)
        : sendAttempt(call, call.work),
    async sendOnce(call) {
      const { status, body } = await sendRequest({ ...call, timeoutMs: BACKGROUND_TIMEOUT }, UNCOUNTED)
      discard(body, timeouts.drain)
      return status
    },
    retry,
    read: ({ body }) => readSteadily(body, timeouts.stall),
    drain(reply) {
      if (reply.ok && reply.content === undefined) discard(reply.body, timeouts.drain)
      return reply
    },
    pause: clock.wait,
    log,
    async close() {
      closing.abort()
      await connections.close()
    },
  }
}

/** The timeout of requests whose result does not matter, in milliseconds. */
const BACKGROUND_TIMEOUT = 10_000

/** An attempt that does not count for the retries of its host. */
const UNCOUNTED: Attempt = {
  limit: (timeout) => timeout,
  progress: () => undefined,
  answered: () => undefined,
  failed: () => undefined,
}

const ERROR_LIMIT = 64 * 1024
