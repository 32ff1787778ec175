import { isDeepStrictEqual } from 'node:util'
import * as v from 'valibot'
import { oneLine } from '../failure.ts'
import { readJson } from '../json.ts'
import { printRepository, type Repository } from '../oci/reference.ts'
import type { Challenge } from './challenge.ts'
import type { Credential, CredentialSource } from './credentials.ts'
import type { Http, HttpFailure, HttpSuccess } from './http.ts'
import { realmProblem } from './realm.ts'
import { RegistryError, readErrorAnswer } from './registry-error.ts'
import { retryDoubtful } from './retry.ts'

/** What a request does to a repository. */
export type Access = 'pull' | 'pull,push' | 'delete'

/** Answers registries' challenges; however many requests wait for it, a token is fetched once. */
export interface Authorization {
  /** The `Authorization` header for a request, or none where the registry has asked for nothing. */
  header(repository: Repository, access: Access, from?: Repository): Promise<string | undefined>
  /**
   * Takes in what a registry asks for.
   * @param registry where it asked
   * @param refused the header that it did not accept, which is not used again
   */
  challenged(host: string, challenge: Challenge, registry: URL, refused?: string): void
}

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
    const call = { ...settings, challenge, registry, repository, access, from }
    try {
      return await fetchToken({ ...call, credential })
    } catch (error) {
      if (credential === undefined || !isRefusal(error)) throw error
      // A helper's answer may have expired since; any other credential is found as it was.
      const renewed = await settings.credentials(repository.host, credential)
      if (isDeepStrictEqual(renewed, credential)) throw error
      return fetchToken({ ...call, credential: renewed })
    }
  }

  return {
    header(repository, access, from) {
      const keyOf = (one: Access) => `${one} ${printRepository(repository)} ${from?.path ?? ''}`
      // Who may push may pull as well, and a token costs a round trip.
      const asked = access === 'pull' && headers.has(keyOf('pull,push')) ? 'pull,push' : access
      const key = keyOf(asked)
      const cached = headers.get(key)
      if (challenges.has(repository.host) && (cached === undefined || cached.expires <= Date.now())) {
        const fresh = cacheHeader(fetchHeader(repository, asked, from))
        headers.set(key, fresh)
        return fresh.header
      }
      return cached?.header ?? Promise.resolve(undefined)
    },
    challenged(host, challenge, registry, refused) {
      challenges.set(host, { challenge, registry })
      if (refused === undefined) return
      for (const [key, { token }] of headers) {
        if (token?.header !== refused) continue
        headers.delete(key)
        if (token.login !== undefined) refusedLogins.set(host, token.login)
      }
    },
  }
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
}

function cacheHeader(fetched: Promise<Token | undefined>): CachedHeader {
  const cached: CachedHeader = {
    expires: Number.POSITIVE_INFINITY,
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
  return error instanceof RegistryError && (error.problem === 'wrong-credentials' || error.problem === 'denied')
}

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
    what: `${repository.host} asks to fetch a token from ${withoutQuery(realm)}, which is refused: ${problem}`,
  })
}

/** A URL for a message. Its query, user name and password may be secret. */
function withoutQuery(text: string): string {
  if (!URL.canParse(text)) return `"${oneLine(text.replace(/\?.*$/s, ''))}"`
  const { protocol, host, pathname } = new URL(text)
  return oneLine(`${protocol}//${host}${pathname}`)
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
    purpose: purposeOf(call),
    registry: call.registry,
    limit: TOKEN_LIMIT,
  })
  if (reply.ok) return reply
  if (reply.status === 404 || reply.status === 405) return undefined
  throw tokenError(call, realm, readErrorAnswer(reply.text).words, reply)
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
    purpose: purposeOf(call),
    registry,
    limit: TOKEN_LIMIT,
  })
  if (reply.ok) return reply
  throw tokenError(call, realm, readErrorAnswer(reply.text).words, reply)
}

function scopesOf({ repository, access, from }: TokenCall): readonly string[] {
  const scope = `repository:${repository.path}:${access}`
  return from === undefined ? [scope] : [scope, `repository:${from.path}:pull`]
}

function purposeOf({ repository }: TokenCall): string {
  return `get a token for ${printRepository(repository)}`
}

function tokenError(call: TokenCall, realm: URL, words: string, reply?: HttpFailure): RegistryError {
  const { repository, credential } = call
  const status = reply?.status
  const tries = reply?.tries === undefined ? '' : ` (${reply.tries})`
  const refused = status === 400 || status === 401 || status === 403
  // A token service says 403 to a right password that lacks the right.
  const doubt = status === 403 ? ', or they may not do this' : ''
  const who = credential?.kind === 'password' ? `the user "${credential.username}"` : 'the stored identity token'
  const what = `Can't ${purposeOf(call)}: `
  if (!refused)
    return new RegistryError({
      host: repository.host,
      problem: status === undefined ? 'doubtful' : status === 429 ? 'rate-limited' : 'other',
      status,
      what: `${what}${realm.host} gave none${status === undefined ? '' : `: it answered with status ${status}`}${tries}`,
      words,
    })
  return credential === undefined
    ? new RegistryError({
        host: repository.host,
        problem: 'no-credentials',
        status,
        what: `${what}${repository.host} wants a login, and there are no credentials for it`,
        words,
      })
    : new RegistryError({
        host: repository.host,
        problem: status === 403 ? 'denied' : 'wrong-credentials',
        status,
        what: `${what}${repository.host} does not accept the credentials of ${who}${doubt}`,
        words,
      })
}
