import { Readable } from 'node:stream'
import { describe, expect, test } from '@jest/globals'
import { digestOf } from '../../src/oci/reference.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { absent, index } from '../support/registry/wire.ts'
import type { Fault, FaultOf } from '../support/registry.ts'
import { connect, failureOf, open, start, until } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])
const digest = digestOf(bytes)
const secondary = '{"errors":[{"code":"DENIED","message":"You have exceeded a secondary rate limit."}]}'
const page: Fault = {
  kind: 'status',
  status: 200,
  body: '<html>Hello</html>',
  headers: { 'content-type': 'text/html' },
}

/** Breaks the first requests of a method, all of them by default. */
function breaking(method: string, fault: Fault, times = Number.POSITIVE_INFINITY): FaultOf {
  return (request) =>
    request.method === method && request.route !== 'base' && request.count <= times ? fault : undefined
}

describe('a manifest', () => {
  const lies: readonly (readonly [string, Fault])[] = [
    ['200 with a page', page],
    ['200 with nothing', { kind: 'status', status: 200 }],
    ['202 with nothing', { kind: 'status', status: 202 }],
    ['204', { kind: 'status', status: 204 }],
    ['a redirect', { kind: 'status', status: 307, headers: { location: '/elsewhere' } }],
    ['201 with another digest', { kind: 'status', status: 201, headers: { 'docker-content-digest': absent } }],
  ]

  test.each(lies)('is written again after an answer that is not the registry’s: %s', async (_, fault) => {
    const { server, client } = await connect({ fault: breaking('PUT', fault, 1) })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.tags('app').get('latest')).toBe(digest)
    expect(client.lines).toEqual([expect.stringMatching(/^Can't write .*; retrying in 0\.5 s$/)])
  })

  test.each(lies)('is reported as not written if all answers are of that kind: %s', async (_, fault) => {
    const { server, client } = await connect({ fault: breaking('PUT', fault) })
    const other = server.seedManifest('app', index(mediaTypes.ociIndex, [], { annotations: {} }), mediaTypes.ociIndex)
    for (const [tag, state] of [
      ['fresh', 'does not exist'],
      ['latest', `points to ${other}`],
    ] as const) {
      if (tag === 'latest') server.seedTag('app', tag, other)
      const error = await failureOf(client.putManifest(client.repository, tag, mediaTypes.ociIndex, bytes))
      expect(error.message.split('\n')[0]).toMatch(new RegExp(`; ${server.host}/app:${tag} ${state}$`))
    }
    expect(client.waits).toHaveLength(4)
  })

  test.each<readonly [string, Fault]>([
    ['lost', { kind: 'lose' }],
    ['200 without a digest', { kind: 'headers', headers: { 'docker-content-digest': absent } }],
  ])('is written if the registry has it, even if every answer is %s', async (_, fault) => {
    const { server, client } = await connect({ fault: breaking('PUT', fault) })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.tags('app').get('latest')).toBe(digest)
  })

  test('is written if an attempt whose answer was lost has made an immutable tag', async () => {
    const body = '{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}'
    const { server, client } = await connect({
      fault: ({ method, count }) =>
        method !== 'PUT' ? undefined : count === 1 ? { kind: 'lose' } : { kind: 'status', status: 400, body },
    })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.tags('app').get('latest')).toBe(digest)
  })

  test.each([200, 201, 202])('is written on status %d with its digest, without another request', async (status) => {
    const headers = { 'docker-content-digest': digest }
    const { server, client } = await connect({ fault: breaking('PUT', { kind: 'status', status, headers }) })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'PUT'])
  })

  test('whose tag can’t be read back is an error that says so', async () => {
    const { server, client } = await connect({
      fault: ({ route }) => (route === 'manifest' ? { kind: 'lose' } : undefined),
    })
    const { message } = await failureOf(client.putManifest(client.repository, 'v1', mediaTypes.ociIndex, bytes))
    expect(message).toContain(`; it is unknown what ${server.host}/app:v1 points to now`)
  })

  test.each<readonly [string, string, Fault]>([
    ['damaged', digest, { kind: 'corrupt' }],
    ['damaged', 'latest', { kind: 'corrupt' }],
    ['a page', digest, page],
    ['a page', 'latest', page],
    ['a page of no type', 'latest', { kind: 'status', status: 200, body: '<!DOCTYPE html><p>Hello' }],
    ['no manifest', 'latest', { kind: 'status', status: 200, body: 'Hello' }],
  ])('is read again if it has arrived as %s: %s', async (_, reference, fault) => {
    const { server, client } = await connect({ fault: breaking('GET', fault, 1) })
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    expect(await client.getManifest(client.repository, reference)).toMatchObject({ bytes })
    expect(client.lines).toHaveLength(1)
  })
})

