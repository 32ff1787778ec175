import { isDeepStrictEqual } from 'node:util'
import * as v from 'valibot'
import { sanitizeLine } from '../errors.ts'
import type { Http, HttpFailure, HttpSuccess } from '../http/client.ts'
import { retryDoubtful } from '../http/retry.ts'
import { readJson } from '../json.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import type { Challenge } from './challenge.ts'
import type { Credential, CredentialSource } from './credentials.ts'
import { realmProblem } from './realm.ts'
import { RegistryError, type RegistryProblem, readErrorAnswer } from './registry-error.ts'

/** What a request does to a repository. */
export type Access = 'pull' | 'pull,push' | 'delete'

/** Answers registries' challenges; however many requests wait for it, a token is fetched once. */
export interface Authorization {
  /** The `Authorization` header for a request, or none where the registry has asked for nothing. */
  header(repository: Repository, access: Access, from?: Repository): Promise<AuthorizationHeader | undefined>
  /** Returns the header of an earlier request, without asking for a token. */
  headerAtHand(repository: Repository, access: Access, from?: Repository): string | undefined
  /**
   * Takes in what a registry asks for.
   * @param registry where it asked
   * @param refused the header that it did not accept
   * @returns what may be accepted next: `none` if access was denied
   */
  challenged(host: string, challenge: Challenge, registry: URL, refused?: AuthorizationHeader): NextHeader
  /** Notes that a registry has answered a request with this header, and did not ask for another one. */
  accepted(host: string, header: string): void
  /** Reports whether the credentials for a host have been accepted, by its token service or by itself. */
  isLoginAccepted(host: string): boolean
}

export interface AuthorizationHeader {
  readonly value: string
  /** Whether it was fetched while the request waited for it. */
  readonly fresh: boolean
  /** Whether the request is sent with it for the second time. */
  readonly again?: boolean
}

/** The header to send a refused request with. */
export type NextHeader = 'none' | 'same' | 'another'

/** What a registry is spoken to with. */
export interface RegistrySettings {
  readonly http: Http
  readonly credentials: CredentialSource
  /** Is told each secret, tokens included, before it is used, so that it can be masked. */
  readonly onSecret: (secret: string) => void
}

/** Nothing is asked before the first request wants to know. */
export function createAuthorization(settings: RegistrySettings): Authorization {
  const challenges = new Map<string, { readonly challenge: Challenge; readonly registry: URL }>()
  const headers = new Map<string, CachedHeader>()
  const refusedLogins = new Map<string, Credential>()
  const acceptedLogins = new Set<string>()

  async function fetchHeader(
    repository: Repository,
    access: Access,
    from: Repository | undefined,
  ): Promise<Token | undefined> {
    const asked = challenges.get(repository.host)
    if (asked === undefined) return undefined
    const { challenge, registry } = asked
    const credential = await settings.credentials(repository.host, refusedLogins.get(repository.host))
    if (challenge.scheme === 'basic') return basicHeader(credential, settings.onSecret)
    const accepted = acceptedLogins.has(repository.host)
    const call = { ...settings, challenge, registry, repository, access, from, accepted }
    const fetchWith = async (one: Credential | undefined): Promise<Token> => {
      const token = await fetchToken({ ...call, credential: one })
      if (one !== undefined) acceptedLogins.add(repository.host)
      return token
    }
    try {
      return await fetchWith(credential)
    } catch (error) {
      if (credential === undefined || !isRefusal(error)) throw error
      // A helper's answer may have expired since; any other credential is found as it was.
      const renewed = await settings.credentials(repository.host, credential)
      if (isDeepStrictEqual(renewed, credential)) throw error
      return fetchWith(renewed)
    }
  }

  function forget(host: string, key: string, token: Token | undefined): void {
    headers.delete(key)
    if (token?.login !== undefined) refusedLogins.set(host, token.login)
  }

  /** Finds the header of an earlier request, or of one that is waiting for it. */
  function cachedHeader(repository: Repository, access: Access, from: Repository | undefined) {
    const keyOf = (one: Access) => `${one} ${formatRepository(repository)} ${from?.path ?? ''}`
    // Who may push may pull as well, and a token costs a round trip.
    const asked = access === 'pull' && headers.has(keyOf('pull,push')) ? 'pull,push' : access
    const key = keyOf(asked)
    const cached = headers.get(key)
    return { asked, key, cached: cached !== undefined && cached.expires > Date.now() ? cached : undefined }
  }

  return {
    async header(repository, access, from) {
      const { asked, key, cached } = cachedHeader(repository, access, from)
      if (cached === undefined && !challenges.has(repository.host)) return undefined
      const known = cached?.token
      if (known !== undefined) return { value: known.header, fresh: false }
      const fetched = cached ?? cacheHeader(fetchHeader(repository, asked, from))
      if (fetched !== cached) headers.set(key, fetched)
      const value = await fetched.header
      return value === undefined ? undefined : { value, fresh: true }
    },
    headerAtHand: (repository, access, from) => cachedHeader(repository, access, from).cached?.token?.header,
    challenged(host, challenge, registry, refused) {
      const before = challenges.get(host)?.challenge
      const cached = [...headers].filter(([, { token }]) => token?.header === refused?.value)
      const next = refused === undefined ? 'another' : nextAfter(challenge, before, refused, cached)
      if (next === 'none') for (const [, one] of cached) one.denied = !one.accepted
      if (next !== 'another') return next
      challenges.set(host, { challenge, registry })
      if (refused !== undefined) for (const [key, { token }] of cached) forget(host, key, token)
      return next
    },
    accepted(host, header) {
      for (const cached of headers.values()) {
        const { token } = cached
        if (token?.header !== header) continue
        cached.accepted = true
        if (token.login !== undefined) acceptedLogins.add(host)
      }
    },
    isLoginAccepted: (host) => acceptedLogins.has(host),
  }
}

