import type { Http } from '../http/client.ts'
import type { HttpReply, HttpSuccess } from '../http/messages.ts'
import { pauseBeforeRetry, RETRY_PAUSES } from '../http/retry.ts'
import { type Digest, formatRepository, isDigest, type Repository } from '../oci/reference.ts'
import { settled } from '../promises.ts'
import type { RegistrySettings } from './authorization.ts'
import { type FailedCall, refusalError } from './refusal.ts'
import type { ReadOptions } from './registry.ts'
import { RegistryError, retryDoubtful } from './registry-error.ts'
import { createTransport, type Transport, type TransportRequest } from './transport.ts'

/** The requests that the parts of a registry client share. */
export interface Requests {
  readonly http: Http
  readonly transport: Transport
  /** Sends a request. @throws RegistryError unless it succeeds */
  demand(call: TransportRequest): Promise<HttpSuccess>
  /** Like `demand`, but returns undefined if the registry answers with status 404. */
  find(call: TransportRequest): Promise<HttpSuccess | undefined>
  /**
   * Looks for content with HEAD, which is cheapest. Answers to HEAD have no body that tells whether a failure is
   * transient, so any answer other than success and 404 is left to `read`.
   * @param found reads the answer to HEAD; returns undefined if it does not suffice
   * @param read looks with GET
   */
  look<Found>(
    call: TransportRequest,
    found: (reply: HttpSuccess) => Found | undefined,
    read: () => Promise<Found | undefined>,
  ): Promise<Found | undefined>
  /** Repeats a read while it finds nothing, or content that is outdated, if the options ask for that. */
  retryNotFound<Found>(
    name: string,
    read: () => Promise<Found | undefined>,
    options?: ReadOptions,
    isOutdated?: (found: Found) => boolean,
  ): Promise<Found | undefined>
  /** Repeats a write that the registry refuses for a reason that may pass. */
  retryRefused(name: string, send: () => Promise<HttpReply>): Promise<HttpReply>
  retryDoubtful<Result>(work: () => Promise<Result>): Promise<Result>
  /** Returns the error of an answer other than success. */
  errorOf(call: FailedCall, reply: HttpReply): Promise<RegistryError>
}

/** After how many failures of HEAD in a row only GET is used. */
const HEAD_FAILURE_LIMIT = 2

/** How long to wait before each further read of content that was written just now, in milliseconds. */
const NOT_FOUND_PAUSES = [500, 1000, 2000, 4000]

export function createRequests(settings: RegistrySettings): Requests {
  const { http } = settings
  const transport = createTransport(settings)

  // By host, how often in a row HEAD has failed where GET succeeded.
  const headFailures = new Map<string, number>()

  async function errorOf(call: FailedCall, reply: HttpReply): Promise<RegistryError> {
    const { status } = reply
    // Other statuses have nothing to do with the login.
    const login = status === 401 || status === 403 ? await transport.loginTo(call.repository, status) : 'unknown'
    return refusalError(call, reply, login)
  }

  async function demand(call: TransportRequest): Promise<HttpSuccess> {
    const reply = await transport.send(call)
    if (isSuccess(reply)) return reply
    throw await errorOf(call, http.drain(reply))
  }

  return {
    http,
    transport,
    errorOf,
    demand,
    async find(call) {
      const reply = await transport.send(call)
      if (reply.status === 404) return undefined
      if (isSuccess(reply)) return reply
      throw await errorOf(call, http.drain(reply))
    },
    async look(call, found, read) {
      const { host } = call.repository
      const failures = headFailures.get(host) ?? 0
      // Each attempt may stall for a minute.
      if (failures >= HEAD_FAILURE_LIMIT) return read()
      const { value: reply } = await settled(transport.send({ ...call, method: 'HEAD', attempts: 1 }))
      if (reply?.status === 404) return undefined
      if (reply !== undefined && isSuccess(reply)) {
        http.drain(reply)
        headFailures.delete(host)
        return found(reply) ?? read()
      }
      const certain = await read()
      headFailures.set(host, failures + 1)
      return certain
    },
    async retryNotFound(name, read, { retryNotFound = false } = {}, isOutdated = () => false) {
      for (const milliseconds of retryNotFound ? NOT_FOUND_PAUSES : []) {
        const found = await read()
        if (found !== undefined && !isOutdated(found)) return found
        const state = found === undefined ? 'is not there yet' : 'is not up to date yet'
        await pauseBeforeRetry(`${name} ${state}`, milliseconds, http)
      }
      return read()
    },
    async retryRefused(name, send) {
      for (const milliseconds of RETRY_PAUSES) {
        const reply = await send()
        const reason = transientRefusal(reply)
        if (reason === undefined) return reply
        await pauseBeforeRetry(`${name}: ${reason}`, milliseconds, http)
      }
      return send()
    },
    retryDoubtful: (work) => retryDoubtful(work, http),
  }
}

/** Returns the reason of a refusal that may pass within seconds. */
function transientRefusal(reply: HttpReply): string | undefined {
  if (reply.ok) return undefined
  // ACR and GHCR may lose an upload that they have begun: https://github.com/Azure/azure-sdk-for-net/issues/42293
  if (/BLOB_UPLOAD_(UNKNOWN|INVALID)/.test(reply.text)) return 'the registry has lost the upload'
  // GHCR may not know a blob for a moment after accepting it.
  if (/unknown blob|BLOB_UNKNOWN/i.test(reply.text)) return 'the registry does not know all blobs of the manifest yet'
  const passes = reply.status === 404 && !/NAME_UNKNOWN/.test(reply.text)
  return passes ? 'the registry answered with status 404' : undefined
}

export function isSuccess(reply: HttpReply): reply is HttpSuccess {
  return reply.ok && reply.status < 300
}

/** Reports whether an answer means that a request had no effect. A server's own error (5xx) may follow an effect. */
export function isClientError({ status }: HttpReply): boolean {
  return status >= 400 && status < 500
}

/** Formats the name of a manifest or blob: `ghcr.io/owner/app:latest`, `ghcr.io/owner/app@sha256:…`. */
export function formatContentName(repository: Repository, reference: string): string {
  return `${formatRepository(repository)}${isDigest(reference) ? '@' : ':'}${reference}`
}

/** Returns the content of an answer to a request with a limit. @throws RegistryError if it is larger */
export function contentWithinLimit(reply: HttpSuccess, { repository, operation, limit = 0 }: TransportRequest): Buffer {
  if (reply.content !== undefined) return reply.content
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `Can't ${operation}: it is larger than ${limit / 1024} KiB`,
  })
}

export function wrongDigest({ repository, operation }: FailedCall, expected: Digest, actual: Digest): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'doubtful',
    message: `Can't ${operation}: its digest should be ${expected}, but is ${actual}`,
  })
}

/** Returns the error of an answer that reports a success without storing the content. */
export function notStored(
  { repository: { host }, operation }: FailedCall,
  { status, headers }: HttpReply,
  digest: Digest,
): RegistryError {
  const stored = headers.get('docker-content-digest') ?? ''
  const wrong = isDigest(stored) && stored !== digest
  return new RegistryError({
    host,
    problem: 'doubtful',
    status,
    message: `Can't ${operation}: ${wrong ? `its digest should be ${digest}, but is ${stored}` : `${host} answered with status ${status}, but has not stored it`}`,
  })
}