describe('a blob', () => {
  const blob = { digest, size: bytes.length, open: () => Readable.from([bytes], { objectMode: false }) }

  test.each<readonly [string, Fault]>([
    ['200 with a page', page],
    ['202', { kind: 'status', status: 202 }],
    ['a redirect', { kind: 'status', status: 307, headers: { location: '/elsewhere' } }],
  ])('is sent again after an answer that is not the registry’s: %s', async (_, fault) => {
    const { server, client } = await connect({ fault: breaking('PUT', fault, 1) })
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', digest)).toEqual(bytes)
    server.setFault(breaking('PUT', fault))
    const other = { ...blob, digest: digestOf(Buffer.from('other')) }
    const { message } = await failureOf(client.putBlob(client.repository, other))
    expect(message).toContain(`${server.host} answered with status`)
    expect(message).toContain('but has not stored it')
  })

  test.each<readonly [string, Fault]>([
    ['200 with a page', page],
    ['202 with no Location', { kind: 'status', status: 202 }],
    ['a redirect', { kind: 'status', status: 307, headers: { location: '/elsewhere' } }],
  ])('gets a new upload after an answer that is not the registry’s: %s', async (_, fault) => {
    const { server, client } = await connect({ fault: breaking('POST', fault, 1) })
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', digest)).toEqual(bytes)
    expect(client.lines).toHaveLength(1)
  })

  test.each<readonly [string, Fault]>([
    ['lost', { kind: 'lose' }],
    ['one with another digest', { kind: 'headers', headers: { 'docker-content-digest': absent } }],
  ])('is not sent again if the registry has it, even if the answer is %s', async (_, fault) => {
    const { server, client } = await connect({ fault: breaking('PUT', fault) })
    await client.putBlob(client.repository, blob)
    expect(await server.blob('app', digest)).toEqual(bytes)
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'POST', 'PUT', 'HEAD'])
    expect(client.waits).toEqual([])
  })

  test('that does not exist costs one request', async () => {
    const { server, client } = await connect()
    expect(await client.hasBlob(client.repository, digest)).toBe(false)
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'HEAD'])
  })

  test('behind a secondary rate limit, which HEAD does not reveal, is found', async () => {
    const limited: Fault = { kind: 'status', status: 403, body: secondary }
    const fault: FaultOf = ({ method, route, count }) =>
      route === 'blob' && (method === 'HEAD' || count <= 2) ? limited : undefined
    const { server, client } = await connect({ fault })
    await server.seedBlob('app', bytes)
    expect(await client.hasBlob(client.repository, digest)).toBe(true)
    expect(client.lines).toEqual(Array(2).fill(expect.stringContaining('403 DENIED: You have exceeded')))
  })

  test('whose HEAD is refused is an error with the registry’s words', async () => {
    const body = '{"errors":[{"code":"DENIED","message":"not yours"}]}'
    const { client } = await connect({
      fault: ({ route }) => (route === 'blob' ? { kind: 'status', status: 403, body } : undefined),
    })
    const error = await failureOf(client.hasBlob(client.repository, digest))
    expect(error).toMatchObject({ status: 403, code: 'DENIED' })
    expect(error.message).toContain('not yours')
  })

  test('that was written just now is looked for again, with GET too', async () => {
    const missing: Fault = { kind: 'status', status: 404 }
    const { server, client } = await connect({ fault: breaking('HEAD', missing) })
    await server.seedBlob('app', bytes)
    expect(await client.hasBlob(client.repository, digest, { retryNotFound: true })).toBe(true)
    server.setFault(({ route, count }) => (route === 'blob' && count < 4 ? missing : undefined))
    expect(await client.hasBlob(client.repository, digest, { retryNotFound: true })).toBe(true)
    expect(client.lines.at(-1)).toBe(`${server.host}/app@${digest} is not there yet; retrying in 1.0 s`)
    expect(await client.hasBlob(client.repository, absentDigest, { retryNotFound: true })).toBe(false)
  })

  test('is not found if a proxy answers with a page', async () => {
    const { client } = await connect({ fault: breaking('HEAD', page, 1) })
    expect(await client.hasBlob(client.repository, digest)).toBe(false)
  })

  test('is not found by an answer without content', async () => {
    const empty: Fault = { kind: 'status', status: 200, body: '' }
    const { client } = await connect({ fault: breaking('HEAD', empty, 1) })
    expect(await client.hasBlob(client.repository, digest)).toBe(false)
  })

  test('that arrives damaged is read again', async () => {
    const { server, client } = await connect({ fault: breaking('GET', { kind: 'corrupt' }, 1) })
    await server.seedBlob('app', bytes)
    expect(await client.getBlob(client.repository, digest, 1024)).toEqual(bytes)
    expect(client.lines).toHaveLength(1)
  })
})

