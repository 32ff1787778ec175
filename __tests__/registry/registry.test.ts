import { Readable } from 'node:stream'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import { reportSilence, startActivity } from '../../src/log.ts'
import { type Digest, digestOf } from '../../src/oci/reference.ts'
import { selfSigned } from '../support/certificate.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import type { Fault, FaultOf, RegistryOptions, RouteName } from '../support/registry.ts'
import { account, afterwards, connect, failureOf, password, start, until } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])
const digest = digestOf(bytes)
const notInRegistry = digestOf(Buffer.from('never pushed'))

function faultOn(name: RouteName, fault: Fault): FaultOf {
  return ({ route }) => (route === name ? fault : undefined)
}

async function connectWithIndex(options?: RegistryOptions) {
  const { server, client } = await connect(options)
  server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
  return { server, client, get: (reference: string) => client.getManifest(client.repository, reference) }
}

describe('a manifest', () => {
  test.each([
    ['latest', { etag: `"${digest}"` }],
    [digest, {}],
  ])('is read by %s, byte for byte', async (reference, more) => {
    const { get } = await connectWithIndex()
    expect(await get(reference)).toEqual({ bytes, digest, mediaType: mediaTypes.ociIndex, ...more })
  })

  test('is read in each type that an image may have', async () => {
    const { server, client } = await connect()
    for (const mediaType of Object.values(mediaTypes)) {
      const seeded = server.seedManifest('app', Buffer.from(JSON.stringify({ mediaType })), mediaType)
      expect(await client.getManifest(client.repository, seeded)).toMatchObject({ mediaType })
    }
  })

  test('that was written just now is read again for some seconds', async () => {
    const lag: FaultOf = ({ count }) => (count <= 4 ? { kind: 'status', status: 404 } : undefined)
    const { client, server } = await connectWithIndex({ fault: lag })
    const read = () => client.getManifest(client.repository, digest, { retryNotFound: true })
    expect(await read()).toMatchObject({ digest })
    expect(client.waits.reduce((sum, one) => sum + one, 0)).toBeGreaterThan(3000)
    server.setFault(faultOn('manifest', { kind: 'status', status: 404 }))
    expect(await read()).toBeUndefined()
  })

  test('has its digest found with HEAD', async () => {
    const { server, client } = await connectWithIndex()
    expect(await client.findDigest(client.repository, 'latest')).toBe(digest)
    expect(await client.findDigest(client.repository, 'other')).toBeUndefined()
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'HEAD', 'HEAD'])
  })

  test.each<readonly [string, Fault]>([
    ['does not give it', { kind: 'headers', headers: { 'docker-content-digest': undefined } }],
    ['refuses that', { kind: 'status', status: 412 }],
  ])('is read to find its digest if the registry %s', async (_, fault) => {
    const { server, client } = await connectWithIndex({
      fault: ({ method }) => (method === 'HEAD' ? fault : undefined),
    })
    expect(await client.findDigest(client.repository, 'latest')).toBe(digest)
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'HEAD', 'GET'])
  })

  test.each(['other', notInRegistry])('that does not exist is undefined: %s', async (reference) => {
    const { get } = await connectWithIndex()
    expect(await get(reference)).toBeUndefined()
  })

  test.each<readonly [string, string, Fault]>([
    ['by digest, with a changed byte', digest, { kind: 'corrupt' }],
    ['by tag, with a changed byte', 'latest', { kind: 'corrupt' }],
    ['by tag, with another digest', 'latest', { kind: 'headers', headers: { 'docker-content-digest': notInRegistry } }],
  ])('that is damaged in transit is refused: %s', async (_, reference, fault) => {
    const { get } = await connectWithIndex({ fault: faultOn('manifest', fault) })
    const error = await failureOf(get(reference))
    expect(error.problem).toBe('doubtful')
    expect(error.message).toContain('its digest should be sha256:')
  })

  test.each<readonly [string, string, Fault]>([
    [
      'by digest, though the header is wrong',
      digest,
      { kind: 'headers', headers: { 'docker-content-digest': notInRegistry } },
    ],
    ['by tag, without the header', 'latest', { kind: 'headers', headers: { 'docker-content-digest': undefined } }],
    [
      'by tag, with a digest of another kind',
      'latest',
      { kind: 'headers', headers: { 'docker-content-digest': 'sha512:0' } },
    ],
  ])('has the digest of its bytes: %s', async (_, reference, fault) => {
    const { get } = await connectWithIndex({ fault: faultOn('manifest', fault) })
    expect(await get(reference)).toMatchObject({ bytes, digest })
  })

  test('that is too large is refused', async () => {
    const { server, client } = await connect()
    const limit = Buffer.alloc(4 * 1024 * 1024, ' ')
    const large = server.seedManifest('app', limit, mediaTypes.ociIndex)
    const larger = server.seedManifest('app', Buffer.concat([limit, Buffer.of(32)]), mediaTypes.ociIndex)
    expect((await client.getManifest(client.repository, large))?.bytes).toHaveLength(limit.length)
    const error = await failureOf(client.getManifest(client.repository, larger))
    expect(error.message).toContain('it is larger than 4096 KiB')
  })

  test.each(['latest', digest])('is stored under %s, byte for byte', async (reference) => {
    const { server, client } = await connect()
    await client.putManifest(client.repository, reference, mediaTypes.ociIndex, bytes)
    expect(server.manifest('app', reference)).toEqual({ bytes, digest, mediaType: mediaTypes.ociIndex })
  })

  test('that the registry stores under another digest is an error', async () => {
    const headers = { 'docker-content-digest': notInRegistry }
    const { client } = await connect({ fault: faultOn('manifest', { kind: 'headers', headers }) })
    const put = client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect((await failureOf(put)).message).toContain(`its digest should be ${digest}, but is ${notInRegistry}`)
  })

  test('whose blobs the registry does not know for a moment, as with GHCR, is stored', async () => {
    const body = '{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"unknown blob"}]}'
    const { server, client } = await connect({
      fault: ({ method, route, count }) =>
        method === 'PUT' && route === 'manifest' && count <= 2 ? { kind: 'status', status: 400, body } : undefined,
    })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.manifest('app', 'latest')?.digest).toBe(digest)
  })

  test('of missing blobs is refused, in the registry’s words', async () => {
    const { server, client } = await connect()
    const child = { mediaType: mediaTypes.ociManifest, digest: notInRegistry, size: 1 }
    const put = client.putManifest(
      client.repository,
      'latest',
      mediaTypes.ociIndex,
      index(mediaTypes.ociIndex, [child]),
    )
    const error = await failureOf(put)
    expect(error).toMatchObject({ problem: 'other', status: 400, code: 'MANIFEST_BLOB_UNKNOWN' })
    expect(error.message).toContain(notInRegistry)
    expect(server.tags('app').size).toBe(0)
  })

  test('for a repository that has to be created first is refused with that advice', async () => {
    const body = '{"errors":[{"code":"NAME_UNKNOWN","message":"The repository does not exist"}]}'
    const { client } = await connect({ fault: faultOn('manifest', { kind: 'status', status: 404, body }) })
    const error = await failureOf(client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes))
    expect(error).toMatchObject({ problem: 'not-found', code: 'NAME_UNKNOWN' })
    expect(adviceFor(error)).toContain('Create the repository in the registry first')
  })
})

