import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, type Dispatcher, errors, Pool, ProxyAgent, request } from 'undici'
import { messageOf, oneLine } from '../failure.ts'
import type { Log } from '../log.ts'
import { type NamedProxy, proxyFor, proxyStatus, readProxies, refusedByProxy, unusableProxy } from './proxy.ts'
import { RegistryError, type RegistryProblem, readErrorAnswer } from './registry-error.ts'
import { ATTEMPTS, isPassing, isPassingError, pauseForRetry } from './retry.ts'

/** A request to whatever URL. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  readonly url: URL
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
  /** Still to be read, or where the request had a limit, read. */
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
  /** Waits for so many milliseconds. */
  pause(milliseconds: number): Promise<unknown>
  close(): Promise<void>
}

export type RetryCall = Pick<HttpRequest, 'url' | 'purpose'>

export interface HttpSettings {
  readonly log: Log
  readonly userAgent: string
  /** For HTTPS_PROXY, HTTP_PROXY and NO_PROXY. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** There to be replaced where time must not pass. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** How long a proxy may take to make a way to a host, in milliseconds. */
  readonly tunnelPatience?: number
}

/** At most so many to one host: a merge asks for hundreds of blobs at a time. */
const CONNECTIONS = 64

/** HTTP/1.1 over kept connections, through the proxy that the environment names. */
export function createHttp(settings: HttpSettings): Http {
  const { log, userAgent, wait = sleep, env, tunnelPatience = 30_000 } = settings
  // Blobs go over connections of their own in parallel; one HTTP/2 connection would put them behind each other.
  const options = { allowH2: false, connections: CONNECTIONS, connect: { timeout: 10_000 } }
  const proxies = readProxies(env)
  const direct = new Agent(options)
  const proxied = new Map<string, ProxyAgent>()
  // A request is timed once it is sent; until there is a way for it, this time counts, which is else five minutes.
  const clientFactory = (origin: URL, one: object) => new Pool(origin, { ...one, headersTimeout: tunnelPatience })

  // Origins that send bodies after HEAD, where none belong: on a kept connection one is read as the next answer.
  const unruly = new Set<string>()

  function dispatcherFor(call: RetryCall): Dispatcher {
    const proxy = proxyFor(call.url, proxies)
    if (proxy === undefined) return direct
    if (proxy.url === undefined) throw unusableProxy(proxy.variable, call)
    const uri = proxy.url.href
    const agent = proxied.get(uri) ?? new ProxyAgent({ ...options, uri, clientFactory })
    proxied.set(uri, agent)
    return agent
  }

  async function sendOnce(call: HttpRequest): Promise<HttpReply> {
    const { method, url, headers, body, limit, patience } = call
    const dispatcher = dispatcherFor(call)
    const all = { 'user-agent': userAgent, ...headers }
    const reply = await request(url, {
      method,
      headers: all,
      body: body ?? null,
      dispatcher,
      headersTimeout: patience ?? 60_000,
      // undici gives each HEAD a connection of its own otherwise.
      reset: method === 'HEAD' && unruly.has(url.origin),
    }).catch((error) => {
      if (isNonsense(error)) unruly.add(url.origin)
      throw error
    })
    const answer = { url, status: reply.statusCode, headers: new Headers(flatten(reply.headers)) }
    if (answer.status >= 400) return { ok: false, ...answer, text: await readStart(reply.body) }
    if (limit === undefined) return { ok: true, ...answer, body: reply.body }
    return { ok: true, ...answer, body: reply.body, content: await readBody(reply.body, limit) }
  }

  function conclude(call: RetryCall, { reply, error }: Outcome): HttpReply {
    if (reply !== undefined) return reply
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
    pause: wait,
    async close() {
      await Promise.all([direct, ...proxied.values()].map((agent) => agent.close()))
    },
  }
}

const ERROR_LIMIT = 64 * 1024

/** The whole body, or nothing where it is longer than `limit` bytes. */
async function readBody(body: Readable, limit: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    length += chunk.length
    // Leaving the loop destroys the stream, and with it the connection: the rest is not waited for.
    if (length > limit) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, length)
}

/** Lets the body go. A short one is read, so that the connection can serve again; a long one costs it. */
export function drain(reply: HttpReply): HttpReply {
  // What goes wrong with a body that nobody reads is nobody's concern.
  if (reply.ok && reply.content === undefined) reply.body.dump({ limit: ERROR_LIMIT }).catch(() => undefined)
  return reply
}

async function readStart(body: Readable): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      length += chunk.length
      if (length >= ERROR_LIMIT) break
    }
  } catch {
    // The status tells that it failed; the words that came tell more, however few.
  }
  return Buffer.concat(chunks).subarray(0, ERROR_LIMIT).toString('utf8')
}

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
