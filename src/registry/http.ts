import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, type Dispatcher, errors, Pool, ProxyAgent, request } from 'undici'
import { type Activity, startActivity } from '../activity.ts'
import { messageOf, oneLine } from '../failure.ts'
import type { Log } from '../log.ts'
import { LateAnswer, readStart, readSteadily, readWhole } from './body.ts'
import { createNetwork, type NetworkSettings, type Reach, RefusedAddress, refusedAddress } from './network.ts'
import { type NamedProxy, proxyFor, proxyStatus, readProxies, refusedByProxy, unusableProxy } from './proxy.ts'
import { RegistryError, type RegistryProblem, readErrorAnswer } from './registry-error.ts'
import { ATTEMPTS, isPassing, isPassingError, pauseForRetry } from './retry.ts'

/** A request to whatever URL. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  readonly url: URL
  /** The registry that causes the request, which then goes only to addresses that it may send this client to. */
  readonly registry?: URL
  readonly headers: Readonly<Record<string, string>>
  /** A stream can be sent once only. */
  readonly body?: Uint8Array | Readable | undefined
  /** How long to wait for the answer after all has been sent, in milliseconds. */
  readonly patience?: number
  /** What the request is for, in a form that fits after "can't": `read ghcr.io/owner/app:latest`. */
  readonly purpose: string
  /** Reads the answer's body at once, up to so many bytes, as part of the request that is tried again. */
  readonly limit?: number
  /** How often it is sent at most; one for looking whether anybody answers, and for courtesies. */
  readonly attempts?: number
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

/** An answer of 400 and above that asking again has not mended. */
export interface HttpFailure {
  readonly ok: false
  readonly url: URL
  readonly status: number
  readonly headers: Headers
  /** The first 64 KiB. */
  readonly text: string
}

export type HttpReply = HttpSuccess | HttpFailure

/** The one client of the process: its connections are kept for all that it asks. */
export interface Http {
  /**
   * Sends a request, and again after passing failures. Redirects are answers like any other.
   * @throws RegistryError where no answer came: unreachable, untrusted-certificate
   */
  send(request: HttpRequest): Promise<HttpReply>
  /** Does again what fails in passing, for work of several requests that must each be sent once. */
  retry(call: RetryCall, attempt: () => Promise<HttpReply>): Promise<HttpReply>
  /** Reads a body of any size. Fails when the transfer stalls. */
  read(reply: HttpSuccess): AsyncIterable<Buffer>
  /** Discards a body, without waiting for it. A short one leaves the connection usable. */
  drain(reply: HttpReply): HttpReply
  /** Waits for so many milliseconds. */
  pause(milliseconds: number): Promise<unknown>
  /** Ends all connections, together with the requests and bodies that are still open. */
  close(): Promise<void>
}

export type RetryCall = Pick<HttpRequest, 'url' | 'purpose' | 'registry'>

/** In milliseconds. */
export interface Timeouts {
  /** For an answer to begin, once the request has been sent. */
  readonly answer: number
  /** For a proxy to open a tunnel to a host. */
  readonly tunnel: number
  /** For a whole body that is read at once; for each KiB of another one. */
  readonly body: number
  /** For a body that is discarded to end, before its connection is closed. */
  readonly drain: number
}

const TIMEOUTS: Timeouts = { answer: 60_000, tunnel: 30_000, body: 60_000, drain: 5_000 }

export interface HttpSettings extends NetworkSettings {
  readonly log: Log
  readonly userAgent: string
  /** For HTTPS_PROXY, HTTP_PROXY and NO_PROXY. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** There to be replaced where time must not pass. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** Replaced by tests. */
  readonly timeouts?: Partial<Timeouts>
}

/** At most so many to one host: a merge asks for hundreds of blobs at a time. */
const CONNECTIONS = 64