describe('a tag', () => {
  test.each([
    ['is gone where the registry says so', 202, true],
    ['is still there where it knows no such thing', 405, false],
    ['is still there where it points elsewhere', 307, false],
  ])('%s', async (_, status, gone) => {
    const headers = { location: '/elsewhere' }
    const { client } = await connect({ fault: faultOn('manifest', { kind: 'status', status, headers }) })
    expect(await client.deleteTag(client.repository, 'latest')).toBe(gone)
  })
})

describe('a blob', () => {
  async function connectWithBlob(options?: RegistryOptions) {
    const { server, client } = await connect(options)
    await server.seedBlob('app', bytes)
    return { get: (one: Digest, limit = bytes.length) => client.getBlob(client.repository, one, limit) }
  }

  test('is read up to its limit, byte for byte', async () => {
    const { get } = await connectWithBlob()
    expect(await get(digest)).toEqual(bytes)
    expect((await failureOf(get(digest, bytes.length - 1))).message).toContain('it is larger than')
  })

  test('that does not exist is undefined', async () => {
    const { get } = await connectWithBlob()
    expect(await get(notInRegistry)).toBeUndefined()
  })

  test('that is damaged in transit is refused', async () => {
    const { get } = await connectWithBlob({ fault: faultOn('blob', { kind: 'corrupt' }) })
    expect((await failureOf(get(digest))).message).toContain(`its digest should be ${digest}`)
  })
})

