import { Readable } from 'node:stream'
import { firstLine } from '../errors.ts'
import { isLoopback } from '../http/address.ts'
import type { Work } from '../http/budget.ts'
import type { Http } from '../http/client.ts'
import { HttpError } from '../http/http-error.ts'
import type { HttpReply, HttpRequest } from '../http/messages.ts'
import type { Repository } from '../oci/reference.ts'
import {
  type AuthorizationHeader,
  createAuthorization,
  type LoginState,
  type NextHeader,
  type RegistrySettings,
} from './authorization.ts'
import { type Challenge, parseChallenge } from './challenge.ts'
import { RegistryError, throwAsRegistryError } from './registry-error.ts'
import { type Access, SHORTEST_TOKEN } from './token.ts'

/** A request to a repository. */
export interface TransportRequest {
  readonly method: HttpRequest['method']
  readonly repository: Repository
  readonly access: Access
  /** Relative to the repository, such as `manifests/latest`, or a URL from an answer of the registry. */
  readonly path: string | URL
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: HttpRequest['body']
  /** Another repository of the same registry, to be read. */
  readonly from?: Repository
  /** Reads the body of the answer, of at most so many bytes, as part of the request, so that a failure is retried. */
  readonly limit?: number
  /** The maximum number of attempts. */
  readonly attempts?: number
  /** The work that the request belongs to, which is retried as a whole. */
  readonly work?: Work
  /** The purpose of the request, used in messages after "Can't". */
  readonly operation: string
}

/** Sends requests to registries: finds the base URL, logs in, and follows redirects. */
export interface Transport {
  /** @throws RegistryError if there is no answer, or if logging in fails. HttpError if the request belongs to larger work. */
  send(request: TransportRequest): Promise<HttpReply>
  /**
   * Sends a request whose result does not matter, once, with the `Authorization` header of an earlier request, and without
   * waiting for the answer.
   */
  sendInBackground(request: TransportRequest): void
  /** Returns the state of the login to a registry that has refused a request with a status. */
  loginTo(repository: Repository, status: number): Promise<LoginState>
  /** Retries work of several requests as a whole after transient failures. */
  retry(repository: Repository, operation: string, attempt: (work: Work) => Promise<HttpReply>): Promise<HttpReply>
}

