import * as v from 'valibot'
import type { Http } from '../http/client.ts'
import { readErrorAnswer } from '../http/http-error.ts'
import type { HttpFailure, HttpSuccess } from '../http/messages.ts'
import { readJson } from '../json.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import { sanitizeLine } from '../text.ts'
import { type Challenge, realmProblem } from './challenge.ts'
import { type Credential, isTokenLogin } from './credentials.ts'
import { RegistryError, type RegistryProblem, retryDoubtful } from './registry-error.ts'

/** The action of a request on a repository, as in the scope of a token. */
export type Access = 'pull' | 'pull,push' | 'delete'

/** A bearer token. */
export interface Token {
  /** The value of the `Authorization` header. */
  readonly header: string
  /** In milliseconds since 1970. */
  readonly expires: number
}

/** A request for a token. */
export interface TokenCall {
  readonly http: Http
  readonly onSecret: (secret: string) => void
  readonly challenge: Challenge & { readonly scheme: 'bearer' }
  /** The base URL of the registry that sent the challenge. */
  readonly registry: URL
  readonly credential: Credential | undefined
  readonly repository: Repository
  readonly access: Access
  /** Another repository of the same registry, to be read. */
  readonly from: Repository | undefined
  /** Whether the credentials have been accepted before. */
  readonly accepted: boolean
}

const TOKEN_ANSWER = v.object({
  token: v.nullish(v.string()),
  access_token: v.nullish(v.string()),
  expires_in: v.nullish(v.number()),
})

const TOKEN_LIMIT = 1024 * 1024

/** The length from which tokens are masked. A shorter one may be an ordinary word, which would garble the log. */
export const SHORTEST_TOKEN = 16

/**
 * Fetches a bearer token.
 * Source: https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/
 */
export function fetchToken(call: TokenCall): Promise<Token> {
  return retryDoubtful(() => fetchTokenOnce(call), call.http)
}

async function fetchTokenOnce(call: TokenCall): Promise<Token> {
  const realm = realmOf(call)
  const asked = Date.now()
  const reply = (await exchangeIdentityToken(call, realm)) ?? (await getToken(call, realm))
  const answer = readJson(TOKEN_ANSWER, reply.content ?? '')
  const secret = answer.ok ? answer.value.token || answer.value.access_token : undefined
  if (!answer.ok || !secret) throw tokenError(call, realm, '')
  if (secret.length >= SHORTEST_TOKEN) call.onSecret(secret)
  // Renewed early, so that no token expires in transit.
  const lifetime = (answer.value.expires_in ?? 60) * 1000
  return { header: `Bearer ${secret}`, expires: asked + lifetime * 0.8 }
}

function realmOf({ challenge, registry, credential, repository }: TokenCall): URL {
  const { realm } = challenge
  const problem =
    realmProblem(realm, registry, credential !== undefined) ??
    (isTokenLogin(credential) ? foreignRealmProblem(realm, registry) : undefined)
  if (problem === undefined) return new URL(realm)
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `Can't get a token from ${formatRealm(realm)}, the realm that ${repository.host} specifies: ${problem}`,
    hint: `Ask the operator of ${repository.host} to correct the \`realm\` in its WWW-Authenticate header.`,
  })
}

/** A login that is not configured goes only to the registry itself, while others may go to its token service. */
function foreignRealmProblem(realm: string, registry: URL): string | undefined {
  if (new URL(realm).origin === registry.origin) return undefined
  return `no login for ${registry.host} is configured, and \`token\` is sent only to ${registry.host} itself`
}

/** Formats a URL for a message, without its query, user name and password, which may be secret. */
function formatRealm(text: string): string {
  if (!URL.canParse(text)) return `"${sanitizeLine(text.replace(/\?.*$/s, ''))}"`
  const { protocol, host, pathname } = new URL(text)
  return sanitizeLine(`${protocol}//${host}${pathname}`)
}

/** Returns undefined if there is no identity token, or if the service supports only GET. */
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
    operation: tokenOperation(call),
    initiator: call.registry,
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
  const basic = encodeBasic(credential, onSecret)
  const headers: Record<string, string> = basic === undefined ? {} : { authorization: basic }
  const reply = await http.send({
    method: 'GET',
    url,
    headers,
    operation: tokenOperation(call),
    initiator: registry,
    limit: TOKEN_LIMIT,
  })
  if (reply.ok) return reply
  throw tokenError(call, realm, readErrorAnswer(reply.text).detail, reply)
}

function scopesOf({ repository, access, from }: TokenCall): readonly string[] {
  const scope = `repository:${repository.path}:${access}`
  return from === undefined ? [scope] : [scope, `repository:${from.path}:pull`]
}

function tokenOperation({ repository }: TokenCall): string {
  return `get a token for ${formatRepository(repository)}`
}

/** Returns the error of an answer without a token. @param detail the message of the service */
function tokenError(call: TokenCall, realm: URL, detail: string, reply?: HttpFailure): RegistryError {
  const { host } = call.repository
  const status = reply?.status
  const error = (problem: RegistryProblem, reason: string) =>
    new RegistryError({ host, problem, status, message: `Can't ${tokenOperation(call)}: ${reason}`, detail })
  if (status === undefined) return error('doubtful', `the answer of ${realm.host} contains no token`)
  if (status !== 400 && status !== 401 && status !== 403) {
    const tries = reply?.tries === undefined ? '' : ` (${reply.tries})`
    return error(status === 429 ? 'rate-limited' : 'other', `${realm.host} answered with status ${status}${tries}`)
  }
  return error(...loginRefusal(call, status))
}

/** Explains a refusal by a token service. Some services answer with status 403 to a wrong password as well. */
function loginRefusal({ repository, credential, accepted }: TokenCall, status: number): [RegistryProblem, string] {
  const { host } = repository
  if (credential === undefined)
    return ['no-credentials', `authentication required, but no credentials were found for ${host}`]
  const login = credential.kind === 'password' ? `the user "${credential.username}"` : 'the stored identity token'
  if (isTokenLogin(credential) && !accepted)
    return ['refused-token', `${host} refused \`token\`, which is used because no login for ${host} is configured`]
  if (accepted) return ['denied', `${host} denied access to ${login}`]
  const refused = `${host} did not accept the credentials of ${login}`
  return status === 403
    ? ['refused-login', `${refused}, or they have no access to the repository`]
    : ['wrong-credentials', refused]
}

/** Reports whether credentials were sent, and the token service refused them or denied access. */
export function isLoginRefusal(error: unknown): boolean {
  return error instanceof RegistryError && LOGIN_REFUSALS.has(error.problem)
}

const LOGIN_REFUSALS = new Set<RegistryProblem>(['wrong-credentials', 'refused-login', 'denied'])

/** Returns the header of Basic authentication, if the credential is a password. */
export function encodeBasic(
  credential: Credential | undefined,
  onSecret: (secret: string) => void = () => undefined,
): string | undefined {
  if (credential?.kind !== 'password') return undefined
  const encoded = Buffer.from(`${credential.username}:${credential.password}`).toString('base64')
  onSecret(encoded)
  return `Basic ${encoded}`
}