describe('a blob to upload', () => {
  const content = Buffer.alloc(300_000, 'content ')
  const blob = {
    digest: digestOf(content),
    size: content.length,
    open: () => Readable.from([content.subarray(0, 7), content.subarray(7)], { objectMode: false }),
  }

  test.each<readonly [string, RegistryOptions]>([
    ['with a whole Location', {}],
    ['with a path for a Location', { relativeLocations: true }],
    ['on another host', { objectStore: true, auth: { kind: 'bearer', ...account } }],
    ['with passwords', { auth: { kind: 'basic', ...account } }],
    ['with tokens', { auth: { kind: 'bearer', ...account } }],
  ])('is stored %s, in one request of known length', async (_, options) => {
    const { server, client } = await connect(options, password)
    expect(await client.hasBlob(client.repository, blob.digest)).toBe(false)
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', blob.digest)).toEqual(content)
    expect(await client.hasBlob(client.repository, blob.digest)).toBe(true)
    const puts = server.requests.filter(({ method, status }) => method === 'PUT' && status === 201)
    expect(puts.map(({ headers, bodyBytes }) => [headers['content-length'], bodyBytes])).toEqual([['300000', 300_000]])
    expect(puts[0]?.headers).toMatchObject({ 'content-type': 'application/octet-stream' })
    expect(puts[0]?.headers).not.toHaveProperty('transfer-encoding')
    expect(server.requests.filter(({ method }) => method === 'PATCH')).toEqual([])
    expect(server.requests.find(({ route }) => route === 'uploads')?.headers['content-length']).toBe('0')
    expect(client.waits).toEqual([])
  })

  test('is stored if the token expires between its two requests', async () => {
    const { server, client } = await connect({ auth: { kind: 'bearer', ...account } }, password)
    await client.hasBlob(client.repository, blob.digest)
    server.setFault(({ method, route, count }) => {
      if (method === 'PUT' && route === 'upload' && count === 1) server.expireTokens()
      return undefined
    })
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', blob.digest)).toEqual(content)
  })

  test.each([201, 204])('counts as stored on status %d', async (status) => {
    const fault: FaultOf = ({ method, route }) =>
      method === 'PUT' && route === 'upload' ? { kind: 'status', status } : undefined
    const { client } = await connect({ fault })
    await client.putBlob(client.repository, blob)
  })

  test('is retried for two minutes, and then fails with the registry’s words', async () => {
    const body = '{"errors":[{"code":"UNKNOWN","message":"no disk left"}]}'
    const { server, client } = await connect({ fault: faultOn('upload', { kind: 'status', status: 500, body }) })
    const error = await failureOf(client.putBlob(client.repository, blob))
    expect(error.message).toContain(`Can't upload the blob ${server.host}/app@${blob.digest}`)
    expect(error.message).toContain('no disk left')
    expect(error.message).toMatch(/\(\d+ attempts in 1[01]\d s\)/)
  })

  test('with a wrong digest is refused by the registry', async () => {
    const { client } = await connect()
    const error = await failureOf(client.putBlob(client.repository, { ...blob, digest: notInRegistry }))
    expect(error).toMatchObject({ status: 400, code: 'DIGEST_INVALID' })
  })

  test('is mounted from another repository', async () => {
    const { server, client } = await connect({ auth: { kind: 'bearer', ...account } }, password)
    await server.seedBlob('base', content)
    const from = { ...client.repository, path: 'base' }
    expect(await client.mountBlob(client.repository, blob.digest, from)).toBe(true)
    expect(await server.blob('app', blob.digest)).toEqual(content)
  })

  test('that can’t be mounted is reported, and the upload begun instead is cancelled', async () => {
    const { server, client } = await connect()
    const from = { ...client.repository, path: 'nowhere' }
    expect(await client.mountBlob(client.repository, blob.digest, from)).toBe(false)
    await until(() => server.requests.at(-1)?.status === 204)
    expect(server.requests.map(({ method, status }) => [method, status]).slice(-2)).toEqual([
      ['POST', 202],
      ['DELETE', 204],
    ])
  })

  test('that can’t be mounted is sent to the upload that the registry has begun instead', async () => {
    const { server, client } = await connect({ auth: { kind: 'bearer', ...account } }, password)
    const from = { ...client.repository, path: 'nowhere' }
    expect(await client.putBlob(client.repository, blob, from)).toBe('uploaded')
    expect(await server.blob('app', blob.digest)).toEqual(content)
    const writes = server.requests.filter(({ method }) => method !== 'GET')
    expect(writes.map(({ method, status }) => [method, status])).toEqual([
      ['POST', 202],
      ['PUT', 201],
    ])
  })

  test('is mounted instead of uploaded if possible', async () => {
    const { server, client } = await connect()
    await server.seedBlob('base', content)
    expect(await client.putBlob(client.repository, blob, { ...client.repository, path: 'base' })).toBe('mounted')
    expect(server.requests.filter(({ method }) => method === 'PUT')).toEqual([])
  })

  test.each<readonly [string, Fault]>([
    ['has been forgotten', { kind: 'status', status: 404, body: '{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}' }],
    ['fails', { kind: 'status', status: 503 }],
  ])('is sent to a new upload if the one begun instead of a mount %s', async (_, fault) => {
    const { server, client } = await connect({
      fault: ({ method, count }) => (method === 'PUT' && count === 1 ? fault : undefined),
    })
    const from = { ...client.repository, path: 'nowhere' }
    expect(await client.putBlob(client.repository, blob, from)).toBe('uploaded')
    expect(await server.blob('app', blob.digest)).toEqual(content)
    expect(server.requests.filter(({ method }) => method === 'POST')).toHaveLength(2)
    expect(client.waits).toEqual([])
  })

  test.each([400, 401, 403, 404, 405])(
    'is not mounted if the registry answers %d, without an error',
    async (status) => {
      const { client } = await connect({ fault: faultOn('uploads', { kind: 'status', status }) }, password)
      const from = { ...client.repository, path: 'base' }
      expect(await client.mountBlob(client.repository, blob.digest, from)).toBe(false)
    },
  )
})