/** Before the first request to a registry, finds out its protocol and how to log in. */
export function createTransport(settings: RegistrySettings): Transport {
  const { http } = settings
  const authorization = createAuthorization(settings)
  const bases = new Map<string, Promise<Base>>()

  function baseOf(host: string): Promise<Base> {
    const known = bases.get(host)
    if (known !== undefined) return known
    const base = findBase(http, host).then(({ url, reply }) => {
      // Otherwise, each of several parallel requests would be refused first.
      const challenge = reply.status === 401 ? parseChallenge(reply.headers.get('www-authenticate')) : undefined
      if (challenge !== undefined) authorization.challenged(host, challenge, url)
      return { url, challenge }
    })
    bases.set(host, base)
    base.catch(() => bases.delete(host))
    return base
  }

  async function sendAuthorized(call: TransportRequest): Promise<HttpReply> {
    const { repository, access, from } = call
    const { url: base } = await baseOf(repository.host)
    const url = urlOf(call, base)
    const trusted = url.origin === base.origin
    const header = trusted ? await authorization.header(repository, access, from) : undefined
    const request = { call, url, base }
    const { reply, next } = await sendWith(header, request)
    // A stream can't be sent twice. The caller has to repeat the request.
    if (next === 'none' || call.body instanceof Readable) return reply
    if (next === 'same' && header !== undefined) return (await sendWith({ ...header, again: true }, request)).reply
    const renewed = await authorization.header(repository, access, from)
    return renewed?.value === header?.value
      ? reply
      : (await sendWith(renewed && { ...renewed, again: true }, request)).reply
  }

  /** Sends a request, and returns the header with which to repeat it if it is refused. */
  async function sendWith(
    header: AuthorizationHeader | undefined,
    { call, url, base }: { readonly call: TransportRequest; readonly url: URL; readonly base: URL },
  ): Promise<{ readonly reply: HttpReply; readonly next: NextHeader }> {
    const { host } = call.repository
    const reply = await follow(settings, requestOf(call, url, base, header?.value))
    if (reply.ok && header !== undefined) authorization.accepted(host, header.value)
    // Only the registry itself may ask for its login, not a host that it redirects to.
    const asks = reply.status === 401 && reply.url.origin === base.origin
    const challenge = asks ? parseChallenge(reply.headers.get('www-authenticate')) : undefined
    return { reply, next: challenge === undefined ? 'none' : authorization.challenged(host, challenge, base, header) }
  }

  async function sendOnce(call: TransportRequest): Promise<void> {
    const { repository, access, from, operation } = call
    const { url: base } = await baseOf(repository.host)
    const url = urlOf(call, base)
    const trusted = url.origin === base.origin
    if (!trusted) maskSignature(settings, url)
    const header = trusted ? authorization.cachedHeader(repository, access, from) : undefined
    const status = await http.sendOnce(requestOf(call, url, base, header))
    if (status >= 300) http.log.debug(`Can't ${operation}: status ${status}`)
  }

  /** Asks a registry whether it accepts a password. At `/v2/`, the answer does not depend on permissions. */
  async function acceptsPassword(repository: Repository): Promise<boolean> {
    const { url: base, challenge } = await baseOf(repository.host)
    const header = await authorization.header(repository, 'pull')
    if (challenge?.scheme !== 'basic' || header === undefined) return false
    const operation = `log in to ${repository.host}`
    const call = { method: 'GET', initiator: base, operation, attempts: 1 } as const
    const reply = await http.send({ ...call, url: base, headers: { authorization: header.value } })
    if (http.drain(reply).ok) authorization.accepted(repository.host, header.value)
    return reply.ok
  }

  return {
    send: (call) => (call.work === undefined ? sendAuthorized(call).catch(throwAsRegistryError) : sendAuthorized(call)),
    sendInBackground(call) {
      sendOnce(call).catch((error: unknown) => http.log.debug(`Can't ${call.operation}: ${firstLine(error)}`))
    },
    async loginTo(repository, status) {
      const state = await authorization.loginState(repository)
      // Only status 401 may mean that the password is wrong.
      if (state !== 'unknown' || status !== 401) return state
      return (await acceptsPassword(repository).catch(() => false)) ? 'accepted' : 'unknown'
    },
    async retry({ host }, operation, attempt) {
      try {
        return await http.retry({ url: (await baseOf(host)).url, operation }, attempt)
      } catch (error) {
        return throwAsRegistryError(error)
      }
    },
  }
}

/** The base URL of a registry, and its challenge to a request without a login. */
interface Base {
  readonly url: URL
  readonly challenge: Challenge | undefined
}

function urlOf({ repository, path }: TransportRequest, base: URL): URL {
  return path instanceof URL ? path : new URL(`/v2/${repository.path}/${path}`, base)
}

/** A request to a registry, or one that a registry caused. */
type RegistryRequest = HttpRequest & { readonly initiator: URL }

function requestOf(
  call: TransportRequest,
  url: URL,
  initiator: URL,
  authorization: string | undefined,
): RegistryRequest {
  const { repository: _, access: __, path: ___, from: ____, headers, ...rest } = call
  return { ...rest, url, initiator, headers: { ...headers, ...(authorization && { authorization }) } }
}

/** Returns the host that serves a registry, which for Docker Hub is not the one in the names of images. */
export function wireHost(host: string): string {
  return host === 'docker.io' ? 'registry-1.docker.io' : host
}