/** HTTP/1.1 over kept connections, through the proxy that the environment names. */
export function createHttp(settings: HttpSettings): Http {
  const closing = new AbortController()
  const pause = (milliseconds: number) => sleep(milliseconds, undefined, { signal: closing.signal })
  const { log, userAgent, wait = pause, env } = settings
  const timeouts = { ...TIMEOUTS, ...settings.timeouts }
  const network = createNetwork(settings)
  // Blobs go over connections of their own in parallel; one HTTP/2 connection would put them behind each other.
  const options = { allowH2: false, connections: CONNECTIONS }
  const proxies = readProxies(env)
  const direct = new Map<Reach, Agent>()
  const proxied = new Map<string, ProxyAgent>()
  // A request is timed once it is sent; until there is a way for it, this time counts, which is else five minutes.
  const clientFactory = (origin: URL, one: object) => new Pool(origin, { ...one, headersTimeout: timeouts.tunnel })

  // Origins that send bodies after HEAD, where none belong: on a kept connection one is read as the next answer.
  const unruly = new Set<string>()

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
  async function begin(call: HttpRequest): Promise<Dispatcher.ResponseData> {
    const { method, url, headers, body, patience = timeouts.answer } = call
    const dispatcher = await dispatcherFor(call).catch((error) => {
      // undici closes the bodies of the requests that it gets.
      if (body instanceof Readable) body.destroy()
      throw error
    })
    const all = { 'user-agent': userAgent, ...headers }
    const late = new AbortController()
    let timer: NodeJS.Timeout | undefined
    try {
      return await request(url, {
        method,
        headers: all,
        body: body ?? null,
        dispatcher,
        headersTimeout: patience,
        signal: late.signal,
        // Each interim answer restarts undici's timeout.
        onInfo() {
          if (timer !== undefined || (body instanceof Readable && !body.readableEnded)) return
          const reason = new LateAnswer(`only interim answers arrived within ${patience / 1000} s`)
          timer = setTimeout(() => late.abort(reason), patience)
        },
        // undici gives each HEAD a connection of its own otherwise.
        reset: method === 'HEAD' && unruly.has(url.origin),
      })
    } catch (error) {
      if (isNonsense(error)) unruly.add(url.origin)
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  async function sendOnce(call: HttpRequest): Promise<HttpReply> {
    const endActivity = watchSilence(call)
    try {
      return await answerTo(call)
    } finally {
      endActivity()
    }
  }

  async function answerTo(call: HttpRequest): Promise<HttpReply> {
    const { statusCode: status, headers, body } = await begin(call)
    const answer = { url: call.url, status, headers: new Headers(flatten(headers)) }
    if (status >= 400) {
      const text = (await readStart(body, ERROR_LIMIT, timeouts.body)).toString('utf8')
      return { ok: false, ...answer, text }
    }
    if (call.limit === undefined) return { ok: true, ...answer, body }
    return { ok: true, ...answer, body, content: await readWhole(body, call.limit, timeouts.body) }
  }

  async function conclude(call: RetryCall, { reply, error }: Outcome): Promise<HttpReply> {
    if (reply !== undefined) return reply
    if (error instanceof RefusedAddress) throw refusedAddress(call, error, await network.reachFor(call))
    throw error instanceof RegistryError ? error : unanswered(call, error, proxyFor(call.url, proxies))
  }

  async function retry(call: RetryCall, attempt: () => Promise<HttpReply>, attempts = ATTEMPTS): Promise<HttpReply> {
    const { host } = call.url
    for (let count = 1; ; count++) {
      const outcome = await settle(attempt())
      const why = passingReason(outcome)
      if (why === undefined || count === attempts) return conclude(call, outcome)
      const retryAfter = outcome.reply?.headers.get('retry-after') ?? undefined
      await pauseForRetry({ why: `${host}: ${why}`, count, attempts, retryAfter }, log, wait)
    }
  }

  return {
    send: (call) => retry(call, () => sendOnce(call), call.attempts),
    retry: (call, attempt) => retry(call, attempt),
    read: ({ body }) => readSteadily(body, timeouts.body),
    drain(reply) {
      // Nobody needs the body, so that what goes wrong with it does not matter.
      if (reply.ok && reply.content === undefined)
        reply.body.dump({ limit: DRAIN_LIMIT, signal: AbortSignal.timeout(timeouts.drain) }).catch(() => undefined)
      return reply
    },
    pause: wait,
    async close() {
      closing.abort()
      await Promise.all([...direct.values(), ...proxied.values()].map((agent) => agent.destroy()))
    },
  }
}

/** Has the log say that a host does not answer. An upload's answer is waited for only once all of it has been sent. */
function watchSilence({ url, purpose, body }: HttpRequest): () => void {
  let activity: Activity | undefined
  let ended = false
  const start = () => {
    if (!ended) activity = startActivity(`${url.host} to ${purpose}`)
  }
  if (body instanceof Readable) body.once('close', start)
  else start()
  return () => {
    ended = true
    activity?.end()
  }
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

/** Why asking again may help, in the other side's words; nothing where it would not. */
function passingReason({ reply, error }: Outcome): string | undefined {
  const refused = proxyStatus(causeOf(error))
  if (refused !== undefined && isPassing(refused, '')) return `the proxy answered with status ${refused}`
  if (reply === undefined)
    return isPassingError(codeOf(error)) || isNonsense(error) ? oneLine(messageOf(causeOf(error))) : undefined
  if (reply.ok || !isPassing(reply.status, reply.text)) return undefined
  return oneLine(`${reply.status} ${readErrorAnswer(reply.text).words}`)
}

function flatten(headers: Readonly<Record<string, string | string[] | undefined>>): [string, string][] {
  return Object.entries(headers).flatMap(([name, value]) =>
    [value ?? []].flat().map((one): [string, string] => [name, one]),
  )
}

/** What went wrong to begin with. */
function causeOf(error: unknown): unknown {
  return error instanceof RegistryError && error.cause !== undefined ? error.cause : error
}

function codeOf(error: unknown): string | undefined {
  const { code, cause } = error as { readonly code?: unknown; readonly cause?: unknown }
  if (typeof code === 'string') return code
  return typeof cause === 'object' && cause !== null ? codeOf(cause) : undefined
}

/** Whether what came was no answer in HTTP: it may belong to the request before, and another connection has none of it. */
function isNonsense(error: unknown): boolean {
  return causeOf(error) instanceof errors.HTTPParserError
}

const CERTIFICATE_ERROR =
  /^(CERT_|ERR_TLS_CERT|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_MISMATCH|INVALID_(CA|PURPOSE))/

function unanswered(call: RetryCall, error: unknown, proxy: NamedProxy | undefined): RegistryError {
  const { host } = call.url
  const refused = proxyStatus(causeOf(error))
  if (refused !== undefined && proxy?.url !== undefined)
    return refusedByProxy(proxy.url, proxy.variable, refused, call, error)
  if (error instanceof LateAnswer)
    return new RegistryError({
      host,
      problem: 'other',
      what: `Can't ${call.purpose}: ${host} did not finish its answer`,
      words: error.message,
      help: 'Run the job again later.',
      cause: error,
    })
  const problem: RegistryProblem = CERTIFICATE_ERROR.test(codeOf(error) ?? '') ? 'untrusted-certificate' : 'unreachable'
  const through = proxy?.url === undefined ? '' : ` through the proxy ${proxy.url.host}, which ${proxy.variable} names`
  return new RegistryError({
    host,
    problem,
    what:
      problem === 'unreachable'
        ? `Can't ${call.purpose}: ${host} can't be reached${through}`
        : `Can't ${call.purpose}: the certificate of ${host} is not trusted`,
    words: messageOf(error),
    cause: error,
  })
}
