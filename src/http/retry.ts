import { firstLine } from '../errors.ts'
import type { Log } from '../log.ts'
import { RegistryError } from '../registry/registry-error.ts'

/** What a server may ask for, in milliseconds. */
const LONGEST_RETRY_AFTER = 60_000
const LONGEST_BACK_OFF = 15_000
/** Cloudflare, which many registries are behind, has 520 to 527 for what is wrong with the server behind it. */
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
  // A proxy that ends the connection before it has made a way.
  'UND_ERR_PRX_CONN',
])
/** Errors that point to a wrong address or set-up, unless the host has answered before: then it may be restarting. */
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
 * Whether the same request may succeed a moment later. GHCR answers a burst with 403 and these words:
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

/** How long to wait before lost or damaged content is asked for, or sent, again, in milliseconds. */
export const LOST_PAUSES = [500, 2000]

/** Says why, and waits. @param pause waits for so many milliseconds */
export async function pauseFor(
  why: string,
  milliseconds: number,
  { log, pause }: { readonly log: Pick<Log, 'info'>; readonly pause: (milliseconds: number) => Promise<unknown> },
): Promise<void> {
  log.info(`${why}; retrying in ${(milliseconds / 1000).toFixed(1)} s`)
  await pause(milliseconds)
}

/** Does again what has led to a doubtful answer. */
export async function retryDoubtful<Result>(
  work: () => Promise<Result>,
  waiting: Parameters<typeof pauseFor>[2],
): Promise<Result> {
  for (const milliseconds of LOST_PAUSES) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof RegistryError) || error.problem !== 'doubtful') throw error
      await pauseFor(firstLine(error), milliseconds, waiting)
    }
  }
  return work()
}

/**
 * Returns how long to wait before a request is sent again, in milliseconds: as long as the server asks for, up to a
 * minute, or else from 1 s on twice as long each time, up to 15 s. A random part keeps parallel jobs apart.
 * @param attempt how often it has been sent, from 1
 * @param retryAfter the header: seconds, a date, or broken (GHCR sends `12.5ms`, which stands for nothing)
 * @param random from 0 to 1
 */
export function retryDelay(attempt: number, retryAfter: string | undefined, now: number, random: number): number {
  const asked = parseRetryAfter(retryAfter, now)
  if (asked !== undefined) return Math.min(asked + 1000 * random, LONGEST_RETRY_AFTER)
  return Math.min(1000 * 2 ** (attempt - 1) * (1 + random / 2), LONGEST_BACK_OFF * (1 - random / 5))
}

/** Returns what a `Retry-After` header asks for, in milliseconds. */
export function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined
  if (/^\d+(\.\d+)?$/.test(header)) return Number(header) * 1000
  const date = /[A-Za-z]{3}, /.test(header) ? Date.parse(header) : Number.NaN
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}