/**
 * Decides what to send a refused request with. A token that was refused for what it may do is not fetched again.
 * @param before what the registry has asked for so far
 * @param cached what is known of the token; nothing once another request has had it renewed
 */
function nextAfter(
  challenge: Challenge,
  before: Challenge | undefined,
  { value, fresh, again = false }: AuthorizationHeader,
  cached: readonly (readonly [string, CachedHeader])[],
): NextHeader {
  // Gitea denies write access with a Basic challenge.
  if (challenge.scheme === 'basic') return value.startsWith('Bearer ') ? 'none' : 'another'
  // A token of another service may be accepted.
  if (before?.scheme !== 'bearer' || before.realm !== challenge.realm || before.service !== challenge.service)
    return 'another'
  if (challenge.error === 'insufficient_scope') return 'none'
  // A token that was accepted before, or fetched some time ago, may have expired.
  if (cached.length === 0 || cached.some(([, { accepted }]) => accepted)) return 'another'
  if (again || cached.some(([, { denied }]) => denied)) return 'none'
  // A registry may refuse a new token by mistake, once.
  return fresh ? 'same' : 'another'
}

interface Token {
  readonly header: string
  /** What it says itself, where it is no token but a user name and password. */
  readonly login?: Credential
  /** Milliseconds since 1970. */
  readonly expires: number
}

interface CachedHeader {
  readonly header: Promise<string | undefined>
  /** Once it is there. */
  token?: Token | undefined
  expires: number
  /** Whether the registry has accepted it. */
  accepted: boolean
  /** Whether it was refused for what it may do before any request was accepted. */
  denied: boolean
}

function cacheHeader(fetched: Promise<Token | undefined>): CachedHeader {
  const cached: CachedHeader = {
    expires: Number.POSITIVE_INFINITY,
    accepted: false,
    denied: false,
    header: fetched.then((token) => {
      cached.expires = token?.expires ?? Number.POSITIVE_INFINITY
      cached.token = token
      return token?.header
    }),
  }
  // A failure reaches those who wait for the header; the next one who asks tries again.
  cached.header.catch(() => {
    cached.expires = 0
  })
  return cached
}

/** Whether a user is known and a token service has not accepted what it was shown. */
function isRefusal(error: unknown): boolean {
  return error instanceof RegistryError && REFUSALS.has(error.problem)
}

const REFUSALS = new Set<RegistryProblem>(['wrong-credentials', 'refused-login', 'denied'])

/** The source of credentials knows how long one is good for, and is asked anew after so many milliseconds. */
const LOGIN_LIFETIME = 60_000

function basicHeader(credential: Credential | undefined, onSecret: (secret: string) => void): Token | undefined {
  if (credential?.kind !== 'password') return undefined
  const encoded = Buffer.from(`${credential.username}:${credential.password}`).toString('base64')
  onSecret(encoded)
  return { header: `Basic ${encoded}`, login: credential, expires: Date.now() + LOGIN_LIFETIME }
}

interface TokenCall {
  readonly http: Http
  readonly onSecret: (secret: string) => void
  readonly challenge: Challenge & { readonly scheme: 'bearer' }
  readonly registry: URL
  readonly credential: Credential | undefined
  readonly repository: Repository
  readonly access: Access
  /** Another repository, to read from. */
  readonly from: Repository | undefined
  /** Whether the service has given a token for these credentials before. */
  readonly accepted: boolean
}

const TOKEN_ANSWER = v.object({
  token: v.nullish(v.string()),
  access_token: v.nullish(v.string()),
  expires_in: v.nullish(v.number()),
})

const TOKEN_LIMIT = 1024 * 1024

/** Masking a shorter string, which may be an ordinary word, would garble the log. */
export const SHORTEST_TOKEN = 16

/**
 * Fetches a bearer token.
 * Source: https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/
 */
function fetchToken(call: TokenCall): Promise<Token> {
  return retryDoubtful(() => fetchTokenOnce(call), call.http)
}

