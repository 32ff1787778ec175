import { STATUS_CODES } from 'node:http'
import { errors } from 'undici'
import { MORE_FILES } from '../advice.ts'
import { messageOf } from '../errors.ts'
import { sanitizeLine } from '../text.ts'
import { LateAnswer } from './body.ts'
import { causeOf, errorCode, HttpError, type HttpErrorParts, readErrorAnswer } from './http-error.ts'
import type { HttpFailure, HttpReply, HttpRequest } from './messages.ts'
import type { Validity } from './network.ts'
import { type NamedProxy, proxyStatus, refusedByProxy } from './proxy.ts'
import { type ClockSkew, DAY, formatTime, isRetryable, isRetryableError } from './retry.ts'

/** The result of an attempt: an answer or an error. */
export interface Outcome {
  readonly reply?: HttpReply
  readonly error?: unknown
}

export async function outcomeOf(sent: Promise<HttpReply>): Promise<Outcome> {
  try {
    return { reply: await sent }
  } catch (error) {
    return { error }
  }
}

/** Returns the host that an outcome is from, which may be one that the first host has redirected to. */
export function answeringHost({ reply, error }: Outcome): string | undefined {
  return error instanceof HttpError ? error.host : reply?.url.host
}

/**
 * Returns why an outcome should be retried, in the server's words, or undefined if it should not.
 * @param answered whether the host has answered before
 */
export function retryReason({ reply, error }: Outcome, answered: boolean): string | undefined {
  const refused = proxyStatus(causeOf(error))
  if (refused !== undefined && isRetryable(refused, '')) return `the proxy answered with status ${refused}`
  if (reply === undefined)
    return isRetryableError(errorCode(error), answered) || isProtocolError(error)
      ? sanitizeLine(messageOf(causeOf(error)))
      : undefined
  if (reply.ok) return undefined
  if (reply.status < 400) return `unexpected answer: ${statusLine(reply)}`
  return isRetryable(reply.status, reply.text) ? statusLine(reply) : undefined
}

/** Formats the status of an answer with the server's message: `503 Service Unavailable`. */
function statusLine({ status, text }: HttpFailure): string {
  const { detail } = readErrorAnswer(text)
  const reason = `${status} ${STATUS_CODES[status] ?? ''}`.trim()
  if (detail === '') return reason
  return sanitizeLine(detail.startsWith(String(status)) ? detail : `${status} ${detail}`)
}

/**
 * Returns how often a request may be sent. A page of HTML from a host that has never answered properly most likely means
 * a wrong address, so only three attempts are made. Rate limits say nothing about the request and have no limit.
 */
export function attemptLimit({ reply }: Outcome, answered: boolean, attempts: number): number {
  if (reply?.status === 429) return Number.POSITIVE_INFINITY
  if (reply === undefined || reply.status >= 400) return attempts
  return answered && reply.status < 300 ? attempts : Math.min(attempts, 3)
}

/** Reports whether a host limits the rate of requests. Of answers with status 403, only rate limits are retried. */
export function isRateLimited(reply: HttpReply | undefined): boolean {
  return reply?.status === 429 || reply?.status === 403
}

export function isRedirect({ status, headers }: HttpReply): boolean {
  return status >= 300 && status < 400 && headers.has('location')
}

/** Reports whether the bytes received were not HTTP. They may belong to the request before; a new connection helps. */
export function isProtocolError(error: unknown): boolean {
  return causeOf(error) instanceof errors.HTTPParserError
}

/** Groups requests that may fail while others succeed: by method, and manifests apart from blobs and tokens. */
export function requestKind({
  method = 'PUT',
  url,
}: Partial<Pick<HttpRequest, 'method'>> & { readonly url: URL }): string {
  const [, part = url.pathname.split('/')[1]] = /\/(manifests|blobs)\//.exec(url.pathname) ?? []
  return `${method} ${part}`
}

const HTML = /^\s*<(!doctype html|html|head|body|title|h1)\b/i

/** Reports whether content begins as an HTML page does. */
export function isHtml(content: Buffer): boolean {
  return HTML.test(content.subarray(0, 256).toString('latin1'))
}

