import type { Log } from '../log.ts'
import type { ResponseHeaders } from './messages.ts'

/** The longest wait that a server may ask for, in milliseconds. */
const LONGEST_RETRY_AFTER = 60_000
const LONGEST_BACK_OFF = 15_000
/** Cloudflare answers with 520 to 527 when the server behind it fails. */
const CLOUDFLARE = [520, 521, 522, 523, 524, 525, 526, 527]
const RETRIED_STATUSES = new Set([408, 429, 500, 502, 503, 504, ...CLOUDFLARE])
const RETRIED_ERRORS = new Set([
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EAI_AGAIN',
  'UND_ERR_SOCKET',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  // A proxy that ends the connection before it has opened a tunnel.
  'UND_ERR_PRX_CONN',
])
/** Errors that point to a wrong address or configuration. A host that has answered before may be restarting instead. */
const RETRIED_ONCE_ANSWERED = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EPROTO',
  'EMFILE',
  'ENFILE',
])

/**
 * Reports whether the same request may succeed a moment later. GHCR answers a burst with 403 and these words:
 * https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits
 */
export function isRetryable(status: number, body: string): boolean {
  return RETRIED_STATUSES.has(status) || (status === 403 && /secondary rate limit/i.test(body))
}

/**
 * Reports whether a request that got no answer may succeed a moment later.
 * @param code Node's or undici's
 * @param answered whether the host has answered before
 */
export function isRetryableError(code: string | undefined, answered: boolean): boolean {
  if (code === undefined) return false
  if (RETRIED_ERRORS.has(code)) return true
  return answered && (RETRIED_ONCE_ANSWERED.has(code) || code.startsWith('ERR_SSL_'))
}

/** The line of the log that announces a retry. @param delay in milliseconds */
export function formatRetry(why: string, delay: number): string {
  return `${why}; retrying in ${(delay / 1000).toFixed(1)} s`
}

/** Formats how often and how long something was tried: `9 attempts in 118 s`. @param duration in milliseconds */
export function formatAttempts(count: number, duration: number): string {
  return `${count} attempts in ${Math.round(duration / 1000)} s`
}

/** How long to wait before each retry of a request whose answer is unusable or damaged, in milliseconds. */
export const RETRY_PAUSES: readonly number[] = [500, 2000]

/** Logs why something is retried, and waits. @param pause waits for so many milliseconds */
export async function pauseBeforeRetry(
  why: string,
  milliseconds: number,
  { log, pause }: { readonly log: Pick<Log, 'info'>; readonly pause: (milliseconds: number) => Promise<unknown> },
): Promise<void> {
  log.info(formatRetry(why, milliseconds))
  await pause(milliseconds)
}

/**
 * Returns how long to wait before a retry, in milliseconds: as long as the server asks for, up to a minute, or else 1 s,
 * doubled with each attempt, up to 15 s. Jitter keeps parallel jobs apart.
 * @param attempt the number of attempts so far
 * @param retryAfter the `Retry-After` header: seconds, a date, or malformed (GHCR sends `12.5ms`, which is ignored)
 * @param random from 0 to 1
 */
export function retryDelay(attempt: number, retryAfter: string | undefined, now: number, random: number): number {
  const asked = parseRetryAfter(retryAfter, now)
  if (asked !== undefined) return Math.min(asked + 1000 * random, LONGEST_RETRY_AFTER)
  return Math.min(1000 * 2 ** (attempt - 1) * (1 + random / 2), LONGEST_BACK_OFF * (1 - random / 5))
}

/** Returns the delay that a `Retry-After` header asks for, in milliseconds. */
export function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined
  if (/^\d+(\.\d+)?$/.test(header)) return Number(header) * 1000
  const date = /[A-Za-z]{3}, /.test(header) ? Date.parse(header) : Number.NaN
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}

/** A wait before a retry. */
export interface BackOff {
  readonly origin: string
  /** The number of failures so far. Requests with the same number of failures wait together. */
  readonly count: number
  /** In milliseconds. */
  readonly delay: number
  /** Whether the host has asked for the wait. If so, all requests to it wait. */
  readonly asked: boolean
  /** Whether the host limits the rate of requests. If so, all requests to it wait. */
  readonly limited?: boolean
  /** The reason, with the host, for the log. */
  readonly why: string
}

/** The waits before retries. Parallel requests to a host share a wait and its line in the log. */
export interface BackOffs {
  wait(backOff: BackOff): Promise<void>
  /** Waits until requests to a host are allowed. */
  ready(origin: string): Promise<void>
}

interface Pause {
  readonly end: number
  readonly over: Promise<void>
}

/** The most that two waits can differ by because of their jitter, in milliseconds. */
const JITTER = 1000

export function createBackOffs(clock: Clock, log: Pick<Log, 'info'>): BackOffs {
  const rounds = new Map<string, Pause>()
  const closed = new Map<string, Pause>()

  /** Starts a pause, and keeps it in the map until it ends. */
  function start(delay: number, pauses: Map<string, Pause>, key: string): Pause {
    const end = clock.now() + delay
    const over = clock.wait(delay).finally(() => {
      if (pauses.get(key) === pause) pauses.delete(key)
    })
    const pause = { end, over }
    pauses.set(key, pause)
    return pause
  }

  return {
    async wait({ origin, count, delay, asked, limited = false, why }) {
      const round = `${origin} ${count}`
      const shared = closed.get(origin) ?? (asked || limited ? undefined : rounds.get(round))
      if (shared !== undefined && (!asked || shared.end + JITTER >= clock.now() + delay)) return shared.over
      log.info(formatRetry(why, delay))
      await (asked || limited ? start(delay, closed, origin) : start(delay, rounds, round)).over
    },
    async ready(origin) {
      for (let pause = closed.get(origin); pause !== undefined; pause = closed.get(origin)) await pause.over
    },
  }
}

/** The difference between a server's clock and this machine's. Positive if this machine's is behind. */
export interface ClockSkew {
  readonly host: string
  readonly milliseconds: number
}

/** In milliseconds. */
export const DAY = 86_400_000

/**
 * Returns the difference between a server's clock and this machine's, if it is a day or more. Ignores answers from caches,
 * which keep the original `Date`.
 */
export function clockSkew(host: string, headers: ResponseHeaders, now: number): ClockSkew | undefined {
  const date = Date.parse(headers.get('date') ?? '')
  if (Number.isNaN(date) || headers.has('age') || Math.abs(date - now) < DAY) return undefined
  return { host, milliseconds: date - now }
}

/** Formats a time to the minute: `2026-02-03 04:05 UTC`. @param time milliseconds since 1970 */
export function formatTime(time: number): string {
  return `${new Date(time).toISOString().slice(0, 16).replace('T', ' ')} UTC`
}

/** A monotonic clock, in milliseconds. */
export interface Clock {
  now(): number
  wait(milliseconds: number): Promise<void>
}

/** Creates a clock that advances by the length of each wait, even if `wait` returns at once, as in tests. */
export function createClock(now: () => number, wait: (milliseconds: number) => Promise<unknown>): Clock {
  let skipped = 0
  const read = (): number => now() + skipped
  return {
    now: read,
    async wait(milliseconds) {
      const end = read() + milliseconds
      await wait(milliseconds)
      skipped += Math.max(0, end - read())
    },
  }
}
