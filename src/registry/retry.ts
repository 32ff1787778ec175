import type { Log } from '../log.ts'

/** How often a request is sent at most, the first time included. */
export const ATTEMPTS = 6

const LONGEST_WAIT = 60_000
const RETRIED_STATUSES = new Set([408, 429, 500, 502, 503, 504])
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
  // A proxy that ends the connection before it has made a way.
  'UND_ERR_PRX_CONN',
])

/**
 * Whether the same request may succeed a moment later. GHCR answers a burst with 403 and these words:
 * https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits
 */
export function isPassing(status: number, body: string): boolean {
  return RETRIED_STATUSES.has(status) || (status === 403 && /secondary rate limit/i.test(body))
}

/** Whether what has gone wrong before there was an answer may go well a moment later. @param code Node's or undici's */
export function isPassingError(code: string | undefined): boolean {
  return code !== undefined && RETRIED_ERRORS.has(code)
}

/** What has failed in passing, and how it is tried again. */
export interface Retry {
  /** On one line, with what it happened to. */
  readonly why: string
  /** How often it has been tried, from 1, and how often it is at most. */
  readonly count: number
  readonly attempts: number
  /** The header, where there was an answer. */
  readonly retryAfter?: string | undefined
}

/** Says that something is tried again, and waits until then. @param wait for so many milliseconds */
export async function pauseForRetry(
  { why, count, attempts, retryAfter }: Retry,
  log: Pick<Log, 'info'>,
  wait: (milliseconds: number) => Promise<unknown>,
): Promise<void> {
  const delay = retryDelay(count, retryAfter, Date.now(), Math.random())
  log.info(`${why}; trying again in ${(delay / 1000).toFixed(1)} s (attempt ${count + 1} of ${attempts})`)
  await wait(delay)
}

/**
 * How long to wait before a request is sent again, in milliseconds: what the registry asks for, else twice as long each
 * time from 1 s on, with a random part so that parallel jobs don't come back together; never over a minute.
 * @param attempt how often it has been sent, from 1
 * @param retryAfter the header: seconds, a date, or broken (GHCR sends `12.5ms`, which stands for nothing)
 * @param random from 0 to 1
 */
export function retryDelay(attempt: number, retryAfter: string | undefined, now: number, random: number): number {
  const asked = parseRetryAfter(retryAfter, now)
  const own = 1000 * 2 ** (attempt - 1) * (1 + random / 2)
  return Math.min(asked === undefined ? own : asked + 1000 * random, LONGEST_WAIT)
}

function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined
  if (/^\d+(\.\d+)?$/.test(header)) return Number(header) * 1000
  const date = /[A-Za-z]{3}, /.test(header) ? Date.parse(header) : Number.NaN
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}
