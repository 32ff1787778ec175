import { gzipSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import type { LayerCache } from '../../src/cache/layers.ts'
import type { Digest } from '../../src/oci/reference.ts'
import { connect, open } from '../registry/connect.ts'
import { makeArchive } from '../support/image.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import type { RegistryOptions } from '../support/registry.ts'
import {
  big,
  digestAskedFor,
  expectWhole,
  FORMS,
  made,
  manifestPuts,
  named,
  OPTIONS,
  publishedAt,
  pulled,
  push,
  setUpFolder,
  text,
  uploads,
} from './pushing.ts'

setUpFolder()

describe('an image that was published before', () => {
  test.each(FORMS)('is not uploaded again, with fewer than 10 requests: %s', async (form) => {
    const { server, client } = await connect()
    const first = await push(makeArchive(named), client, { tag: 'latest', form })
    const before = server.requests.length
    const fresh = open(server.host)
    const second = await push(makeArchive(named), fresh, { tag: 'latest', form, published: await publishedAt(fresh) })
    const requests = server.requests.slice(before)
    expect(second.manifest.digest).toBe(first.manifest.digest)
    expect(second.layers.every(({ reused }) => reused)).toBe(true)
    expect(requests.filter(({ route }) => route === 'uploads')).toEqual([])
    expect(manifestPuts(requests)).toEqual([second.manifest.digest])
    expect(requests.length).toBeLessThan(10)
  })

  test.each(FORMS)('except one layer has only that layer, the config and the manifest uploaded: %s', async (form) => {
    const { server, client } = await connect()
    const old = await push(makeArchive(named), client, { tag: 'latest', form })
    const before = server.requests.length
    const changed = makeArchive({ ...named, layers: ['lower', big, text, 'changed'] })
    const { manifest, layers } = await push(changed, client, {
      tag: 'latest',
      form,
      published: await publishedAt(client),
    })
    await expectWhole(server, 'latest', changed)
    expect(layers.map(({ reused }) => reused)).toEqual([true, true, true, false])
    expect(layers.slice(0, 3)).toEqual(old.layers.slice(0, 3).map((layer) => ({ ...layer, reused: true })))
    const requests = server.requests.slice(before)
    const config = (await pulled(server, 'latest')).manifest.config
    const sent = uploads(requests).map(digestAskedFor)
    expect(sent.sort()).toEqual([layers[3]?.digest, config.digest].sort())
    expect(manifestPuts(requests)).toEqual([manifest.digest, 'latest'])
  })

  test('in another repository of the same registry has its layers mounted', async () => {
    const { server, client } = await connect()
    const other = { ...client.repository, path: 'base' }
    await push(made, client, { images: [other], tag: 'latest' })
    const before = server.requests.length
    const { layers } = await push(made, client, { published: await publishedAt(client, 'latest', 'base') })
    await expectWhole(server, 'v1', made)
    expect(layers.every(({ reused }) => reused)).toBe(true)
    // Only the config.
    expect(uploads(server.requests.slice(before))).toHaveLength(1)
  })

  test.each(FORMS)('is uploaded if mounting is denied: %s', async (form) => {
    const { server, client } = await connect()
    const archive = makeArchive(named)
    await push(archive, client, { images: [{ ...client.repository, path: 'base' }], tag: 'latest' })
    const published = await publishedAt(client, 'latest', 'base')
    server.setFault(({ route, path }) =>
      route === 'uploads' && path.includes('mount=') ? { kind: 'status', status: 401 } : undefined,
    )
    const { layers } = await push(archive, client, { published, form })
    await expectWhole(server, 'v1', archive)
    expect(layers.every(({ reused }) => !reused)).toBe(true)
  })

  test('is uploaded if the registry starts an upload instead of a mount', async () => {
    const { server, client } = await connect()
    await push(made, client, { images: [{ ...client.repository, path: 'base' }], tag: 'latest' })
    const published = await publishedAt(client, 'latest', 'base')
    // As a registry does if it can't read the source repository.
    const elsewhere: LayerCache = {
      ...published,
      blobsOf: (diffId) =>
        published
          .blobsOf(diffId)
          .map((blob) => ({ ...blob, repositories: [{ ...client.repository, path: 'hidden' }] })),
    }
    await push(made, client, { published: elsewhere })
    await expectWhole(server, 'v1', made)
  })

  test.each(FORMS)('but has lost a layer is pushed again: %s', async (form) => {
    const { server, client } = await connect()
    const archive = makeArchive(named)
    const { layers } = await push(archive, client, { tag: 'latest' })
    const published = await publishedAt(client)
    const url = `http://${server.host}/v2/app/blobs/${layers[1]?.digest}`
    expect((await fetch(url, { method: 'DELETE' })).status).toBe(202)
    const changed = makeArchive({ ...named, layers: ['lower', big, text, 'changed'] })
    const pushed = await push(changed, client, { form, published })
    await expectWhole(server, 'v1', changed)
    expect(pushed.layers.map(({ reused }) => reused)).toEqual([true, false, true, true])
    expect(client.lines.join('\n')).toContain('checking all layers again')
  })

  test.each(['latest', ''])('but has lost a layer is repaired if it is the same image: %s', async (tag) => {
    const { server, client } = await connect()
    const { layers } = await push(made, client, { tag: 'latest' })
    const url = `http://${server.host}/v2/app/blobs/${layers[1]?.digest}`
    expect((await fetch(url, { method: 'DELETE' })).status).toBe(202)
    const again = await push(made, client, { tag, published: await publishedAt(client) })
    expect(again.layers.map(({ reused }) => reused)).toEqual([true, false, true, true])
    await expectWhole(server, 'latest', made)
  })

  test.each([
    ['not there', 'absent', {}, undefined, 'does not exist yet; no layers are reused'],
    [
      'not readable',
      'latest',
      { auth: { kind: 'basic', user: 'a', password: 'b' } },
      undefined,
      'authentication required',
    ],
  ] as const)('may be %s, which is logged in one line', async (_, tag, options, credentials, why) => {
    const { client } = await connect(options as RegistryOptions, credentials)
    const published = await publishedAt(client, tag)
    const said = client.lines.filter((line) => /no layers are reused|Not reusing/.test(line))
    expect(said).toHaveLength(1)
    expect(said[0]).toContain(`${client.repository.host}/app:${tag}`)
    expect(said[0]).toContain(why)
    expect(said[0]).not.toContain('\n')
    expect(published.blobsOf(made.layers[0]?.diffId as Digest)).toEqual([])
  })

  test('may be in an index: the manifest for the same platform is used', async () => {
    const { server, client } = await connect()
    const arm = makeArchive({ architecture: 'arm64', layers: ['for arm'] })
    const entries: unknown[] = []
    for (const [archive, architecture] of [
      [arm, 'arm64'],
      [made, 'amd64'],
    ] as const) {
      const { manifest } = await push(archive, client, { tag: '' })
      const { digest, mediaType, size } = manifest
      entries.push({ digest, mediaType, size, platform: { os: 'linux', architecture } })
    }
    const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: entries }
    server.seedManifest('app', Buffer.from(JSON.stringify(index)), mediaTypes.ociIndex, 'latest')
    const before = server.requests.length
    const { layers } = await push(made, client, { published: await publishedAt(client) })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before))).toEqual([])
  })

  test('by Docker, with Docker’s media types, has its gzip layers reused', async () => {
    const { server, client } = await connect()
    const layers = await Promise.all(
      made.layers.map(async ({ bytes }) => {
        const blob = gzipSync(bytes, { level: 1 })
        const mediaType = 'application/vnd.docker.image.rootfs.diff.tar.gzip'
        return { mediaType, digest: await server.seedBlob('app', blob), size: blob.length }
      }),
    )
    const config = { mediaType: 'application/vnd.docker.container.image.v1+json', digest: made.configDigest }
    await server.seedBlob('app', made.config)
    const mediaType = mediaTypes.dockerManifest
    const manifest = { schemaVersion: 2, mediaType, config: { ...config, size: made.config.length }, layers }
    server.seedManifest('app', Buffer.from(JSON.stringify(manifest)), mediaType, 'latest')
    const pushed = await push(made, client, { published: await publishedAt(client) })
    expect(pushed.layers.map(({ digest }) => digest)).toEqual(layers.map(({ digest }) => digest))
    expect(uploads(server.requests)).toEqual([])
    await expectWhole(server, 'v1', made)
    const types = (await pulled(server, 'v1')).manifest.layers.map((layer) => layer.mediaType)
    expect(new Set(types)).toEqual(new Set(['application/vnd.oci.image.layer.v1.tar+gzip']))
  })

  test('in gzip is not reused for an image in zstd', async () => {
    const { server, client } = await connect()
    await push(made, client, { tag: 'latest' })
    const published = await publishedAt(client)
    const { layers } = await push(made, client, { published, compression: { format: 'zstd', level: 3 } })
    expect(layers.every(({ reused }) => !reused)).toBe(true)
    await expectWhole(server, 'v1', made)
  })

  test('is not uploaded again, even without `reuse-from`', async () => {
    const { server, client } = await connect()
    await push(made, client)
    const before = server.requests.length
    const { layers } = await push(made, client)
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before))).toEqual([])
    expect(client.lines.join('\n')).toContain('already exists')
  })

  test.each(['gzip', 'script'] as const)('is not reused for a layer that has only the same name: %s', async (form) => {
    const { server, client } = await connect()
    await push(makeArchive(named), client, { tag: 'latest' })
    const published = await publishedAt(client)
    const layerName = (_: string, at: number) => `${made.layers[(at + 1) % 4]?.diffId.slice(7)}/layer.tar`
    // Published layers under each other's names, and a new layer under the name of a published one.
    for (const layers of [OPTIONS.layers ?? [], ['lower', 'not published', text, 'upper']]) {
      const misnamed = makeArchive({ layers, layerName })
      await push(misnamed, client, { form, published })
      await expectWhole(server, 'v1', misnamed)
    }
  })
})
