import { isDeepStrictEqual } from 'node:util'
import type { Http } from '../http/client.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import type { Challenge } from './challenge.ts'
import { type Credential, type CredentialSource, isTokenLogin } from './credentials.ts'
import { RegistryError } from './registry-error.ts'
import { type Access, encodeBasic, fetchToken, isLoginRefusal, type Token } from './token.ts'

/** Answers the challenges of registries. Each token is fetched once, however many requests wait for it. */
export interface Authorization {
  /** Returns the `Authorization` header of a request, or undefined if the registry has not asked for one. */
  header(repository: Repository, access: Access, from?: Repository): Promise<AuthorizationHeader | undefined>
  /** Returns the header of an earlier request, without fetching a token. */
  cachedHeader(repository: Repository, access: Access, from?: Repository): string | undefined
  /**
   * Handles a challenge.
   * @param registry the base URL of the registry
   * @param refused the header that the registry did not accept
   * @returns the header that may be accepted next, `none` if access was denied
   */
  challenged(host: string, challenge: Challenge, registry: URL, refused?: AuthorizationHeader): NextHeader
  /** Notes that a registry has accepted a header. */
  accepted(host: string, header: string): void
  /** Reports whether there are credentials for a repository, and whether they have been accepted. */
  loginState(repository: Repository): Promise<LoginState>
}

/** `unknown` means that there are credentials, which neither the registry nor its token service has accepted so far. */
export type LoginState = 'none' | 'accepted' | 'unknown'

export interface AuthorizationHeader {
  readonly value: string
  /** Whether it was fetched for this request. */
  readonly fresh: boolean
  /** Whether the request is sent with it for the second time. */
  readonly again?: boolean
}

/** The header with which to repeat a refused request. */
export type NextHeader = 'none' | 'same' | 'another'

export interface RegistrySettings {
  readonly http: Http
  readonly credentials: CredentialSource
  /** Called with each secret, including tokens, before it is used, so that it can be masked. */
  readonly onSecret: (secret: string) => void
}

/** How long credentials are kept, in milliseconds. The tokens of credential helpers may live for minutes only. */
const CREDENTIAL_LIFETIME = 5 * 60_000

/** A token, and how the registry has answered requests with it. */
interface CachedToken extends Token {
  accepted: boolean
  /** Whether it was refused before any request with it was accepted. */
  denied: boolean
}

export function createAuthorization({ http, credentials, onSecret }: RegistrySettings): Authorization {
  const challenges = new Map<string, { readonly challenge: Challenge; readonly registry: URL }>()
  const tokens = createExpiringCache<CachedToken>()
  const logins = createExpiringCache<Credential | undefined>()
  const acceptedLogins = new Set<string>()

  function loginOf(repository: Repository): Promise<Credential | undefined> {
    return logins.get(formatRepository(repository), async () => ({
      value: await credentials(repository),
      expires: Date.now() + CREDENTIAL_LIFETIME,
    }))
  }

  /** Fetches a token. If the credentials are refused, they may have expired, so they are looked up once more. */
  async function fetchWithLogin(
    { repository, access, from }: TokenScope,
    challenge: Challenge & { readonly scheme: 'bearer' },
    registry: URL,
  ): Promise<Token> {
    const { host } = repository
    const fetchWith = async (credential: Credential | undefined): Promise<Token> => {
      const accepted = credential !== undefined && acceptedLogins.has(loginKey(host, credential))
      const call = { http, onSecret, challenge, registry, repository, access, from, credential, accepted }
      const token = await fetchToken(call)
      if (credential !== undefined) acceptedLogins.add(loginKey(host, credential))
      return token
    }
    const credential = await loginOf(repository)
    if (access === 'pull' && isTokenLogin(credential)) {
      const anonymous = await fetchWith(undefined).catch(ignoreMissingLogin)
      if (anonymous !== undefined) return anonymous
    }
    try {
      return await fetchWith(credential)
    } catch (error) {
      if (credential === undefined || !isLoginRefusal(error)) throw error
      logins.delete((login) => login === credential)
      const renewed = await loginOf(repository)
      if (isDeepStrictEqual(renewed, credential)) throw error
      return fetchWith(renewed)
    }
  }

  /** Widens a scope for pulling if there is a token for pushing, because fetching another token costs a round trip. */
  function widen(scope: TokenScope): TokenScope {
    const push: TokenScope = { ...scope, access: 'pull,push' }
    return scope.access === 'pull' && tokens.has(tokenKey(push)) ? push : scope
  }

  async function tokenFor(
    scope: TokenScope,
    challenge: Challenge & { readonly scheme: 'bearer' },
    registry: URL,
  ): Promise<AuthorizationHeader> {
    const wanted = widen(scope)
    const known = tokens.peek(tokenKey(wanted))
    if (known !== undefined) return { value: known.header, fresh: false }
    const token = await tokens.get(tokenKey(wanted), async () => {
      const fetched = await fetchWithLogin(wanted, challenge, registry)
      return { value: { ...fetched, accepted: false, denied: false }, expires: fetched.expires }
    })
    return { value: token.header, fresh: true }
  }

  return {
    async header(repository, access, from) {
      const asked = challenges.get(repository.host)
      if (asked === undefined) return undefined
      const { challenge, registry } = asked
      if (challenge.scheme === 'bearer') return tokenFor({ repository, access, from }, challenge, registry)
      const value = encodeBasic(await loginOf(repository), onSecret)
      return value === undefined ? undefined : { value, fresh: false }
    },
    cachedHeader(repository, access, from) {
      if (challenges.get(repository.host)?.challenge.scheme === 'basic')
        return encodeBasic(logins.peek(formatRepository(repository)), onSecret)
      return tokens.peek(tokenKey(widen({ repository, access, from })))?.header
    },
    challenged(host, challenge, registry, refused) {
      if (refused === undefined) {
        challenges.set(host, { challenge, registry })
        return 'another'
      }
      const sent = tokens.values().filter(({ header }) => header === refused.value)
      const next = nextAfter(challenge, challenges.get(host)?.challenge, refused, sent)
      if (next === 'none') for (const token of sent) token.denied = !token.accepted
      if (next !== 'another') return next
      challenges.set(host, { challenge, registry })
      tokens.delete(({ header }) => header === refused.value)
      logins.delete((login) => encodeBasic(login) === refused.value)
      return next
    },
    accepted(host, header) {
      for (const token of tokens.values()) if (token.header === header) token.accepted = true
      for (const login of logins.values())
        if (login !== undefined && encodeBasic(login) === header) acceptedLogins.add(loginKey(host, login))
    },
    async loginState(repository) {
      const login = await loginOf(repository)
      if (login === undefined) return 'none'
      return acceptedLogins.has(loginKey(repository.host, login)) ? 'accepted' : 'unknown'
    },
  }
}