/** Reports whether HEAD was answered for an HTML page, which a proxy or login page sends in place of the data. */
export function isHeadOfPage(
  { method }: HttpRequest,
  { status, headers }: Pick<HttpReply, 'status' | 'headers'>,
): boolean {
  const type = headers.get('content-type') ?? ''
  return method === 'HEAD' && status === 200 && type.startsWith('text/html') && !headers.has('docker-content-digest')
}

/** A request that got no answer, and the facts that explain why. */
export interface Unanswered {
  readonly url: URL
  /** Used in messages, after "Can't". */
  readonly operation: string
  readonly error: unknown
  readonly proxy: NamedProxy | undefined
  /** Whether the host has answered before. */
  readonly answered: boolean
  /** The validity of the host's certificate, if known. */
  readonly validity: Validity | undefined
  /** The difference from a server's clock, if an earlier answer has revealed one. */
  readonly skew: ClockSkew | undefined
}

type Explanation = Pick<HttpErrorParts, 'problem' | 'message' | 'hint'>

/** Returns the error of a request that got no answer. */
export function unanswered(call: Unanswered): HttpError {
  const { url, operation, error, proxy } = call
  const { host } = url
  const refused = proxyStatus(causeOf(error))
  if (refused !== undefined && proxy?.url !== undefined)
    return refusedByProxy(proxy.url, proxy.variable, refused, call, error)
  const { message, ...explanation } = explainUnanswered(call)
  return new HttpError({
    host,
    ...explanation,
    message: `Can't ${operation}: ${message}`,
    detail: messageOf(error),
    cause: error,
  })
}

function explainUnanswered(call: Unanswered): Explanation {
  const { error, proxy, answered } = call
  const { host } = call.url
  const code = errorCode(error) ?? ''
  if (error instanceof LateAnswer)
    return { problem: 'other', message: `the connection to ${host} stalled`, hint: 'Run the job again later.' }
  if (code === 'EMFILE' || code === 'ENFILE')
    return {
      problem: 'other',
      message: 'the runner has reached its limit of open files',
      hint: MORE_FILES,
    }
  if (TIME_ERRORS.has(code)) return explainCertificateTime(call, code)
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID' || code === 'HOSTNAME_MISMATCH')
    return {
      problem: 'other',
      message: `the certificate of ${host} is for another host name`,
      hint: `Use a name that the certificate contains, or ask the operator of ${host} for a certificate that contains this name. Certificate checks can't be turned off.`,
    }
  if (CERTIFICATE_ERROR.test(code))
    return { problem: 'untrusted-certificate', message: `the certificate of ${host} is not trusted`, hint: undefined }
  const through = proxy?.url === undefined ? '' : ` through the proxy ${proxy.url.host} (from ${proxy.variable})`
  return {
    problem: 'unreachable',
    message: `${host} can't be reached${through}`,
    hint: answered ? `${host} answered earlier in this job. Run the job again later.` : undefined,
  }
}

const TIME_ERRORS = new Set(['CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID'])

const CERTIFICATE_ERROR =
  /^(CERT_|ERR_TLS_CERT|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_MISMATCH|INVALID_(CA|PURPOSE))/

/** Explains an expired or future certificate. The cause may also be the clock of this machine. */
function explainCertificateTime({ url: { host }, validity, skew }: Unanswered, code: string): Explanation {
  const now = Date.now()
  const expired = code === 'CERT_HAS_EXPIRED'
  const message = `the certificate of ${host} ${expired ? 'has expired' : 'is not valid yet'}`
  if (skew !== undefined)
    return {
      problem: 'other',
      message: `${message} by the clock of this runner, which is wrong`,
      hint: `The runner's clock says ${formatTime(now)}, but ${skew.host} says ${formatTime(now + skew.milliseconds)}. Set the runner's clock.`,
    }
  const limit = expired ? validity?.to : validity?.from
  const fact = limit === undefined ? '' : `It ${expired ? 'expired on' : 'becomes valid on'} ${formatTime(limit)}. `
  const clock = `The runner's clock says ${formatTime(now)}`
  const renew = `Ask the operator of ${host} to renew the certificate. Certificate checks can't be turned off.`
  const longAgo = limit !== undefined && Math.abs(limit - now) >= DAY
  const hint = expired
    ? `${fact}${clock}. ${longAgo ? 'If that is wrong, set the clock. Otherwise: ' : ''}${renew}`
    : `${fact}${clock}. Check the runner's clock, and set it if it is wrong.`
  return { problem: 'other', message, hint }
}
