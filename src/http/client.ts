import { STATUS_CODES } from 'node:http'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, type Dispatcher, errors, Pool, ProxyAgent, request } from 'undici'
import { type Activity, startActivity } from '../activity.ts'
import { messageOf, sanitizeLine } from '../errors.ts'
import type { Log } from '../log.ts'
import { RegistryError, readErrorAnswer } from '../registry/registry-error.ts'
import { createBackOffs } from './back-off.ts'
import { LateAnswer, readStart, readSteadily, readWhole, watchBody } from './body.ts'
import { type Attempt, createBudgets, STALL, type Work } from './budget.ts'
import { type ClockSkew, clockSkew, createClock, formatTime } from './clock.ts'
import { createNetwork, type NetworkSettings, type Reach, RefusedAddress, refusedAddress } from './network.ts'
import { proxyFor, proxyStatus, readProxies, unusableProxy } from './proxy.ts'
import { isRetryable, isRetryableError, parseRetryAfter, retryDelay } from './retry.ts'
import { causeOf, codeOf, unanswered } from './unanswered.ts'

/** A request to whatever URL. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  readonly url: URL
  /** The registry that causes the request, which then goes only to addresses that it may send this client to. */
  readonly registry?: URL
  readonly headers: Readonly<Record<string, string>>
  /** A stream can be sent once only. */
  readonly body?: Uint8Array | Readable | undefined
  /** How long to wait for the answer after all has been sent, in milliseconds, if not as long as usual. */
  readonly timeoutMs?: number
  /** What the request is for, in a form that fits after "can't": `read ghcr.io/owner/app:latest`. */
  readonly operation: string
  /** Reads the answer's body at once, up to so many bytes, as part of the request that is tried again. */
  readonly limit?: number
  /** How often it is sent at most, apart from answers with status 429; one for looking whether anybody answers. */
  readonly attempts?: number
  /** What it is part of, which is tried again as a whole; the request itself is sent once. */
  readonly work?: Work
}

/** An answer below 400. */
export interface HttpSuccess {
  readonly ok: true
  readonly url: URL
  readonly status: number
  readonly headers: Headers
  /** Read already if the request had a limit; else to be given to `read` or `drain`. */
  readonly body: Dispatcher.ResponseData['body']
  /** With a limit only: the whole body, or nothing where it is longer. */
  readonly content?: Buffer | undefined
}

/** An answer of 400 and above, or a page of HTML that a proxy has put in place of an answer, after all attempts. */
export interface HttpFailure {
  readonly ok: false
  readonly url: URL
  readonly status: number
  readonly headers: Headers
  /** The first 64 KiB. */
  readonly text: string
  /** How often it was asked for, where that is more than once: `9 attempts in 118 s`. */
  readonly tries?: string
}

export type HttpReply = HttpSuccess | HttpFailure

/** The one client of the process: its connections are kept for all that it asks. */
export interface Http {
  /**
   * Sends a request, and again after passing failures. Redirects are answers like any other.
   * @throws RegistryError where no answer came: unreachable, untrusted-certificate
   */
  send(request: HttpRequest): Promise<HttpReply>
  /**
   * Sends a request that nothing depends on, once. It has no line in the log, counts for no budget or back-off of its
   * host, and ends after some seconds.
   * @returns the status of the answer
   */
  sendOnce(request: HttpRequest): Promise<number>
  /**
   * Does again what fails in passing, for work of several requests that are to be tried again together.
   * @param attempt gives its requests the work that they are part of
   * @param attempts how often it is tried at most
   */
  retry(call: RetryCall, attempt: (work: Work) => Promise<HttpReply>, attempts?: number): Promise<HttpReply>
  /** Reads a body of any size. Fails when the transfer stalls. */
  read(reply: HttpSuccess): AsyncIterable<Buffer>
  /** Discards a body, without waiting for it. A short one leaves the connection usable. */
  drain(reply: HttpReply): HttpReply
  /** Waits for so many milliseconds. */
  pause(milliseconds: number): Promise<unknown>
  readonly log: Log
  /** Ends all connections, together with the requests and bodies that are still open. */
  close(): Promise<void>
}

export type RetryCall = Pick<HttpRequest, 'url' | 'operation' | 'registry'> & Partial<Pick<HttpRequest, 'method'>>

