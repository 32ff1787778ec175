import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { connect, failureOf, open, password } from '../registry/connect.ts'
import { makeArchive } from '../support/image.ts'
import type { FaultOf, RegistryOptions } from '../support/registry.ts'
import { spilling, spillingLayer } from './large.ts'
import {
  digestAskedFor,
  expectNothingPublished,
  expectWhole,
  FORMS,
  made,
  push,
  REFUSAL,
  setUpFolder,
  store,
  temp,
  uploads,
} from './pushing.ts'

setUpFolder()

test('after a registry refuses a layer, no further layer is compressed and uploaded', async () => {
  const { server, client } = await connect()
  server.setFault(({ method, route }) =>
    method === 'PUT' && route === 'upload' ? { kind: 'status', status: 403, body: REFUSAL } : undefined,
  )
  const many = makeArchive({ layers: Array.from({ length: 90 }, (_, at) => `layer ${at}`) })
  expect((await failureOf(push(many, client))).message).toContain('not yours')
  // The layers in progress, and those that started before the refusal arrived.
  expect(server.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads').length).toBeLessThan(
    45,
  )
})

describe('another job that pushes the same image at the same time', () => {
  /** Neither job sees the blobs of the other, so both upload all of them. */
  const blind: FaultOf = ({ method, route }) =>
    method === 'HEAD' && route === 'blob' ? { kind: 'status', status: 404 } : undefined

  test.each(['tar', 'script'] as const)('gets the same digest, although both upload every layer: %s', async (form) => {
    const { server, client } = await connect({ fault: blind })
    const path = await store(spilling.bytes, form)
    const both = await Promise.all([client, open(server.host)].map((each) => push(spilling, each, { path })))
    const [first, second] = both.map(({ manifest }) => manifest.digest)
    expect(first).toBe(second)
    expect(server.tags('app')).toEqual(new Map([['v1', first]]))
    await expectWhole(server, 'v1', spilling)
    expect(uploads(server.requests)).toHaveLength(2 * (spilling.layers.length + 1))
  })

  test.each([201, 202, 204])(
    'may finish a layer first, so that the registry answers the second upload with %d',
    async (status) => {
      const { server, client } = await connect()
      const first = await push(spilling, client, { tag: 'first' })
      const before = server.requests.length
      server.setFault((request) =>
        request.method === 'PUT' && request.route === 'upload'
          ? { kind: 'status', status, headers: { 'docker-content-digest': digestAskedFor(request) } }
          : blind(request),
      )
      const { manifest, layers } = await push(spilling, client)
      expect(manifest.digest).toBe(first.manifest.digest)
      expect(layers.map(({ digest }) => digest)).toEqual(first.layers.map(({ digest }) => digest))
      expect(uploads(server.requests.slice(before)).every(({ bodyBytes }) => bodyBytes === 0)).toBe(true)
      expect(server.tags('app').get('v1')).toBe(first.manifest.digest)
      expect(client.waits).toEqual([])
    },
  )

  test('may finish a layer between the request for it and its upload', async () => {
    const { server, client } = await connect()
    const first = await push(spilling, client, { images: [{ ...client.repository, path: 'base' }] })
    const bytes = await server.blob('base', first.layers[0]?.digest ?? '')
    let stored: string | undefined
    server.setFault(({ method, route, repository }) => {
      if (method !== 'POST' || route !== 'uploads' || repository !== 'app' || stored !== undefined) return undefined
      stored = first.layers[0]?.digest
      void server.seedBlob('app', bytes ?? Buffer.alloc(0))
      return undefined
    })
    const { manifest } = await push(spilling, client)
    expect(stored).toBe(first.layers[0]?.digest)
    expect(manifest.digest).toBe(first.manifest.digest)
    await expectWhole(server, 'v1', spilling)
  })
})