/** Finds the base URL of a registry. Plain http is used only for this machine, and only if https fails. */
async function findBase(http: Http, host: string): Promise<{ url: URL; reply: HttpReply }> {
  const url = new URL(`https://${wireHost(host)}/v2/`)
  const call = { method: 'GET', headers: {}, operation: `connect to the registry ${host}` } as const
  const loopback = isLoopback(url.hostname)
  try {
    return {
      url,
      reply: http.drain(await http.send({ ...call, url, initiator: url, ...(loopback && { attempts: 1 }) })),
    }
  } catch (error) {
    if (!loopback || !(error instanceof HttpError) || error.problem !== 'unreachable') throw error
    const plain = new URL(`http://${wireHost(host)}/v2/`)
    return { url: plain, reply: http.drain(await http.send({ ...call, url: plain, initiator: plain })) }
  }
}

const REDIRECTS = new Set([301, 302, 303, 307, 308])
const MAX_REDIRECTS = 5

/**
 * Sends a request, and follows redirects, as to an object store that has the blobs. After a transient failure, starts with
 * the first request again, because the target of the redirect may have been the cause.
 */
async function follow(settings: RegistrySettings, first: RegistryRequest): Promise<HttpReply> {
  const { http } = settings
  if (first.work !== undefined || !isFollowed(first)) return followOnce(settings, first)
  return http.retry(first, (work) => followOnce(settings, { ...first, work }), first.attempts)
}

/** Follows redirects. Only the registry itself gets its `Authorization` header. */
async function followOnce(settings: RegistrySettings, first: RegistryRequest): Promise<HttpReply> {
  const { http } = settings
  let request = first
  const base = first.initiator
  for (let redirects = 0; redirects < MAX_REDIRECTS; redirects++) {
    if (request.url.origin !== base.origin) maskSignature(settings, request.url)
    const reply = await http.send(request)
    const target = redirectTarget(reply, request)
    if (target === undefined) return reply
    http.drain(reply)
    if (!isAsSafe(target, request.url))
      throw refusedRedirect(first, base, `to ${target.protocol}//${target.host}, which is not encrypted`)
    const { authorization: _, ...anonymous } = request.headers
    request = { ...request, url: target, headers: target.origin === base.origin ? request.headers : anonymous }
  }
  throw refusedRedirect(first, base, `${MAX_REDIRECTS} times in a row`)
}

/** Reports whether a URL from a server's answer uses https, or plain http as the server itself does. */
export function isAsSafe(target: URL, source: URL): boolean {
  return target.protocol === 'https:' || (target.protocol === 'http:' && source.protocol === 'http:')
}

function maskSignature({ onSecret }: RegistrySettings, url: URL): void {
  for (const secret of signatureIn(url)) onSecret(secret)
}

/** Returns the secret parts of a signed URL: the query, and the values that object stores may repeat in their errors. */
function signatureIn({ search, searchParams }: URL): readonly string[] {
  const values = [...searchParams].flatMap(([name, value]) => (SIGNATURE.test(name) ? value : []))
  return [search.slice(1), ...values].filter(({ length }) => length >= SHORTEST_TOKEN)
}

const SIGNATURE = /sig|hmac|token|credential|secret|key|policy|auth|verify|state/i

function isFollowed({ method }: HttpRequest): boolean {
  return method === 'GET' || method === 'HEAD'
}

function redirectTarget(reply: HttpReply, request: HttpRequest): URL | undefined {
  const { url } = request
  const location = reply.headers.get('location')
  if (location === undefined || !REDIRECTS.has(reply.status) || !isFollowed(request)) return undefined
  return URL.canParse(location, url.href) ? new URL(location, url) : undefined
}

function refusedRedirect({ operation }: HttpRequest, base: URL, where: string): RegistryError {
  return new RegistryError({
    host: base.host,
    problem: 'other',
    message: `Can't ${operation}: ${base.host} redirects ${where}`,
  })
}