/** In milliseconds. */
export interface Timeouts {
  /** For progress in sending a body; for an answer to begin; for a whole short body, and for each KiB of another one. */
  readonly stall: number
  /** For a proxy to open a tunnel to a host. */
  readonly tunnel: number
  /** For a body that is discarded to end, before its connection is closed. */
  readonly drain: number
}

const TIMEOUTS: Timeouts = { stall: STALL, tunnel: 30_000, drain: 5_000 }

export interface HttpSettings extends NetworkSettings {
  readonly log: Log
  readonly userAgent: string
  /** For HTTPS_PROXY, HTTP_PROXY and NO_PROXY. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Waits for so many milliseconds. Replaced where time must not pass. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** Returns the time in milliseconds, from any moment on. Replaced by tests. */
  readonly now?: () => number
  /** Replaced by tests. */
  readonly timeouts?: Partial<Timeouts>
}

/** At most so many to one host: a merge asks for hundreds of blobs at a time. */
const CONNECTIONS = 64

/** HTTP/1.1 over kept connections, through the proxy that the environment names. */
export function createHttp(settings: HttpSettings): Http {
  const closing = new AbortController()
  const pause = (milliseconds: number) => sleep(milliseconds, undefined, { signal: closing.signal })
  const { log, userAgent, env } = settings
  const clock = createClock(settings.now ?? (() => performance.now()), settings.wait ?? pause)
  const budgets = createBudgets(clock.now)
  const backOffs = createBackOffs(clock, log)
  let skew: ClockSkew | undefined
  const timeouts = { ...TIMEOUTS, ...settings.timeouts }
  const network = createNetwork(settings)
  // Blobs go over connections of their own in parallel; one HTTP/2 connection would put them behind each other.
  const options = { allowH2: false, connections: CONNECTIONS }
  const proxies = readProxies(env)
  const direct = new Map<Reach, Agent>()
  const proxied = new Map<string, ProxyAgent>()
  // A request is timed once it is sent; until there is a way for it, this time counts, which is else five minutes.
  const clientFactory = (origin: URL, one: object) => new Pool(origin, { ...one, headersTimeout: timeouts.tunnel })

  // Errors after which trying again, as part of larger work, does not help.
  const exhausted = new WeakSet<Error>()

  // Origins that send bodies after HEAD, where none belong: on a kept connection one is read as the next answer.
  const headBodyOrigins = new Set<string>()

  async function dispatcherFor(call: RetryCall): Promise<Dispatcher> {
    const proxy = proxyFor(call.url, proxies)
    if (proxy !== undefined && proxy.url === undefined) throw unusableProxy(proxy.variable, call)
    const reach = await network.reachFor(call)
    if (proxy?.url !== undefined) await network.checkProxied(call.url, reach)
    closing.signal.throwIfAborted()
    return proxy?.url === undefined ? directly(reach) : through(proxy.url.href)
  }

  /** A connection is used again only by requests that may go as far. */
  function directly(reach: Reach): Agent {
    const agent = direct.get(reach) ?? new Agent({ ...options, connect: network.connector(reach) })
    direct.set(reach, agent)
    return agent
  }

  function through(uri: string): ProxyAgent {
    const agent = proxied.get(uri) ?? new ProxyAgent({ ...options, uri, clientFactory })
    proxied.set(uri, agent)
    return agent
  }

  /** Sends a request and returns the beginning of its answer. */
  async function begin(call: HttpRequest, attempt: Attempt): Promise<Dispatcher.ResponseData> {
    const { method, url, headers, body } = call
    const dispatcher = await dispatcherFor(call).catch((error) => {
      // undici closes the bodies of the requests that it gets.
      if (body instanceof Readable) body.destroy()
      throw error
    })
    const timeoutMs = attempt.limit(timeoutFor(call, timeouts.stall))
    const timer = createTimer()
    const sent = body instanceof Readable ? watchUpload(body, timer, attempt, timeoutMs) : body
    try {
      return await request(url, {
        method,
        headers: { 'user-agent': userAgent, ...headers },
        body: sent ?? null,
        dispatcher,
        // undici's limit begins when the request is sent, and does not know how long a body takes.
        headersTimeout: body instanceof Readable ? 0 : timeoutMs,
        signal: timer.signal,
        // Each interim answer restarts undici's timeout.
        onInfo() {
          if (!timer.running() && !(body instanceof Readable))
            timer.start(timeoutMs, `only interim answers arrived within ${timeoutMs / 1000} s`)
        },
        // undici gives each HEAD a connection of its own otherwise.
        reset: method === 'HEAD' && headBodyOrigins.has(url.origin),
      })
    } catch (error) {
      if (isProtocolError(error)) headBodyOrigins.add(url.origin)
      if (error instanceof errors.HeadersTimeoutError) throw noAnswer(timeoutMs)
      throw error
    } finally {
      timer.end()
    }
  }

  /** Takes the bytes that the connection takes from a body for progress. */
  function watchUpload(body: Readable, timer: Timer, attempt: Attempt, timeoutMs: number): Readable {
    const limit = attempt.limit(timeouts.stall)
    return watchBody(body, {
      start() {
        attempt.progress()
        if (body.readableEnded) timer.start(timeoutMs, noAnswer(timeoutMs).message)
        else timer.start(limit, `nothing more of the upload was taken within ${limit / 1000} s`)
      },
      stop: timer.stop,
    })
  }

  async function sendApart(call: HttpRequest): Promise<number> {
    const { statusCode, body } = await begin({ ...call, timeoutMs: BACKGROUND_LIMIT }, APART)
    body.dump({ limit: DRAIN_LIMIT, signal: AbortSignal.timeout(timeouts.drain) }).catch(() => undefined)
    return statusCode
  }

  async function sendAttempt(call: HttpRequest, work: Work): Promise<HttpReply> {
    const { origin } = call.url
    await backOffs.passed(origin)
    const attempt = budgets.startAttempt(origin, work, kindOf(call))
    const endActivity = watchSilence(call)
    const outcome = await settle(answerTo(call, attempt))
    endActivity()
    if (retryReason(outcome, budgets.hasAnswered(origin)) !== undefined) attempt.failed()
    // A redirect only counts once it leads somewhere.
    else if (outcome.reply !== undefined && !isRedirect(outcome.reply)) attempt.answered()
    return conclude(call, outcome)
  }

  async function answerTo(call: HttpRequest, attempt: Attempt): Promise<HttpReply> {
    const { statusCode: status, headers, body } = await begin(call, attempt)
    const answer = { url: call.url, status, headers: new Headers(flatten(headers)) }
    compareClocks(call.url.host, answer.headers)
    const limit = attempt.limit(timeouts.stall)
    if (status >= 400 || isPage(call, answer)) {
      const text = (await readStart(body, ERROR_LIMIT, limit)).toString('utf8')
      return { ok: false, ...answer, text }
    }
    if (call.limit === undefined) return { ok: true, ...answer, body }
    const content = await readWhole(body, call.limit, limit)
    if (content !== undefined && HTML.test(content.subarray(0, 256).toString('latin1')))
      return { ok: false, ...answer, text: content.subarray(0, ERROR_LIMIT).toString('utf8') }
    return { ok: true, ...answer, body, content }
  }

  function compareClocks(host: string, headers: Headers): void {
    const now = Date.now()
    const found = skew === undefined ? clockSkew(host, headers, now) : undefined
    if (found === undefined) return
    skew = found
    log.warning(
      `The clocks of this runner and of ${host} differ: the runner's says ${formatTime(now)}, ${host}'s says ${formatTime(now + found.milliseconds)}. Correct the wrong one: certificates and logins depend on it.`,
    )
  }

  async function conclude(call: RetryCall, { reply, error }: Outcome): Promise<HttpReply> {
    if (reply !== undefined) return reply
    if (error instanceof RefusedAddress) throw refusedAddress(call, error, await network.reachFor(call))
    if (error instanceof RegistryError) throw error
    const { url, operation } = call
    const answered = budgets.hasAnswered(url.origin)
    const validity = network.certificateOf(url.origin)
    throw unanswered({ url, operation, error, proxy: proxyFor(url, proxies), answered, validity, skew })
  }

  /** Has the budget of the host that was asked first know how it ended, wherever that host pointed to. */
  function note(call: RetryCall, { reply }: Outcome, why: string | undefined, { since }: Work): void {
    const { origin } = call.url
    if (why !== undefined) budgets.failed(origin, kindOf(call), since)
    else if (reply !== undefined) budgets.answered(origin, kindOf(call))
  }

  async function retry(
    call: RetryCall,
    attempt: (work: Work) => Promise<HttpReply>,
    attempts = Number.POSITIVE_INFINITY,
  ): Promise<HttpReply> {
    const { host, origin } = call.url
    const work = budgets.startWork()
    while (true) {
      const outcome = await settle(attempt(work))
      work.count++
      const { reply, error } = outcome
      const answered = budgets.hasAnswered(origin)
      const why = retryReason(outcome, answered)
      const most = mostAttempts(outcome, answered, attempts)
      note(call, outcome, why, work)
      if (why === undefined || work.count >= most || isExhausted(error)) return withTries(outcome, work)
      work.since ??= clock.now()
      const retryAfter = reply?.headers.get('retry-after') ?? undefined
      const now = Date.parse(reply?.headers.get('date') ?? '') || Date.now()
      const delay = retryDelay(work.count, retryAfter, now, Math.random())
      if (delay > budgets.left(origin, work, kindOf(call))) return withTries(outcome, work)
      const asked = parseRetryAfter(retryAfter, now) !== undefined
      const whose = hostOf(outcome) ?? host
      await backOffs.wait({
        origin,
        count: work.count,
        delay,
        asked,
        limited: isLimited(reply),
        why: `${whose}: ${why}`,
      })
    }
  }

  /** Has the outcome of several attempts say how many there were. */
  function withTries({ reply, error }: Outcome, { count, start }: Work): HttpReply {
    const tries = `${count} attempts in ${Math.round((clock.now() - start) / 1000)} s`
    if (reply !== undefined) return reply.ok || count === 1 ? reply : { ...reply, tries }
    if (!(error instanceof RegistryError) || isExhausted(error)) throw error
    const { host, problem, status, code, parts } = error
    const message = count === 1 ? parts.message : `${parts.message} (${tries})`
    const last = new RegistryError({ ...parts, host, problem, status, code, message })
    exhausted.add(last)
    throw last
  }

  /** Reports whether what led to an error has been tried again for as long as that helps. */
  function isExhausted(error: unknown): boolean {
    if (!(error instanceof Error)) return false
    return exhausted.has(error) || isExhausted(error.cause)
  }

  return {
    send: (call) =>
      call.work === undefined
        ? retry(call, (work) => sendAttempt(call, work), call.attempts)
        : sendAttempt(call, call.work),
    sendOnce: sendApart,
    retry,
    read: ({ body }) => readSteadily(body, timeouts.stall),
    drain(reply) {
      // Nobody needs the body, so that what goes wrong with it does not matter.
      if (reply.ok && reply.content === undefined)
        reply.body.dump({ limit: DRAIN_LIMIT, signal: AbortSignal.timeout(timeouts.drain) }).catch(() => undefined)
      return reply
    },
    pause: clock.wait,
    log,
    async close() {
      closing.abort()
      await Promise.all([...direct.values(), ...proxied.values()].map((agent) => agent.destroy()))
    },
  }
}

