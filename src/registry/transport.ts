import { Readable } from 'node:stream'
import { firstLine } from '../errors.ts'
import { isLoopback } from '../http/address.ts'
import type { Work } from '../http/budget.ts'
import type { Http, HttpReply, HttpRequest } from '../http/client.ts'
import type { Repository } from '../oci/reference.ts'
import {
  type Access,
  type AuthorizationHeader,
  createAuthorization,
  type NextHeader,
  type RegistrySettings,
  SHORTEST_TOKEN,
} from './authorization.ts'
import { type Challenge, parseChallenge } from './challenge.ts'
import { RegistryError } from './registry-error.ts'

/** A request to a repository's part of a registry. */
export interface TransportRequest {
  readonly method: HttpRequest['method']
  readonly repository: Repository
  readonly access: Access
  /** Below the repository, such as `manifests/latest`; or a URL that the registry has given. */
  readonly path: string | URL
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: HttpRequest['body']
  /** Another repository of the same registry that must be readable too. */
  readonly from?: Repository
  /** Reads the answer's body at once, up to so many bytes, as part of the request that is tried again. */
  readonly limit?: number
  /** How often it is sent at most. */
  readonly attempts?: number
  /** What it is part of, which is tried again as a whole. */
  readonly work?: Work
  /** What the request is for, in a form that fits after "can't". */
  readonly operation: string
}

/** Requests with what every one of them needs: the registry's address, a login, redirects followed. */
export interface Transport {
  /** @throws RegistryError where there was no answer, or no way to log in */
  send(request: TransportRequest): Promise<HttpReply>
  /**
   * Sends a request that nothing depends on: once, with the `Authorization` of an earlier request of its access, and
   * without waiting for the answer.
   */
  sendInBackground(request: TransportRequest): void
  /** Returns what is known of the login to a registry that has refused a request with this status. */
  loginTo(repository: Repository, status: number): Promise<Login>
  /** Does again what fails in passing, for work of several requests that are to be tried again together. */
  retry(repository: Repository, operation: string, attempt: (work: Work) => Promise<HttpReply>): Promise<HttpReply>
}

/** `unknown`: there are credentials, and the registry has not accepted them so far. */
export type Login = 'none' | 'accepted' | 'unknown'

/** Each registry is looked at once before it gets the first request: which protocol it speaks, and how it wants a login. */
export function createTransport(settings: RegistrySettings): Transport {
  const { http } = settings
  const authorization = createAuthorization(settings)
  const bases = new Map<string, Promise<Base>>()

  function baseOf(host: string): Promise<Base> {
    const known = bases.get(host)
    if (known !== undefined) return known
    const base = findBase(http, host).then(({ url, reply }) => {
      // One look at the registry before anything else, so that parallel requests don't each learn how to log in.
      const challenge = reply.status === 401 ? parseChallenge(reply.headers.get('www-authenticate')) : undefined
      if (challenge !== undefined) authorization.challenged(host, challenge, url)
      return { url, challenge }
    })
    bases.set(host, base)
    base.catch(() => bases.delete(host))
    return base
  }

  async function send(call: TransportRequest): Promise<HttpReply> {
    const { repository, access, from } = call
    const { url: base } = await baseOf(repository.host)
    const url = urlOf(call, base)
    const ours = url.origin === base.origin
    const header = ours ? await authorization.header(repository, access, from) : undefined
    const request = { call, url, base }
    const { reply, next } = await sendWith(header, request)
    // A stream has been read by now; whoever sent it has to begin again.
    if (next === 'none' || call.body instanceof Readable) return reply
    if (next === 'same' && header !== undefined) return (await sendWith({ ...header, again: true }, request)).reply
    const renewed = await authorization.header(repository, access, from)
    return renewed?.value === header?.value
      ? reply
      : (await sendWith(renewed && { ...renewed, again: true }, request)).reply
  }

  /** Sends a request, and returns what it may be accepted with if it is refused. */
  async function sendWith(
    header: AuthorizationHeader | undefined,
    { call, url, base }: { readonly call: TransportRequest; readonly url: URL; readonly base: URL },
  ): Promise<{ readonly reply: HttpReply; readonly next: NextHeader }> {
    const { host } = call.repository
    const reply = await follow(settings, requestOf(call, url, base, header?.value))
    if (reply.ok && header !== undefined) authorization.accepted(host, header.value)
    // Only the registry itself may ask for its login, not whoever it has pointed to.
    const asks = reply.status === 401 && reply.url.origin === base.origin
    const challenge = asks ? parseChallenge(reply.headers.get('www-authenticate')) : undefined
    return { reply, next: challenge === undefined ? 'none' : authorization.challenged(host, challenge, base, header) }
  }

  async function sendOnce(call: TransportRequest): Promise<void> {
    const { repository, access, from, operation } = call
    const { url: base } = await baseOf(repository.host)
    const url = urlOf(call, base)
    const ours = url.origin === base.origin
    if (!ours) maskSignature(settings, url)
    const header = ours ? authorization.headerAtHand(repository, access, from) : undefined
    const status = await http.sendOnce(requestOf(call, url, base, header))
    if (status >= 300) http.log.debug(`Can't ${operation}: status ${status}`)
  }

  /** Asks a registry that has refused a password before it accepted it. What it answers at `/v2/` is about that alone. */
  async function acceptsPassword(repository: Repository): Promise<boolean> {
    const { url: base, challenge } = await baseOf(repository.host)
    const header = await authorization.header(repository, 'pull')
    if (challenge?.scheme !== 'basic' || header === undefined) return false
    const operation = `log in to ${repository.host}`
    const call = { method: 'GET', registry: base, operation, attempts: 1 } as const
    const reply = await http.send({ ...call, url: base, headers: { authorization: header.value } })
    if (http.drain(reply).ok) authorization.accepted(repository.host, header.value)
    return reply.ok
  }

  return {
    send,
    sendInBackground(call) {
      sendOnce(call).catch((error: unknown) => http.log.debug(`Can't ${call.operation}: ${firstLine(error)}`))
    },
    async loginTo(repository, status) {
      const { host } = repository
      if ((await settings.credentials(host)) === undefined) return 'none'
      if (authorization.isLoginAccepted(host)) return 'accepted'
      // Only 401 leaves open whether the password is wrong. Without an answer to that, it stays open.
      const accepted = status === 401 && (await acceptsPassword(repository).catch(() => false))
      return accepted ? 'accepted' : 'unknown'
    },
    retry: async ({ host }, operation, attempt) => http.retry({ url: (await baseOf(host)).url, operation }, attempt),
  }
}

