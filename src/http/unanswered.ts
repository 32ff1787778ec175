import { MORE_FILES } from '../actions/advice.ts'
import { messageOf } from '../errors.ts'
import { LateAnswer } from './body.ts'
import { type ClockSkew, DAY, formatTime } from './clock.ts'
import { causeOf, errorCode, HttpError, type HttpErrorParts } from './http-error.ts'
import type { Validity } from './network.ts'
import { type NamedProxy, proxyStatus, refusedByProxy } from './proxy.ts'

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
