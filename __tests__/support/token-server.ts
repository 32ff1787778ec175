import { randomUUID, sign, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Certified, selfSigned } from './certificate.ts'
import { type Access, type Account, answerTokenRequest, tokenService } from './registry/authorization.ts'
import { readAll } from './registry/reply.ts'

export interface TokenServer {
  /** The URL of the token endpoint. */
  readonly realm: string
  readonly service: string
  readonly issuer: string
  /** The certificate that a registry must trust, in PEM format. */
  readonly certificate: string
  readonly close: () => Promise<void>
}

/**
 * A token realm for a registry in a separate process. The tokens are signed JWTs, as Docker Distribution accepts them
 * (distribution/docs/spec/auth/jwt.md), with the certificate of the key in `x5c`.
 */
export async function startTokenServer(account: Account): Promise<TokenServer> {
  const certified = selfSigned()
  const issue = (access: readonly Access[]): string => signToken(access, account, certified)
  const server = createServer((request, response) => void serve(account, issue, request, response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    realm: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`,
    service: tokenService,
    issuer,
    certificate: certified.cert,
    close: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

const issuer = 'test token server'

async function serve(
  account: Account,
  issue: (access: readonly Access[]) => string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { method = '', headers, url = '/' } = request
  const query = new URL(url, 'http://localhost').searchParams
  const { authorization } = headers
  const answer = await answerTokenRequest(account, { method, query, authorization, body: request }, issue)
  response.writeHead(answer.status, answer.headers)
  response.end(answer.body && (await readAll(answer.body.open())))
}

function signToken(access: readonly Access[], { user, expiresIn = 60 }: Account, { key, cert }: Certified): string {
  const now = Math.floor(Date.now() / 1000)
  const header = { typ: 'JWT', alg: 'ES256', x5c: [new X509Certificate(cert).raw.toString('base64')] }
  const claims = {
    iss: issuer,
    sub: user,
    aud: tokenService,
    iat: now,
    nbf: now - 60,
    exp: now + expiresIn,
    jti: randomUUID(),
    access: access.map(({ repository, actions }) => ({ type: 'repository', name: repository, actions })),
  }
  const text = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  const signature = sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
  return `${text}.${signature.toString('base64url')}`
}
