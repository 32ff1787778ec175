import { randomUUID } from 'node:crypto'
import { type Reply, readAll, refuse, replyJson, replyText } from './reply.ts'

export interface BasicAuth {
  readonly kind: 'basic'
  readonly user: string
  readonly password: string
}

/** Docker's token authentication (distribution/docs/spec/auth/token.md and oauth.md). */
export interface BearerAuth extends Account {
  readonly kind: 'bearer'
}

/** The rules for issuing tokens. */
export interface Account {
  readonly user: string
  readonly password: string
  /**
   * The token that `POST grant_type=refresh_token` accepts. Without it, the realm does not support `POST`, like many
   * realms.
   */
  readonly identityToken?: string
  /** In seconds. Without it, the answer omits it, which means 60. */
  readonly expiresIn?: number
  /** Whether anonymous clients get a token to pull. */
  readonly anonymousPull?: boolean
  /** The field of the answer to a `GET` that contains the token. The default is `token`. */
  readonly tokenField?: 'token' | 'access_token'
  /** Selects the granted actions from the requested ones; by default all. A realm may grant fewer without saying so. */
  readonly grants?: (repository: string, action: string) => boolean
}

export interface Access {
  readonly repository: string
  readonly actions: readonly string[]
}

export interface Guard {
  /** Returns the answer to an unauthorized request, and undefined for an authorized one. */
  readonly check: (authorization: string | undefined, needs: readonly Access[]) => Reply | undefined
  readonly answerTokenRequest: (request: TokenRequest) => Promise<Reply>
  /** Makes all tokens that were issued so far expire. */
  readonly expireTokens: () => void
}

export interface TokenRequest {
  readonly method: string
  readonly query: URLSearchParams
  readonly authorization?: string | undefined
  readonly body: AsyncIterable<Buffer>
}

export const tokenService = 'test-registry'

/** Accepts everyone, or requests with the password, or requests with a token of `realm`. */
export function createGuard(auth: BasicAuth | BearerAuth | undefined, realm: string): Guard {
  const withoutTokens = { answerTokenRequest: async () => replyText(404, '404 page not found'), expireTokens: () => {} }
  if (auth === undefined) return { check: () => undefined, ...withoutTokens }
  if (auth.kind === 'bearer') return createTokenGuard(auth, realm)
  const check = (authorization: string | undefined): Reply | undefined =>
    isBasic(authorization, auth) ? undefined : unauthorized('Basic realm="test registry"')
  return { check, ...withoutTokens }
}

/** The actions that a request needs, in the terms of Docker Distribution's app.go. */
export function needsOf(method: string, repository: string, query: URLSearchParams): readonly Access[] {
  if (repository === '') return []
  const from = query.get('from')
  const mounted = from === null || from === '' ? [] : [{ repository: from, actions: ['pull'] }]
  return [{ repository, actions: actionsOf(method) }, ...mounted]
}

/** The answer of a token realm; `issue` creates the token. */
export async function answerTokenRequest(
  account: Account,
  request: TokenRequest,
  issue: (access: readonly Access[]) => string,
): Promise<Reply> {
  if (request.method === 'POST') return await answerRefresh(account, request, issue)
  if (request.method !== 'GET') return replyText(405, 'Method not allowed')
  const known = isBasic(request.authorization, account)
  const anonymous = request.authorization === undefined && account.anonymousPull === true
  if (!known && !anonymous) return unauthorized('Basic realm="test registry tokens"')
  const access = granted(account, request.query.getAll('scope'), known)
  return replyJson(200, { [account.tokenField ?? 'token']: issue(access), expires_in: account.expiresIn })
}