const absentDigest = digestOf(Buffer.from('never'))

describe('a failure that passes immediately', () => {
  const missing = { kind: 'status', status: 404, body: '{"errors":[{"code":"NOT_FOUND"}]}' } as const

  test('of a manifest that is written is not an error', async () => {
    const { server, client } = await connect({ fault: breaking('PUT', missing, 1) })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.tags('app').get('latest')).toBe(digest)
  })

  test('of an upload that begins is not an error', async () => {
    const { server, client } = await connect({ fault: breaking('POST', missing, 1) })
    const open = () => Readable.from([bytes], { objectMode: false })
    await client.putBlob(client.repository, { digest, size: bytes.length, open })
    expect(await server.blob('app', digest)).toEqual(bytes)
  })
})

test('after a redirect to a page, the first request is retried, not the page', async () => {
  const moved = { kind: 'status', status: 302, headers: { location: '/login' } } as const
  const { server, client } = await connect({
    fault: ({ method, route, path, count }) => {
      if (path === '/login') return page
      return method === 'GET' && route === 'manifest' && count === 1 ? moved : undefined
    },
  })
  server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
  expect(await client.getManifest(client.repository, 'latest')).toMatchObject({ digest })
})

test('after a mount request without an answer, blobs are uploaded', async () => {
  const { server, client } = await connect({
    fault: ({ path }) => (path.includes('mount=') ? { kind: 'reset' } : undefined),
  })
  const from = { host: server.host, path: 'api' }
  for (let blob = 0; blob < 3; blob++) expect(await client.mountBlob(client.repository, digest, from)).toBe(false)
  expect(server.requests.filter(({ path }) => path.includes('mount='))).toHaveLength(2)
})

test('a manifest whose every answer is lost is read back at once', async () => {
  const { server, client } = await connect({ fault: breaking('PUT', { kind: 'lose' }) })
  await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
  expect(server.requests.filter(({ method }) => method === 'PUT')).toHaveLength(1)
})

test('a registry that never answers HEAD gets GET instead', async () => {
  const { server, client } = await connect({ fault: breaking('HEAD', { kind: 'status', status: 503 }) })
  server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
  for (let look = 0; look < 5; look++) expect(await client.findDigest(client.repository, 'latest')).toBe(digest)
  expect(server.requests.filter(({ method }) => method === 'HEAD')).toHaveLength(2)
  expect(client.waits).toEqual([])
})

describe('the log has a line with the reason', () => {
  test('for blobs that the registry does not know yet', async () => {
    const body = '{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"unknown blob"}]}'
    const { server, client } = await connect({ fault: breaking('PUT', { kind: 'status', status: 400, body }, 2) })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(client.lines).toEqual([
      `${server.host}/app:latest: the registry does not know all blobs of the manifest yet; retrying in 0.5 s`,
      `${server.host}/app:latest: the registry does not know all blobs of the manifest yet; retrying in 2.0 s`,
    ])
  })

  test('for an upload that the registry has lost', async () => {
    const body = '{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'
    const { server, client } = await connect({ fault: breaking('PUT', { kind: 'status', status: 404, body }, 1) })
    await client.putBlob(client.repository, {
      digest,
      size: bytes.length,
      open: () => Readable.from([bytes], { objectMode: false }),
    })
    expect(client.lines).toEqual([`${server.host}/app@${digest}: the registry has lost the upload; retrying in 0.5 s`])
  })

  test('for an upload that can’t be cancelled, in the debug log', async () => {
    const server = await start({ fault: breaking('DELETE', { kind: 'status', status: 405 }) })
    const debug: string[] = []
    const none = (): void => undefined
    const client = open(server.host, undefined, {
      log: { info: none, warning: none, debug: (line) => void debug.push(line) },
    })
    await client.checkPush(client.repository)
    await until(() => debug.length > 0)
    expect(debug).toEqual([`Can't cancel an upload to ${server.host}/app: status 405`])
  })

  test.each([
    ['503 Service Unavailable', { kind: 'status', status: 503 }],
    ['502 Bad Gateway', { kind: 'status', status: 502, body: '<h1>502 Bad Gateway</h1>' }],
    ['521 Web server is down', { kind: 'status', status: 521, body: 'Web server is down' }],
  ] as const)('for a transient failure: %s', async (detail, fault) => {
    const { server, client } = await connect({ fault: breaking('GET', fault, 1) })
    await client.getManifest(client.repository, 'latest')
    expect(client.lines).toHaveLength(1)
    expect(client.lines[0]).toMatch(new RegExp(`^${server.host}: ${detail}; retrying in 1\\.\\d s$`))
  })
})