test('a mount with a transient failure is retried only once, because the blob can be uploaded', async () => {
  const { client } = await connect({ fault: faultOn('uploads', { kind: 'status', status: 503 }) })
  expect(await client.mountBlob(client.repository, digest, { ...client.repository, path: 'base' })).toBe(false)
  expect(client.waits).toHaveLength(1)
})

describe('an upload that goes wrong', () => {
  const content = Buffer.from('content')
  const open = () => Readable.from([content], { objectMode: false })
  const blob = { digest: digestOf(content), size: content.length, open }
  const forgotten = { kind: 'status', status: 404, body: '{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}' } as const

  test('is repeated if the registry has lost it', async () => {
    const fault: FaultOf = ({ method, count }) => (method === 'PUT' && count < 3 ? forgotten : undefined)
    const { server, client } = await connect({ fault })
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', blob.digest)).toEqual(content)
    expect(server.requests.filter(({ method }) => method === 'POST')).toHaveLength(3)
    expect(client.waits).toHaveLength(2)
  })

  test('fails if the registry loses it again and again', async () => {
    const { server, client } = await connect({ fault: ({ method }) => (method === 'PUT' ? forgotten : undefined) })
    const error = await failureOf(client.putBlob(client.repository, blob))
    expect(error).toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' })
    expect(server.requests.filter(({ method }) => method === 'POST')).toHaveLength(3)
  })

  test('fails without an upload location', async () => {
    const headers = { location: undefined }
    const { server, client } = await connect({ fault: faultOn('uploads', { kind: 'headers', headers }) })
    const error = await failureOf(client.putBlob(client.repository, blob))
    expect(error.message).toContain(`${server.host} did not return an upload location`)
    expect(error.message).toContain('it answered with status 202 and no Location')
    expect(await server.blob('app', blob.digest)).toBeUndefined()
  })
})

describe('a registry behind a proxy that terminates TLS', () => {
  const content = Buffer.from('content')
  const blob = { digest: digestOf(content), size: content.length, open: () => Readable.from([content]) }
  const usual = getCACertificates()
  const own = selfSigned()

  beforeAll(() => setDefaultCACertificates([...usual, own.cert]))
  afterAll(() => setDefaultCACertificates(usual))

  test('gets uploads by https, even if it names itself by http', async () => {
    const { server, client } = await connect({ tls: own, unawareOfTls: true })
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', blob.digest)).toEqual(content)
    await client.checkPush(client.repository)
    await until(() => server.requests.length >= 5)
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'POST', 'PUT', 'POST', 'DELETE'])
  })

  test('can’t redirect to another host by http', async () => {
    const elsewhere = await start()
    const headers = { location: `http://localhost:${elsewhere.host.split(':')[1]}/upload` }
    const { server, client } = await connect({ tls: own, fault: faultOn('uploads', { kind: 'headers', headers }) })
    for (const work of [() => client.putBlob(client.repository, blob), () => client.checkPush(client.repository)]) {
      const { message } = await failureOf(work())
      expect(message).toContain(`${server.host} points to ${new URL(headers.location).origin}, which is not encrypted`)
    }
    expect(elsewhere.requests).toEqual([])
  })
})