/**
 * A login that is not configured is used for reading only if that requires one. A job's token may have no access to
 * packages, with which GHCR refuses to read even public ones.
 */
function ignoreMissingLogin(error: unknown): undefined {
  if (!(error instanceof RegistryError) || error.problem !== 'no-credentials') throw error
}

interface TokenScope {
  readonly repository: Repository
  readonly access: Access
  /** Another repository of the same registry, to be read. */
  readonly from: Repository | undefined
}

function tokenKey({ repository, access, from }: TokenScope): string {
  return `${access} ${formatRepository(repository)} ${from?.path ?? ''}`
}

function loginKey(host: string, credential: Credential): string {
  return JSON.stringify([host, credential])
}

/**
 * Decides how to repeat a refused request. A token that lacks permissions is not fetched again.
 * @param before the last challenge of the registry
 * @param tokens the cached tokens with the refused header; none if another request has renewed it
 */
function nextAfter(
  challenge: Challenge,
  before: Challenge | undefined,
  { value, fresh, again = false }: AuthorizationHeader,
  tokens: readonly CachedToken[],
): NextHeader {
  // Gitea denies write access with a Basic challenge.
  if (challenge.scheme === 'basic') return value.startsWith('Bearer ') ? 'none' : 'another'
  // A token of another service may be accepted.
  if (before?.scheme !== 'bearer' || before.realm !== challenge.realm || before.service !== challenge.service)
    return 'another'
  if (challenge.error === 'insufficient_scope') return 'none'
  // A token that was accepted before, or fetched for another request, may have expired.
  if (tokens.length === 0 || tokens.some(({ accepted }) => accepted)) return 'another'
  if (again || tokens.some(({ denied }) => denied)) return 'none'
  // A registry may refuse a new token once by mistake.
  return fresh ? 'same' : 'another'
}

/** A cache of values that expire. Concurrent requests for a key share one fetch; failures are not cached. */
export interface ExpiringCache<Value> {
  /** Returns the value of a key, fetching it if necessary. */
  get(key: string, fetch: () => Promise<Expiring<Value>>): Promise<Value>
  /** Returns the value of a key if it has been fetched and has not expired. */
  peek(key: string): Value | undefined
  /** Reports whether a key has a value that has not expired, or one that is being fetched. */
  has(key: string): boolean
  /** Returns the values that have been fetched, including those that have expired. */
  values(): readonly Value[]
  delete(condition: (value: Value) => boolean): void
}

export interface Expiring<Value> {
  readonly value: Value
  /** In milliseconds since 1970. */
  readonly expires: number
}

interface Entry<Value> {
  readonly pending: Promise<Value>
  /** Undefined while the value is being fetched. */
  fetched?: Expiring<Value>
}

export function createExpiringCache<Value>(): ExpiringCache<Value> {
  const entries = new Map<string, Entry<Value>>()

  function current(key: string): Entry<Value> | undefined {
    const entry = entries.get(key)
    return entry?.fetched === undefined || entry.fetched.expires > Date.now() ? entry : undefined
  }

  return {
    get(key, fetch) {
      const known = current(key)
      if (known !== undefined) return known.pending
      const entry: Entry<Value> = {
        pending: fetch().then((fetched) => {
          entry.fetched = fetched
          return fetched.value
        }),
      }
      entries.set(key, entry)
      entry.pending.catch(() => entries.get(key) === entry && entries.delete(key))
      return entry.pending
    },
    peek: (key) => current(key)?.fetched?.value,
    has: (key) => current(key) !== undefined,
    values: () => [...entries.values()].flatMap(({ fetched }) => (fetched === undefined ? [] : [fetched.value])),
    delete(condition) {
      for (const [key, { fetched }] of entries)
        if (fetched !== undefined && condition(fetched.value)) entries.delete(key)
    },
  }
}
