import { Readable } from 'node:stream'
import { describe, expect, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import { digestOf } from '../../src/oci/reference.ts'
import type { Credential } from '../../src/registry/credentials.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import type { BearerAuth, FaultOf, TestRegistry } from '../support/registry.ts'
import { account, connect, failureOf, password } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])
const bearer: BearerAuth = { kind: 'bearer', ...account }
const wrong: Credential = { kind: 'password', username: account.user, password: 'wrong' }
const open = () => Readable.from([bytes], { objectMode: false })
const blob = { digest: digestOf(bytes), size: bytes.length, open }

/** Answers what writes with 401 and a Basic challenge, as Gitea, olareg and Cloudflare's registry do. */
const basicRefusal: FaultOf = ({ method, route, authorization }) =>
  /POST|PUT/.test(method) && route !== 'token' && authorization !== undefined
    ? { kind: 'status', status: 401, headers: { 'www-authenticate': 'Basic realm="Gitea Package API"' } }
    : undefined

function tokens({ requests }: TestRegistry): number {
  return requests.filter(({ route }) => route === 'token').length
}

describe('a login without write access is denied, but not called invalid,', () => {
  test('by a Basic challenge to a token, which stays in use', async () => {
    const { server, client } = await connect({ auth: bearer, fault: basicRefusal }, password)
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    const error = await failureOf(client.checkPush(client.repository))
    expect(error).toMatchObject({ problem: 'denied', status: 401 })
    expect(error.message).toContain('answered with status 401: access denied')
    expect(adviceFor(error)).toBe('Give the login write access to the repository.')
    expect(await client.getManifest(client.repository, 'latest')).toMatchObject({ bytes })
    expect(
      server.requests.some(({ route, authorization }) => route !== 'token' && /^Basic/.test(authorization ?? '')),
    ).toBe(false)
    expect(tokens(server)).toBe(1)
  })

  test('by a Basic challenge to a password that was accepted before', async () => {
    const { server, client } = await connect({ auth: { kind: 'basic', ...account }, fault: basicRefusal }, password)
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    await client.getManifest(client.repository, 'latest')
    const before = server.requests.length
    expect(await failureOf(client.checkPush(client.repository))).toMatchObject({ problem: 'denied', status: 401 })
    expect(server.requests.slice(before).map(({ method }) => method)).toEqual(['POST'])
  })

  test('by a Basic challenge to the first request with a password', async () => {
    const { server, client } = await connect({ auth: { kind: 'basic', ...account }, fault: basicRefusal }, password)
    server.setFault((request) =>
      request.route === 'base' && request.authorization === undefined
        ? { kind: 'status', status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } }
        : basicRefusal(request),
    )
    expect(await failureOf(client.checkPush(client.repository))).toMatchObject({ problem: 'denied', status: 401 })
    expect(server.requests.map(({ method, route }) => `${method} ${route}`)).toEqual([
      'GET base',
      'POST uploads',
      'GET base',
    ])
  })

  test('when a blob is sent, without sending it twice', async () => {
    const auth: BearerAuth = { ...bearer, grants: (_, action) => action === 'pull' }
    const { server, client } = await connect({ auth }, password)
    expect(await failureOf(client.putBlob(client.repository, blob))).toMatchObject({ problem: 'denied', status: 401 })
    expect(server.requests.map(({ method, route }) => `${method} ${route}`)).toEqual([
      'GET base',
      'GET token',
      'POST uploads',
    ])
  })
})

test('a wrong password is reported as invalid', async () => {
  const { client } = await connect({ auth: { kind: 'basic', ...account } }, wrong)
  expect(await failureOf(client.checkPush(client.repository))).toMatchObject({ problem: 'wrong-credentials' })
})

describe('a token', () => {
  /** Refuses some tokens, with a challenge that may name an error. */
  function refusing(error: string, method: string): FaultOf {
    return (request) => {
      if (request.method !== method || request.route === 'token' || request.authorization === undefined)
        return undefined
      const challenge = `Bearer realm="http://${request.headers.host}/token",service="test-registry"${error}`
      return { kind: 'status', status: 401, headers: { 'www-authenticate': challenge } }
    }
  }

  test.each([
    ['', 4],
    [',error="insufficient_scope"', 3],
  ])('that was fetched for a request and refused is not fetched again (%s)', async (error, requests) => {
    const { server, client } = await connect({ auth: bearer, fault: refusing(error, 'POST') }, password)
    for (let count = 0; count < 3; count++)
      expect(await failureOf(client.checkPush(client.repository))).toMatchObject({ problem: 'denied' })
    expect(tokens(server)).toBe(1)
    expect(server.requests.filter(({ method }) => method === 'POST')).toHaveLength(requests)
  })

  test('that was accepted for reading and lacks the scope for writing is not fetched again', async () => {
    const auth: BearerAuth = { ...bearer, grants: (_, action) => action === 'pull' }
    const { server, client } = await connect({ auth }, password)
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    const checking = failureOf(client.checkPush(client.repository))
    expect(await client.getManifest(client.repository, 'latest')).toMatchObject({ bytes })
    expect(await checking).toMatchObject({ problem: 'denied' })
    await failureOf(client.checkPush(client.repository))
    expect(tokens(server)).toBe(1)
  })

  test('that is new and was refused once, by mistake, is sent again', async () => {
    const { server, client } = await connect({ auth: bearer }, password)
    server.setFault((request) => (request.count === 1 ? refusing('', 'POST')(request) : undefined))
    await client.checkPush(client.repository)
    expect(tokens(server)).toBe(1)
  })

  test('that was accepted and has expired since is fetched again', async () => {
    const { server, client } = await connect({ auth: bearer }, password)
    await client.checkPush(client.repository)
    server.expireTokens()
    await client.checkPush(client.repository)
    expect(tokens(server)).toBe(2)
  })

  test('is fetched again if the registry names another service for the repository', async () => {
    const { server, client } = await connect({ auth: bearer }, password)
    const seen: string[] = []
    server.setFault((request) => {
      if (request.route === 'base')
        return {
          kind: 'status',
          status: 401,
          headers: { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token",service="other"` },
        }
      const service =
        request.route === 'token' ? (new URL(request.path, 'http://x').searchParams.get('service') ?? '') : ''
      if (service !== '') seen.push(service)
      return service === 'other' ? { kind: 'status', status: 200, body: '{"token":"of-the-other-service"}' } : undefined
    })
    await client.checkPush(client.repository)
    expect(seen).toEqual(['other', 'test-registry'])
  })
})