describe('push access', () => {
  test.each<readonly [string, RegistryOptions]>([
    ['with a whole Location', {}],
    ['with a path for a Location', { relativeLocations: true }],
    ['with uploads on another host', { objectStore: true }],
    ['with passwords', { auth: { kind: 'basic', ...account } }],
  ])('is checked at a registry %s, without leaving an upload', async (_, options) => {
    const { server, client } = await connect(options, password)
    await client.checkPush(client.repository)
    await until(() => server.requests.at(-1)?.status === 204)
    const uploads = server.requests.filter(({ route }) => route === 'uploads' || route === 'upload')
    expect(uploads.map(({ method, status }) => [method, status])).toEqual([
      ['POST', 202],
      ['DELETE', 204],
    ])
    expect(client.waits).toEqual([])
  })

  test('is checked without a token to cancel the upload', async () => {
    const { server, client } = await connect({ auth: { kind: 'bearer', ...account } }, password)
    await client.checkPush(client.repository)
    await until(() => server.requests.at(-1)?.status === 401)
    const [post, del] = server.requests.slice(-2)
    expect([post?.method, del?.method]).toEqual(['POST', 'DELETE'])
    expect(del?.authorization).toBe(post?.authorization)
    // The refusal does not take away the token.
    await client.checkPush(client.repository)
    expect(server.requests.filter(({ route }) => route === 'token')).toHaveLength(1)
  })

  test('is checked without waiting until the upload is cancelled', async () => {
    const cancelled = Promise.withResolvers<void>()
    const { server, client } = await connect({
      fault: ({ method }) => {
        if (method === 'DELETE') cancelled.resolve()
        return method === 'DELETE' ? { kind: 'hang' } : undefined
      },
    })
    await client.checkPush(client.repository)
    await cancelled.promise
    expect(await client.hasBlob(client.repository, digest)).toBe(false)
    const info: string[] = []
    const stop = reportSilence((line) => info.push(line), 0)
    afterwards(async () => stop())
    startActivity('a test')
    await until(() => info.length > 0)
    expect(info).toEqual([expect.stringContaining('a test')])
    // It keeps nothing from ending.
    await client.http.close()
    await until(() => client.lines.length > 0)
    expect(client.lines).toEqual([expect.stringMatching(`^Can't cancel an upload to ${server.host}/app: `)])
  })

  test.each([404, 405, 429, 500, 503])('is checked once if uploads can’t be cancelled: %d', async (status) => {
    const fault = { kind: 'status', status, headers: { 'retry-after': '30' } } as const
    const { server, client } = await connect({ fault: faultOn('upload', fault) })
    await client.checkPush(client.repository)
    await until(() => client.lines.length > 0)
    await client.hasBlob(client.repository, digest)
    expect(client.lines).toEqual([`Can't cancel an upload to ${server.host}/app: status ${status}`])
    expect(client.waits).toEqual([])
    expect(server.requests.filter(({ method }) => method === 'DELETE')).toHaveLength(1)
  })

  test('is denied by a registry that accepts no pushes', async () => {
    const body = '{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}'
    const { client } = await connect({ fault: faultOn('uploads', { kind: 'status', status: 405, body }) })
    const error = await failureOf(client.checkPush(client.repository))
    expect(error).toMatchObject({ problem: 'read-only', status: 405 })
    expect(error.message).toContain(
      'answered with status 405: pushes are not accepted; the registry is read-only or a proxy cache\n  UNSUPPORTED: ',
    )
    expect(adviceFor(error)).toContain('Push to the registry itself, not to a mirror or proxy cache.')
  })

  test('is an error if it is denied', async () => {
    const body = '{"errors":[{"code":"DENIED","message":"not yours"}]}'
    const { client } = await connect({ fault: faultOn('uploads', { kind: 'status', status: 403, body }) }, password)
    const error = await failureOf(client.checkPush(client.repository))
    expect(error).toMatchObject({ problem: 'denied', status: 403, code: 'DENIED' })
    expect(error.message).toContain(`Can't push to ${error.host}/app`)
    expect(error.message).toContain('not yours')
  })
})
