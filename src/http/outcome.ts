import { STATUS_CODES } from 'node:http'
import { errors } from 'undici'
import { messageOf } from '../errors.ts'
import { sanitizeLine } from '../text.ts'
import type { HttpFailure, HttpReply, HttpRequest } from './client.ts'
import { readErrorAnswer } from './error-answer.ts'
import { causeOf, errorCode, HttpError } from './http-error.ts'
import { proxyStatus } from './proxy.ts'
import { isRetryable, isRetryableError } from './retry.ts'

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