/** Has the log say that a host does not answer. An upload's answer is waited for only once all of it has been sent. */
function watchSilence({ url, operation, body }: HttpRequest): () => void {
  let activity: Activity | undefined
  let ended = false
  const start = () => {
    if (!ended) activity = startActivity(`${url.host} to ${operation}`)
  }
  if (body instanceof Readable) body.once('close', start)
  else start()
  return () => {
    ended = true
    activity?.end()
  }
}

/** How long an answer is waited for that nothing depends on, in milliseconds. */
const BACKGROUND_LIMIT = 10_000

/** An attempt that counts for no budget. */
const APART: Attempt = {
  limit: (timeout) => timeout,
  progress: () => undefined,
  answered: () => undefined,
  failed: () => undefined,
}

const ERROR_LIMIT = 64 * 1024
/** What may be read of a body that is discarded, so that its connection can be used again. */
const DRAIN_LIMIT = 64 * 1024

interface Outcome {
  readonly reply?: HttpReply
  readonly error?: unknown
}

async function settle(sent: Promise<HttpReply>): Promise<Outcome> {
  try {
    return { reply: await sent }
  } catch (error) {
    return { error }
  }
}

/** Tells apart requests that may fail while others don't: by their method, and manifests from blobs and tokens. */
function kindOf({ method = 'PUT', url }: RetryCall): string {
  const [, part = url.pathname.split('/')[1]] = /\/(manifests|blobs)\//.exec(url.pathname) ?? []
  return `${method} ${part}`
}