async function fetchTokenOnce(call: TokenCall): Promise<Token> {
  const realm = realmOf(call)
  const asked = Date.now()
  const reply = (await exchangeIdentityToken(call, realm)) ?? (await getToken(call, realm))
  const answer = readJson(TOKEN_ANSWER, reply.content ?? '')
  const secret = answer.ok ? answer.value.token || answer.value.access_token : undefined
  if (!answer.ok || !secret) throw tokenError(call, realm, `the answer of ${realm.host} holds no token`)
  if (secret.length >= SHORTEST_TOKEN) call.onSecret(secret)
  // A token is given up a little early, so that none expires on its way.
  const lifetime = (answer.value.expires_in ?? 60) * 1000
  return { header: `Bearer ${secret}`, expires: asked + lifetime * 0.8 }
}

function realmOf({ challenge, registry, credential, repository }: TokenCall): URL {
  const { realm } = challenge
  const problem = realmProblem(realm, registry, credential !== undefined)
  if (problem === undefined) return new URL(realm)
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `${repository.host} asks to fetch a token from ${withoutQuery(realm)}, which is refused: ${problem}`,
    hint: `Ask the operator of ${repository.host} to correct the \`realm\` in its WWW-Authenticate header.`,
  })
}

/** A URL for a message. Its query, user name and password may be secret. */
function withoutQuery(text: string): string {
  if (!URL.canParse(text)) return `"${sanitizeLine(text.replace(/\?.*$/s, ''))}"`
  const { protocol, host, pathname } = new URL(text)
  return sanitizeLine(`${protocol}//${host}${pathname}`)
}

/** Nothing where there is no identity token, or where the service knows only the older way. */
async function exchangeIdentityToken(call: TokenCall, realm: URL): Promise<HttpSuccess | undefined> {
  const { credential, challenge, http } = call
  if (credential?.kind !== 'identity-token') return undefined
  const form = new URLSearchParams({
    grant_type: 'refresh_token',
    service: challenge.service ?? '',
    client_id: 'nix-image-action',
    scope: scopesOf(call).join(' '),
    refresh_token: credential.token,
  })
  const reply = await http.send({
    method: 'POST',
    url: realm,
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: Buffer.from(form.toString()),
    operation: operationOf(call),
    registry: call.registry,
    limit: TOKEN_LIMIT,
  })
  if (reply.ok) return reply
  if (reply.status === 404 || reply.status === 405) return undefined
  throw tokenError(call, realm, readErrorAnswer(reply.text).detail, reply)
}

async function getToken(call: TokenCall, realm: URL): Promise<HttpSuccess> {
  const { credential, challenge, http, onSecret, registry } = call
  const url = new URL(realm)
  if (challenge.service !== undefined) url.searchParams.set('service', challenge.service)
  for (const scope of scopesOf(call)) url.searchParams.append('scope', scope)
  const basic = basicHeader(credential, onSecret)
  const headers: Record<string, string> = basic === undefined ? {} : { authorization: basic.header }
  const reply = await http.send({
    method: 'GET',
    url,
    headers,
    operation: operationOf(call),
    registry,
    limit: TOKEN_LIMIT,
  })
  if (reply.ok) return reply
  throw tokenError(call, realm, readErrorAnswer(reply.text).detail, reply)
}

function scopesOf({ repository, access, from }: TokenCall): readonly string[] {
  const scope = `repository:${repository.path}:${access}`
  return from === undefined ? [scope] : [scope, `repository:${from.path}:pull`]
}

function operationOf({ repository }: TokenCall): string {
  return `get a token for ${formatRepository(repository)}`
}

function tokenError(call: TokenCall, realm: URL, detail: string, reply?: HttpFailure): RegistryError {
  const { repository, credential } = call
  const status = reply?.status
  const tries = reply?.tries === undefined ? '' : ` (${reply.tries})`
  const refused = status === 400 || status === 401 || status === 403
  const who = credential?.kind === 'password' ? `the user "${credential.username}"` : 'the stored identity token'
  const message = `Can't ${operationOf(call)}: `
  if (!refused)
    return new RegistryError({
      host: repository.host,
      problem: status === undefined ? 'doubtful' : status === 429 ? 'rate-limited' : 'other',
      status,
      message: `${message}${realm.host} gave none${status === undefined ? '' : `: it answered with status ${status}`}${tries}`,
      detail,
    })
  if (credential === undefined)
    return new RegistryError({
      host: repository.host,
      problem: 'no-credentials',
      status,
      message: `${message}${repository.host} wants a login, and there are no credentials for it`,
      detail,
    })
  const refusal = refusalOf(call, status)
  return new RegistryError({
    host: repository.host,
    problem: refusal,
    status,
    message: `${message}${repository.host} ${refusal === 'denied' ? `does not allow that to ${who}` : `does not accept the credentials of ${who}`}${refusal === 'refused-login' ? ', or they may not do this' : ''}`,
    detail,
  })
}

/** Returns what a refusal of a token service means. Some answer 403 to a wrong password as well. */
function refusalOf({ accepted }: TokenCall, status: number): RegistryProblem {
  if (accepted) return 'denied'
  return status === 403 ? 'refused-login' : 'wrong-credentials'
}