function createTokenGuard(account: Account, realm: string): Guard {
  const tokens = new Map<string, { readonly access: readonly Access[]; readonly expires: number }>()
  const issue = (access: readonly Access[]): string => {
    const token = randomUUID()
    tokens.set(token, { access, expires: Date.now() + (account.expiresIn ?? 60) * 1000 })
    return token
  }
  const check = (authorization: string | undefined, needs: readonly Access[]): Reply | undefined => {
    const text = authorization?.match(/^Bearer (.+)$/i)?.[1]
    const challenge = `Bearer realm="${realm}",service="${tokenService}"${scopeOf(needs)}`
    if (text === undefined) return unauthorized(challenge, needs)
    const token = tokens.get(text)
    if (token === undefined || token.expires <= Date.now())
      return unauthorized(`${challenge},error="invalid_token"`, needs)
    if (!allows(token.access, needs)) return unauthorized(`${challenge},error="insufficient_scope"`, needs)
    return undefined
  }
  return {
    check,
    answerTokenRequest: (request) => answerTokenRequest(account, request, issue),
    expireTokens: () => tokens.clear(),
  }
}

async function answerRefresh(
  account: Account,
  request: TokenRequest,
  issue: (access: readonly Access[]) => string,
): Promise<Reply> {
  if (account.identityToken === undefined) return replyText(404, '404 page not found')
  const form = new URLSearchParams((await readAll(request.body)).toString())
  if (form.get('grant_type') !== 'refresh_token') return replyJson(400, { error: 'unsupported_grant_type' })
  if (form.get('service') === null || form.get('client_id') === null)
    return replyJson(400, { error: 'invalid_request' })
  if (form.get('refresh_token') !== account.identityToken) return replyJson(401, { error: 'invalid_grant' })
  const token = issue(granted(account, form.getAll('scope'), true))
  return replyJson(200, { access_token: token, expires_in: account.expiresIn })
}

function granted(account: Account, scopes: readonly string[], known: boolean): readonly Access[] {
  const allowed = (repository: string, action: string): boolean =>
    (known || action === 'pull') && (account.grants?.(repository, action) ?? true)
  return parseScopes(scopes).map(({ repository, actions }) => ({
    repository,
    actions: actions.filter((action) => allowed(repository, action)),
  }))
}

/** `repository:owner/app:pull,push`. Several scopes are separate parameters, or separated by spaces. */
function parseScopes(scopes: readonly string[]): readonly Access[] {
  return scopes
    .flatMap((text) => text.split(' '))
    .flatMap((scope) => {
      const [, repository, actions] = scope.match(/^repository:(.+):([^:]+)$/) ?? []
      return repository === undefined || actions === undefined ? [] : [{ repository, actions: actions.split(',') }]
    })
}

function allows(access: readonly Access[], needs: readonly Access[]): boolean {
  return needs.every(({ repository, actions }) =>
    actions.every((action) => access.some((one) => one.repository === repository && one.actions.includes(action))),
  )
}

function actionsOf(method: string): readonly string[] {
  if (method === 'GET' || method === 'HEAD') return ['pull']
  return method === 'DELETE' ? ['delete'] : ['pull', 'push']
}

function scopeOf(needs: readonly Access[]): string {
  const scopes = needs.map(({ repository, actions }) => `repository:${repository}:${actions.join(',')}`)
  return scopes.length === 0 ? '' : `,scope="${scopes.join(' ')}"`
}

function unauthorized(challenge: string, needs: readonly Access[] = []): Reply {
  const detail = needs.flatMap(({ repository, actions }) =>
    actions.map((action) => ({ Type: 'repository', Class: '', Name: repository, Action: action })),
  )
  const refused = refuse(401, { code: 'UNAUTHORIZED', detail: detail.length === 0 ? null : detail })
  return { ...refused, headers: { ...refused.headers, 'www-authenticate': challenge } }
}

function isBasic(authorization: string | undefined, { user, password }: Pick<Account, 'user' | 'password'>): boolean {
  const encoded = authorization?.match(/^Basic (.+)$/i)?.[1] ?? ''
  return Buffer.from(encoded, 'base64').toString() === `${user}:${password}`
}