function isRedirect({ status, headers }: HttpReply): boolean {
  return status >= 300 && status < 400 && headers.has('location')
}

function hostOf({ reply, error }: Outcome): string | undefined {
  return error instanceof RegistryError ? error.host : reply?.url.host
}

/** Why asking again may help, in the other side's words. Undefined where it would not. */
function retryReason({ reply, error }: Outcome, answered: boolean): string | undefined {
  const refused = proxyStatus(causeOf(error))
  if (refused !== undefined && isRetryable(refused, '')) return `the proxy answered with status ${refused}`
  if (reply === undefined)
    return isRetryableError(codeOf(error), answered) || isProtocolError(error)
      ? sanitizeLine(messageOf(causeOf(error)))
      : undefined
  if (reply.ok) return undefined
  if (reply.status < 400) return `unexpected answer: ${statusLine(reply)}`
  return isRetryable(reply.status, reply.text) ? statusLine(reply) : undefined
}

/** `503 Service Unavailable`, and what the answer says besides. */
function statusLine({ status, text }: HttpFailure): string {
  const { detail } = readErrorAnswer(text)
  const reason = `${status} ${STATUS_CODES[status] ?? ''}`.trim()
  if (detail === '') return reason
  return sanitizeLine(detail.startsWith(String(status)) ? detail : `${status} ${detail}`)
}