describe('an upload', () => {
  const once =
    (fault: ReturnType<FaultOf>): FaultOf =>
    ({ method, route, count }) =>
      method === 'PUT' && route === 'upload' && count <= 2 ? fault : undefined

  test.each([
    ['is reset', { kind: 'reset' }],
    ['is answered with 500', { kind: 'status', status: 500 }],
    ['is answered with 503', { kind: 'status', status: 503 }],
    ['is answered with 429', { kind: 'status', status: 429 }],
  ] as const)('that %s is restarted, and the image is complete', async (_, fault) => {
    const { server, client } = await connect({ fault: once(fault) })
    await push(made, client)
    await expectWhole(server, 'v1', made)
    const begun = server.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads')
    expect(begun).toHaveLength(made.layers.length + 1 + 2)
    expect(client.waits).toHaveLength(2)
  })

  test('whose answer is lost is looked up, and not repeated if the blob is stored', async () => {
    const { server, client } = await connect({ fault: once({ kind: 'lose' }) })
    await push(made, client)
    await expectWhole(server, 'v1', made)
    const begun = server.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads')
    expect(begun).toHaveLength(made.layers.length + 1)
    expect(client.waits).toEqual([])
  })

  test('of a layer in a temporary file is retried as well', async () => {
    const { server, client } = await connect({ fault: once({ kind: 'status', status: 503 }) })
    const alone = makeArchive({ layers: [spillingLayer] })
    await push(alone, client)
    await expectWhole(server, 'v1', alone)
  })

  test.each(FORMS)('that is denied fails with the registry’s message, and sets no tag: %s', async (form) => {
    const fault: FaultOf = ({ route }) =>
      route === 'uploads' ? { kind: 'status', status: 403, body: REFUSAL } : undefined
    const { server, client } = await connect({ fault }, password)
    const error = await failureOf(push(made, client, { form }))
    expect(error).toMatchObject({ problem: 'denied', status: 403, code: 'DENIED' })
    expect(error.message).toContain('not yours')
    expectNothingPublished(server)
  })

  test('of a layer too large for memory that is denied leaves no files behind', async () => {
    const fault: FaultOf = ({ method, route }) =>
      method === 'PUT' && route === 'upload' ? { kind: 'status', status: 403, body: REFUSAL } : undefined
    const { server, client } = await connect({ fault }, password)
    await failureOf(push(makeArchive({ layers: [spillingLayer, 'more'] }), client))
    expectNothingPublished(server)
  })

  test.each(FORMS)(
    'of layers too large for memory, without a folder for them, fails and sets no tag: %s',
    async (form) => {
      const { server, client } = await connect()
      await expect(push(spilling, client, { form, tempFolder: join(temp, 'absent') })).rejects.toThrow(
        /Can't write a compressed layer to [\s\S]*ENOENT/,
      )
      expectNothingPublished(server)
    },
  )

  test('for which the registry reports another digest fails if the blob is missing', async () => {
    const headers = { 'docker-content-digest': `sha256:${'0'.repeat(64)}` }
    const fault: FaultOf = ({ method, route }) => {
      if (method === 'HEAD' && route === 'blob') return { kind: 'status', status: 404 }
      return method === 'PUT' && route === 'upload' ? { kind: 'headers', headers } : undefined
    }
    const { server, client } = await connect({ fault })
    expect((await failureOf(push(made, client))).message).toContain('its digest should be sha256:')
    expectNothingPublished(server)
  })

  test.each([
    ['on another host', { objectStore: true }],
    ['at a path', { relativeLocations: true }],
    [
      'with tokens',
      {
        auth: {
          kind: 'bearer',
          user: password.kind === 'password' ? password.username : '',
          password: password.kind === 'password' ? password.password : '',
        },
      },
    ],
  ] as const)('goes to the location that the registry returns, %s', async (_, options) => {
    const { server, client } = await connect(options as RegistryOptions, password)
    await push(made, client)
    await expectWhole(server, 'v1', made)
  })
})
