import { type ErrorAnswer, readErrorAnswer } from '../http/http-error.ts'
import type { HttpReply } from '../http/messages.ts'
import { isRetryable } from '../http/retry.ts'
import type { Digest } from '../oci/reference.ts'
import type { Settled } from '../promises.ts'
import type { LoginState } from './authorization.ts'
import { parseChallenge } from './challenge.ts'
import { RegistryError, type RegistryProblem } from './registry-error.ts'
import { type TransportRequest, wireHost } from './transport.ts'

/** The properties of a request that explain its failure. */
export interface FailedCall extends Pick<TransportRequest, 'repository' | 'operation'> {
  readonly method?: TransportRequest['method']
  /** The media type of the manifest to be written. */
  readonly mediaType?: string
}

/** Returns the error of an answer other than success. */
export function refusalError(call: FailedCall, reply: HttpReply, login: LoginState): RegistryError {
  const {
    repository: { host },
    operation,
    mediaType,
  } = call
  const answer = reply.ok ? { detail: 'unexpected status for this request' } : readErrorAnswer(reply.text)
  // An object store that the registry points to does not get the registry's credentials.
  const elsewhere = reply.url.host !== new URL(`${reply.url.protocol}//${wireHost(host)}`).host
  const responder = elsewhere ? `${reply.url.host}, which ${host} points to,` : host
  const unauthorized = !elsewhere && (reply.status === 401 || reply.status === 403)
  const problem = unauthorized ? loginProblem(reply, login) : problemOf(call, reply, answer)
  // Quay names the type of an entry of an index.
  const refused = /'(application\/[^']+)' is not one of/.exec(answer.detail)?.[1] ?? mediaType
  const reason = PROBLEM_REASONS[problem]?.(host, refused)
  const tries = !reply.ok && reply.tries !== undefined ? ` (${reply.tries})` : ''
  return new RegistryError({
    host,
    problem,
    status: reply.status,
    code: answer.code,
    ...(problem === 'unsupported-type' && { mediaType: refused }),
    message: `Can't ${operation}: ${responder} answered with status ${reply.status}${reason === undefined ? '' : `: ${reason}`}${tries}`,
    detail: answer.detail === '' ? undefined : answer.detail,
  })
}

const PROBLEM_REASONS: Readonly<Partial<Record<RegistryProblem, (host: string, mediaType?: string) => string>>> = {
  'no-credentials': (host) => `authentication required, but no credentials were found for ${host}`,
  'wrong-credentials': () => 'invalid credentials',
  'read-only': () => 'pushes are not accepted; the registry is read-only or a proxy cache',
  denied: () => 'access denied',
  'not-found': () => 'not found',
  'rate-limited': () => 'rate limit exceeded',
  'unsupported-type': (_, mediaType) => `manifests of the type ${mediaType} may not be supported`,
}

const STATUS_PROBLEMS: ReadonlyMap<number, RegistryProblem> = new Map([
  [404, 'not-found'],
  [429, 'rate-limited'],
])

function loginProblem({ status, headers }: HttpReply, login: LoginState): RegistryProblem {
  if (login === 'none') return 'no-credentials'
  // Docker Distribution, Gitea, olareg and Cloudflare answer with status 401 instead of 403.
  const challenge = parseChallenge(headers.get('www-authenticate'))
  return status === 403 || login === 'accepted' || challenge?.scheme === 'bearer' ? 'denied' : 'wrong-credentials'
}

function problemOf({ method, mediaType }: FailedCall, reply: HttpReply, answer: ErrorAnswer): RegistryProblem {
  const { status, ok } = reply
  if (status === 405 && (method === 'POST' || method === 'PUT')) return 'read-only'
  if (mediaType !== undefined && isUnsupportedType(status, answer)) return 'unsupported-type'
  return STATUS_PROBLEMS.get(status) ?? (ok ? 'doubtful' : 'other')
}

/**
 * Reports whether a manifest was refused because of its media type. zot answers with status 415, Quay with 400 and the
 * types that it supports, and old versions of Gitea and Artifactory with 404 or 400 without a reason.
 */
function isUnsupportedType(status: number, { code = '', detail }: ErrorAnswer): boolean {
  if (status === 415) return true
  if (status === 404) return !/NAME_|BLOB|DENIED|UNAUTHORIZED/.test(code)
  if (status !== 400 && status !== 406 && status !== 422) return false
  return (
    code === 'UNSUPPORTED' ||
    (code === 'MANIFEST_INVALID' && /media[ -_]?type|schema|not supported|unsupported|application\/vnd\./i.test(detail))
  )
}

/** Adds to the error of a failed write of a manifest what its tag or digest points to now. */
export function withCurrentState(failure: unknown, name: string, current: Settled<Digest | undefined>): unknown {
  if (!(failure instanceof RegistryError)) return failure
  const state = current.value === undefined ? `${name} does not exist` : `${name} points to ${current.value}`
  const known = current.error === undefined ? state : `it is unknown what ${name} points to now`
  return failure.withMessage(`${failure.parts.message}; ${known}`)
}

/**
 * Reports whether a manifest may have been refused because its tag is immutable. ECR (400), Docker Hub and zot (403), and
 * Harbor (412) refuse to move such tags, and old versions of zot to give a tag a manifest of another media type (400).
 */
export function mayBeImmutableTag(failure: unknown): boolean {
  if (!(failure instanceof RegistryError)) return false
  const { problem, status = 0, code = '', parts } = failure
  if (problem !== 'denied' && problem !== 'other' && problem !== 'unsupported-type') return false
  return ![404, 415].includes(status) && !isRetryable(status, parts.detail ?? '') && !/BLOB|DIGEST|SIZE/.test(code)
}

/**
 * Returns the error of a tag that the registry refuses to move.
 * @param current the digest that the tag points to, undefined if it does not exist or is unknown
 */
export function immutableTagError(
  failure: unknown,
  name: string,
  current: Digest | undefined,
  wanted: Digest,
): unknown {
  if (!(failure instanceof RegistryError) || current === undefined || current === wanted) return failure
  const { host, status, code, parts } = failure
  const immutable = /immutable|overwrit/i.test(parts.detail ?? '')
  return new RegistryError({
    host,
    problem: 'tag-exists',
    status,
    code,
    message: `Can't move the tag ${name}: it exists and points to ${current}, and ${host} refuses to change it (status ${status})${immutable ? '' : '. It may be immutable'}`,
    detail: parts.detail,
  })
}