/**
 * Once a host has answered as it should, it is wrong in passing; before that, it is most likely not what it is taken for.
 * A rate limit says nothing about the kind of request, so that it does not count.
 */
function mostAttempts({ reply }: Outcome, answered: boolean, attempts: number): number {
  if (reply?.status === 429) return Number.POSITIVE_INFINITY
  if (reply === undefined || reply.status >= 400) return attempts
  return answered && reply.status < 300 ? attempts : Math.min(attempts, 3)
}

/** Reports whether a host limits how often it is asked. Of answers with status 403, only those are tried again. */
function isLimited(reply: HttpReply | undefined): boolean {
  return reply?.status === 429 || reply?.status === 403
}

const HTML = /^\s*<(!doctype html|html|head|body|title|h1)\b/i

/** Reports whether an answer to a question about data is a page for people, which no registry sends. */
function isPage({ method }: HttpRequest, { status, headers }: Pick<HttpReply, 'status' | 'headers'>): boolean {
  const type = headers.get('content-type') ?? ''
  return method === 'HEAD' && status === 200 && type.startsWith('text/html') && !headers.has('docker-content-digest')
}

function flatten(headers: Readonly<Record<string, string | string[] | undefined>>): [string, string][] {
  return Object.entries(headers).flatMap(([name, value]) =>
    [value ?? []].flat().map((one): [string, string] => [name, one]),
  )
}

/** Whether what came was no answer in HTTP: it may belong to the request before, and another connection has none of it. */
function isProtocolError(error: unknown): boolean {
  return causeOf(error) instanceof errors.HTTPParserError
}

/** Bytes per millisecond. Registries may copy a blob when its upload ends, and answer only after that. */
const COPY_SPEED = 20_000

function timeoutFor({ timeoutMs, body, headers }: HttpRequest, usual: number): number {
  if (timeoutMs !== undefined || !(body instanceof Readable)) return timeoutMs ?? usual
  return usual + Number(headers['content-length'] ?? 0) / COPY_SPEED
}

function noAnswer(timeoutMs: number): LateAnswer {
  return new LateAnswer(`no answer arrived within ${Math.round(timeoutMs) / 1000} s`)
}

/** Ends a request. */
interface Timer {
  readonly signal: AbortSignal
  start(milliseconds: number, reason: string): void
  stop(): void
  /** Stops for good: a body may still be read after an early answer. */
  end(): void
  running(): boolean
}

function createTimer(): Timer {
  const late = new AbortController()
  let timer: NodeJS.Timeout | undefined
  let ended = false
  const stop = (): void => {
    clearTimeout(timer)
    timer = undefined
  }
  return {
    signal: late.signal,
    start(milliseconds, reason) {
      stop()
      if (!ended) timer = setTimeout(() => late.abort(new LateAnswer(reason)), milliseconds)
    },
    stop,
    end() {
      ended = true
      stop()
    },
    running: () => timer !== undefined,
  }
}
