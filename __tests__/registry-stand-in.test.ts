import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { get } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from '@jest/globals'
import { selfSigned } from './support/certificate.ts'
import { digestOf } from './support/digest.ts'
import { mediaTypes } from './support/registry/manifests.ts'
import {
  absent,
  acceptAll,
  basic,
  type Client,
  createClient,
  expectBody,
  layer,
  octets,
} from './support/registry/wire.ts'
import { type Fault, type RegistryOptions, startRegistry, type TestRegistry } from './support/registry.ts'

// The features of the stand-in that real registries lack. registry-contract.test.ts tests the features they share.

const account = { user: 'octocat', password: 'correct horse: battery' }

const cleanups: (() => Promise<unknown>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function start(options?: RegistryOptions): Promise<TestRegistry & Client> {
  const registry = await startRegistry(options)
  cleanups.push(registry.close)
  return { ...registry, ...createClient(() => `http://${registry.host}`) }
}

describe('its content', () => {
  test('contains everything that a client pushed', async () => {
    const registry = await start()
    const { bytes, digest, mediaType } = await registry.pushImage('app', mediaTypes.ociManifest, 'latest')
    expect([...registry.tags('app')]).toEqual([['latest', digest]])
    expect(registry.manifest('app', 'latest')).toEqual({ bytes, digest, mediaType })
    expect(registry.manifest('app', digest)).toEqual({ bytes, digest, mediaType })
    expect(await registry.blob('app', digestOf(layer))).toEqual(layer)
  })

  test('is empty at first', async () => {
    const registry = await start()
    expect(registry.tags('app').size).toBe(0)
    expect(registry.manifest('app', 'latest')).toBeUndefined()
    expect(await registry.blob('app', absent)).toBeUndefined()
  })

  test('serves what a test put there, even if a registry would refuse it', async () => {
    const registry = await start()
    const digest = await registry.seedBlob('app', layer)
    const nonsense = Buffer.from('nonsense')
    registry.seedManifest('app', nonsense, mediaTypes.ociIndex, 'latest')
    expectBody(await registry.request('GET', `/v2/app/blobs/${digest}`), 200, layer)
    expectBody(await registry.request('GET', '/v2/app/manifests/latest', acceptAll), 200, nonsense)
  })

  test('moves a tag without the client', async () => {
    const registry = await start()
    const first = await registry.pushImage('app', mediaTypes.ociManifest, 'latest')
    await registry.pushImage('app', mediaTypes.dockerManifest, 'latest')
    registry.seedTag('app', 'latest', first.digest)
    expectBody(await registry.request('GET', '/v2/app/manifests/latest', acceptAll), 200, first.bytes)
  })

  test('lists the requests with their counts, sizes and answers', async () => {
    const registry = await start()
    await registry.push('owner/app', layer)
    await registry.request('GET', '/v2/owner/app/manifests/latest', { headers: { authorization: 'Basic x' } })
    await registry.request('GET', '/v2/owner/app/manifests/latest')
    expect(registry.requests).toMatchObject([
      { method: 'POST', route: 'uploads', repository: 'owner/app', bodyBytes: 0, status: 202 },
      {
        method: 'PUT',
        route: 'upload',
        path: expect.stringContaining('&digest='),
        bodyBytes: layer.length,
        status: 201,
      },
      { route: 'manifest', reference: 'latest', authorization: 'Basic x', count: 1, status: 404 },
      { route: 'manifest', reference: 'latest', count: 2, status: 404 },
    ])
  })
})

describe('faults', () => {
  async function startWithBlob(fault: Fault): Promise<TestRegistry & Client & { readonly path: string }> {
    const registry = await start({ fault: ({ route }) => (route === 'blob' ? fault : undefined) })
    return { ...registry, path: `/v2/app/blobs/${await registry.seedBlob('app', layer)}` }
  }

  test('answers instead of the registry', async () => {
    const headers = { 'retry-after': '12.5ms', 'content-type': 'text/html' }
    const { request, path } = await startWithBlob({ kind: 'status', status: 429, body: '<p>slow down</p>', headers })
    const answer = await request('GET', path)
    expect(answer.status).toBe(429)
    expect(answer.body.toString()).toBe('<p>slow down</p>')
    expect(answer.headers.get('retry-after')).toBe('12.5ms')
  })

  test('can break one request of a route and let the next one through', async () => {
    const registry = await start({
      fault: ({ route, count }) => (route === 'manifest' && count === 1 ? { kind: 'status', status: 502 } : undefined),
    })
    registry.seedManifest('app', Buffer.from('{}'), mediaTypes.ociManifest, 'latest')
    expect(await registry.request('GET', '/v2/app/manifests/latest', acceptAll)).toMatchObject({ status: 502 })
    expect(await registry.request('GET', '/v2/app/manifests/latest', acceptAll)).toMatchObject({ status: 200 })
  })

  test('can be set and removed while it runs', async () => {
    const registry = await start()
    registry.setFault(() => ({ kind: 'status', status: 503 }))
    expect(await registry.request('GET', '/v2/')).toMatchObject({ status: 503 })
    registry.setFault(undefined)
    expect(await registry.request('GET', '/v2/')).toMatchObject({ status: 200 })
  })

  test('can reset the connection before the request takes effect', async () => {
    const registry = await start({ fault: ({ method }) => (method === 'PUT' ? { kind: 'reset' } : undefined) })
    const location = await registry.startUpload('app')
    await expect(registry.finishUpload(location, layer)).rejects.toThrow('fetch failed')
    expect(await registry.blob('app', digestOf(layer))).toBeUndefined()
    registry.setFault(undefined)
    expect(await registry.finishUpload(location, layer)).toMatchObject({ status: 201 })
  })

  test('can lose the answer after the request has taken effect', async () => {
    const registry = await start({ fault: ({ method }) => (method === 'PUT' ? { kind: 'lose' } : undefined) })
    await expect(registry.finishUpload(await registry.startUpload('app'), layer)).rejects.toThrow('fetch failed')
    expect(await registry.blob('app', digestOf(layer))).toEqual(layer)
  })

  test('can keep a client waiting until the registry is closed', async () => {
    const arrived = Promise.withResolvers<void>()
    const registry = await startRegistry({
      fault: () => {
        arrived.resolve()
        return { kind: 'hang' }
      },
    })
    const waiting = expect(fetch(`http://${registry.host}/v2/`)).rejects.toThrow('fetch failed')
    await arrived.promise
    await registry.close()
    await waiting
  })

  test('changes one byte', async () => {
    const { request, path } = await startWithBlob({ kind: 'corrupt' })
    const { body } = await request('GET', path)
    expect(body).toHaveLength(layer.length)
    expect([...body].filter((byte, at) => byte !== layer[at])).toHaveLength(1)
  })

  test('can break the connection in the middle of a body', async () => {
    const { host, path } = await startWithBlob({ kind: 'truncate' })
    const response = await fetch(`http://${host}${path}`)
    expect(response.headers.get('content-length')).toBe(String(layer.length))
    await expect(response.arrayBuffer()).rejects.toThrow('terminated')
  })

  test('changes and removes headers', async () => {
    const headers = { 'docker-content-digest': absent, etag: undefined }
    const { request, path } = await startWithBlob({ kind: 'headers', headers })
    const answer = await request('GET', path)
    expect(answer.body).toEqual(layer)
    expect(answer.headers.get('docker-content-digest')).toBe(absent)
    expect(answer.headers.has('etag')).toBe(false)
  })
})

describe('tokens', () => {
  const pull = 'service=test-registry&scope=repository:app:pull'
  const identified = { headers: { authorization: basic(account) } }

  async function tryToken({ request }: Client, body: Buffer, path = '/v2/app/blobs/uploads/'): Promise<number> {
    const { token, access_token } = JSON.parse(body.toString())
    const headers = { authorization: `Bearer ${token ?? access_token}` }
    return (await request(path.endsWith('/') ? 'POST' : 'GET', path, { headers })).status
  }

  test('issues none without valid credentials', async () => {
    const { request } = await start({ auth: { kind: 'bearer', ...account } })
    const headers = { authorization: basic({ user: account.user, password: 'wrong' }) }
    expect(await request('GET', `/token?${pull}`)).toMatchObject({ status: 401, codes: ['UNAUTHORIZED'] })
    expect(await request('GET', `/token?${pull}`, { headers })).toMatchObject({ status: 401 })
  })

  test('issues one for pulling without credentials, if configured', async () => {
    const registry = await start({ auth: { kind: 'bearer', ...account, anonymousPull: true } })
    await registry.seedBlob('app', layer)
    const { body } = await registry.request('GET', `/token?${pull},push`)
    expect(await tryToken(registry, body, `/v2/app/blobs/${digestOf(layer)}`)).toBe(200)
    expect(await tryToken(registry, body)).toBe(401)
  })

  test('grants no more than configured', async () => {
    const grants = (repository: string): boolean => repository !== 'app'
    const registry = await start({ auth: { kind: 'bearer', ...account, grants } })
    const { body } = await registry.request('GET', `/token?${pull},push`, identified)
    expect(await tryToken(registry, body)).toBe(401)
  })

  test('names the token field as configured, and its lifetime', async () => {
    const tokenField = 'access_token'
    const { request } = await start({ auth: { kind: 'bearer', ...account, tokenField, expiresIn: 300 } })
    const { body } = await request('GET', `/token?${pull}`, identified)
    expect(JSON.parse(body.toString())).toEqual({ access_token: expect.any(String), expires_in: 300 })
  })

  test('accepts no token that has expired', async () => {
    const registry = await start({ auth: { kind: 'bearer', ...account, expiresIn: 0 } })
    const { body } = await registry.request('GET', `/token?${pull},push`, identified)
    expect(await tryToken(registry, body)).toBe(401)
  })

  test('expires tokens when a test asks for it', async () => {
    const registry = await start({ auth: { kind: 'bearer', ...account } })
    const { body } = await registry.request('GET', `/token?${pull},push`, identified)
    expect(await tryToken(registry, body)).toBe(202)
    registry.expireTokens()
    expect(await tryToken(registry, body)).toBe(401)
  })

  test('exchanges an identity token for one, by POST', async () => {
    const registry = await start({ auth: { kind: 'bearer', ...account, identityToken: 'identity' } })
    const post = async (token: string) =>
      await registry.request('POST', '/token', {
        body: new TextEncoder().encode(
          `grant_type=refresh_token&client_id=test&refresh_token=${token}&service=test-registry&scope=repository:app:pull,push`,
        ),
      })
    expect(await tryToken(registry, (await post('identity')).body)).toBe(202)
    expect(await post('other')).toMatchObject({ status: 401 })
  })

  test('has no POST without identity tokens, like many realms', async () => {
    const { request } = await start({ auth: { kind: 'bearer', ...account } })
    expect(await request('POST', '/token')).toMatchObject({ status: 404 })
  })
})

describe('locations', () => {
  test('keeps blobs as files named by their digest, and nothing of a failed upload', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'registry-'))
    cleanups.push(() => rm(folder, { recursive: true }))
    const registry = await start({ folder })
    const digest = await registry.push('app', layer)
    await registry.push('other', layer)
    await registry.finishUpload(await registry.startUpload('app'), layer, absent)
    await registry.request('DELETE', await registry.startUpload('app'))
    await registry.startUpload('app')
    const range = await registry.request('GET', `/v2/app/blobs/${digest}`, { headers: { range: 'bytes=2-5' } })
    expect(range.body).toEqual(layer.subarray(2, 6))
    expect(await registry.blob('other', digest)).toEqual(layer)
    await registry.close()
    const [algorithm = '', hex = ''] = digest.split(':')
    expect(await readdir(join(folder, algorithm))).toEqual([hex])
    expect(await readFile(join(folder, algorithm, hex))).toEqual(layer)
    expect(await readdir(join(folder, 'incoming'))).toEqual([])
  })

  test('returns Locations without a host', async () => {
    const { startUpload, finishUpload } = await start({ relativeLocations: true })
    const location = await startUpload('app')
    expect(location).toMatch(/^\/v2\/app\/blobs\/uploads\//)
    expect(await finishUpload(location, layer)).toMatchObject({ status: 201 })
  })

  test('redirects uploads and downloads to a host without authentication', async () => {
    const { request, blob } = await start({ objectStore: true, auth: { kind: 'basic', ...account } })
    expect(await request('POST', '/v2/app/blobs/uploads/')).toMatchObject({ status: 401 })
    const known = { headers: { authorization: basic(account) } }
    const location = (await request('POST', '/v2/app/blobs/uploads/', known)).headers.get('location') ?? ''
    expect(new URL(location).hostname).toBe('localhost')
    const put = `${location}&digest=${digestOf(layer)}`
    expect(await request('PUT', put, { ...octets(layer), ...known })).toMatchObject({ status: 400 })
    expect(await request('PUT', put, octets(layer))).toMatchObject({ status: 201 })
    expect(await blob('app', digestOf(layer))).toEqual(layer)
    const download = await request('GET', `/v2/app/blobs/${digestOf(layer)}`, known)
    expect(download.status).toBe(307)
    expectBody(await request('GET', download.headers.get('location') ?? ''), 200, layer)
    expect(await request('GET', download.headers.get('location') ?? '', known)).toMatchObject({ status: 400 })
  })

  test('serves HTTPS', async () => {
    const tls = selfSigned()
    const registry = await start({ tls })
    const response = Promise.withResolvers<string>()
    get(`https://${registry.host}/v2/`, { ca: tls.cert }, (message) => response.resolve(text(message))).on(
      'error',
      response.reject,
    )
    expect(await response.promise).toBe('{}')
  })
})