/** A registry's address, and what it has answered there to a request without a login. */
interface Base {
  readonly url: URL
  readonly challenge: Challenge | undefined
}

function urlOf({ repository, path }: TransportRequest, base: URL): URL {
  return path instanceof URL ? path : new URL(`/v2/${repository.path}/${path}`, base)
}

/** A request that a registry causes. */
type RegistryRequest = HttpRequest & { readonly registry: URL }

function requestOf(
  call: TransportRequest,
  url: URL,
  registry: URL,
  authorization: string | undefined,
): RegistryRequest {
  const { repository: _, access: __, path: ___, from: ____, headers, ...rest } = call
  return { ...rest, url, registry, headers: { ...headers, ...(authorization && { authorization }) } }
}

/** Docker Hub's registry has another name than its images. */
export function wireHost(host: string): string {
  return host === 'docker.io' ? 'registry-1.docker.io' : host
}

/** The registry's address, and its answer to a first look. Plain http is for this machine only, where https is not spoken. */
async function findBase(http: Http, host: string): Promise<{ url: URL; reply: HttpReply }> {
  const url = new URL(`https://${wireHost(host)}/v2/`)
  const look = { method: 'GET', headers: {}, operation: `talk to the registry ${host}` } as const
  const loopback = isLoopback(url.hostname)
  try {
    return {
      url,
      reply: http.drain(await http.send({ ...look, url, registry: url, ...(loopback && { attempts: 1 }) })),
    }
  } catch (error) {
    if (!loopback || !(error instanceof RegistryError) || error.problem !== 'unreachable') throw error
    const plain = new URL(`http://${wireHost(host)}/v2/`)
    return { url: plain, reply: http.drain(await http.send({ ...look, url: plain, registry: plain })) }
  }
}

const REDIRECTS = new Set([301, 302, 303, 307, 308])
const MOST_REDIRECTS = 5

/**
 * Sends a request, and follows redirects: blobs are often read from an object store that the registry points to. After a
 * passing failure, starts again with the first request, because where the registry points to may be what is wrong.
 */
async function follow(settings: RegistrySettings, first: RegistryRequest): Promise<HttpReply> {
  const { http } = settings
  if (first.work !== undefined || !isFollowed(first)) return followOnce(settings, first)
  return http.retry(first, (work) => followOnce(settings, { ...first, work }), first.attempts)
}

/** Follows redirects without the registry's login, which no other host may see. */
async function followOnce(settings: RegistrySettings, first: RegistryRequest): Promise<HttpReply> {
  const { http } = settings
  let request = first
  const base = first.registry
  for (let redirects = 0; redirects < MOST_REDIRECTS; redirects++) {
    if (request.url.origin !== base.origin) maskSignature(settings, request.url)
    const reply = await http.send(request)
    const target = locationOf(reply, request)
    if (target === undefined) return reply
    http.drain(reply)
    if (!isAsSafe(target, request.url))
      throw strayed(first, base, `it points to ${target.protocol}//${target.host}, which is not encrypted`)
    const { authorization: _, ...anonymous } = request.headers
    request = { ...request, url: target, headers: target.origin === base.origin ? request.headers : anonymous }
  }
  throw strayed(first, base, `it points elsewhere ${MOST_REDIRECTS} times in a row`)
}

/** Reports whether a URL that a server points to is encrypted, or speaks plain http as the server itself does. */
export function isAsSafe(target: URL, source: URL): boolean {
  return target.protocol === 'https:' || (target.protocol === 'http:' && source.protocol === 'http:')
}

function maskSignature({ onSecret }: RegistrySettings, url: URL): void {
  for (const secret of signatureIn(url)) onSecret(secret)
}

/**
 * The parts of a signed URL that let others use it: the query as a whole, and the values that object stores may repeat in
 * their errors.
 */
function signatureIn({ search, searchParams }: URL): readonly string[] {
  const values = [...searchParams].flatMap(([name, value]) => (SIGNATURE.test(name) ? value : []))
  return [search.slice(1), ...values].filter(({ length }) => length >= SHORTEST_TOKEN)
}

const SIGNATURE = /sig|hmac|token|credential|secret|key|policy|auth|verify|state/i

function isFollowed({ method }: HttpRequest): boolean {
  return method === 'GET' || method === 'HEAD'
}

function locationOf(reply: HttpReply, request: HttpRequest): URL | undefined {
  const { url } = request
  const location = reply.headers.get('location')
  if (location === null || !REDIRECTS.has(reply.status) || !isFollowed(request)) return undefined
  return URL.canParse(location, url.href) ? new URL(location, url) : undefined
}

function strayed({ operation }: HttpRequest, base: URL, why: string): RegistryError {
  return new RegistryError({
    host: base.host,
    problem: 'other',
    message: `Can't ${operation}: ${base.host} is not followed: ${why}`,
  })
}
