import { zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { connect } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import {
  blobName,
  indexOf,
  LAYOUT_FORMS,
  layoutOf,
  makeLayout,
  storeLayout,
  withArtifact,
  withFiles,
} from '../support/layout.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { largeLayout } from './large.ts'
import {
  big,
  digestAskedFor,
  digestsOf,
  expectSame,
  expectSameBlobs,
  folder,
  KEY,
  LAYERS,
  type Listed,
  made,
  manifestPuts,
  packed,
  publishedAt,
  publishedOf,
  pulled,
  push,
  pushLayout,
  STORE_PATH,
  setUpFolder,
  text,
  uploads,
} from './pushing.ts'

setUpFolder()

describe('an OCI layout whose layers are compressed', () => {
  test.each(LAYOUT_FORMS)('is pushed unchanged, with build info in its manifest, as a %s', async (as) => {
    const { server, client } = await connect()
    const { manifest, layers } = await pushLayout(packed, client, { as })
    await expectSame(server, packed)
    expect(manifest.digest).toBe(publishedOf(packed).digest)
    expect(layers).toEqual(
      packed.layers.map(({ diffId, digest, blob }, at) => ({
        diffId,
        digest,
        size: blob.length,
        format: at % 2 === 0 ? 'gzip' : 'zstd',
        reused: false,
      })),
    )
  })

  test.each(['folder', 'gzip'] as const)('is pushed unchanged if its layers are large, as a %s', async (as) => {
    const { server, client } = await connect()
    await pushLayout(largeLayout, client, { as })
    const { config, layers, manifest } = await pulled(server, 'v1')
    expect(config.equals(largeLayout.config)).toBe(true)
    expect(digestsOf(layers)).toEqual(largeLayout.layers.map(({ diffId }) => diffId))
    for (const at of [0, 1, 3]) expect(manifest.layers[at]?.digest).toBe(largeLayout.layers[at]?.digest)
  })

  test.each(['gzip', 'zstd'] as const)('stays unchanged when `compression` is %s', async (format) => {
    for (const as of ['folder', 'gzip'] as const) {
      const { server, client } = await connect()
      await pushLayout(packed, client, { as, compression: { format, level: 9 } })
      await expectSame(server, packed, 'app', format)
    }
  })

  test('is pushed without its attestation and the indexes around it', async () => {
    const { server, client } = await connect()
    const attested = makeLayout({ layers: LAYERS, attested: true, nested: 2 })
    await pushLayout(attested, client)
    await expectSame(server, attested)
    expect(new Set(manifestPuts(server.requests))).toEqual(new Set([publishedOf(attested).digest, 'v1']))
  })

  test.each(LAYOUT_FORMS)('is pushed without a signature beside it, as a %s', async (as) => {
    const { server, client } = await connect()
    const entry = { artifactType: 'application/vnd.dev.sigstore.bundle.v0.3+json' }
    await pushLayout({ files: withArtifact(packed, 'signed'.padEnd(1024), { entry }) }, client, { as })
    await expectSame(server, packed)
    expect(new Set(manifestPuts(server.requests))).toEqual(new Set([publishedOf(packed).digest, 'v1']))
  })

  test.each(LAYOUT_FORMS)('is pushed without its images for other platforms, as a %s', async (as) => {
    const arm = makeLayout({ architecture: 'arm64', layers: ['for arm', text] })
    const files = layoutOf([packed, arm])
    for (const [wanted, other, architecture] of [
      [packed, arm, 'amd64'],
      [arm, packed, 'arm64'],
    ] as const) {
      const { server, client } = await connect()
      await pushLayout({ files }, client, { as, platform: { os: 'linux', architecture } })
      await expectSame(server, wanted)
      const listed = new Set(wanted.layers.map(({ digest }) => digest))
      for (const { digest } of other.layers.filter((layer) => !listed.has(layer.digest)))
        expect(await server.blob('app', digest)).toBeUndefined()
      expect(manifestPuts(server.requests)).toEqual([publishedOf(wanted).digest, 'v1'])
    }
  })

  test('keeps a manifest of Docker’s type byte for byte, which has no annotations', async () => {
    const { server, client } = await connect()
    const type = 'application/vnd.docker'
    const config = { mediaType: `${type}.container.image.v1+json` }
    const layers = packed.layers
      .filter((_, at) => at % 2 === 0)
      .map(({ digest, blob }) => ({ mediaType: `${type}.image.rootfs.diff.tar.gzip`, digest, size: blob.length }))
    const own = makeLayout({ layers: ['lower', text] })
    const docker = makeLayout({
      layers: ['lower', text],
      manifest: {
        mediaType: mediaTypes.dockerManifest,
        config: { ...config, digest: own.configDigest, size: own.config.length },
        layers,
      },
      entry: { mediaType: mediaTypes.dockerManifest },
    })
    await pushLayout(docker, client)
    expect(String(server.manifest('app', 'v1')?.bytes)).toBe(String(docker.manifest))
    await expectSameBlobs(server, docker)
    expect(server.manifest('app', 'v1')?.mediaType).toBe(mediaTypes.dockerManifest)
  })

  test.each(LAYOUT_FORMS)('may have zstd layers of several frames, as podman compresses them, as a %s', async (as) => {
    const { server, client } = await connect()
    const tar = made.layers[2]?.bytes ?? Buffer.alloc(0)
    const middle = tar.length / 2
    const parts = [tar.subarray(0, middle), tar.subarray(middle)].map((part) => zstdCompressSync(part))
    // A skippable frame.
    const skipped = Buffer.concat([Buffer.from('502a4d18', 'hex'), Buffer.from([4, 0, 0, 0]), Buffer.from('toc!')])
    const blob = Buffer.concat([...parts, skipped])
    const digest = digestOf(blob)
    const mediaType = 'application/vnd.oci.image.layer.v1.tar+zstd'
    const framed = makeLayout({ layers: [text], manifest: { layers: [{ mediaType, digest, size: blob.length }] } })
    const files = withFiles(framed, { [blobName(digest)]: blob })
    await pushLayout({ files }, client, { as })
    expect(server.tags('app').get('v1')).toBe(publishedOf(framed).digest)
    expect((await server.blob('app', digest))?.equals(blob)).toBe(true)
    await checkImage(await findSource(await storeLayout(folder, files, as)))
  })

  test('may list the image under two names', async () => {
    const { server, client } = await connect()
    const names = ['1.0', 'latest'].map((name) => ({ 'org.opencontainers.image.ref.name': name }))
    const index = indexOf(names.map((annotations) => ({ ...packed.entry, annotations })))
    await pushLayout({ files: withFiles(packed, { 'index.json': index }) }, client)
    await expectSame(server, packed)
  })

  test.each(['folder', 'gzip'] as const)(
    'but listed as uncompressed gets a manifest with the correct media types, as a %s',
    async (as) => {
      const { server, client } = await connect()
      const { layers: listed }: Readonly<Listed> = JSON.parse(packed.manifest.toString())
      const mediaType = 'application/vnd.oci.image.layer.v1.tar'
      const misnamed = makeLayout({
        layers: LAYERS,
        packings: ['gzip', 'zstd', 'gzip', 'zstd'],
        manifest: { layers: listed.map((layer) => ({ ...layer, mediaType })) },
      })
      await pushLayout(misnamed, client, { as })
      const { manifest } = await pulled(server, 'v1')
      expect(manifest.layers.map((layer) => [layer.digest, layer.mediaType.slice(-5)])).toEqual(
        packed.layers.map(({ digest }, at) => [digest, at % 2 === 0 ? '+gzip' : '+zstd']),
      )
    },
  )

  test('may have a layer twice, which is uploaded once', async () => {
    const { server, client } = await connect()
    const twice = makeLayout({ layers: ['same', big, 'same'] })
    await pushLayout(twice, client)
    await expectSame(server, twice)
    expect(uploads(server.requests)).toHaveLength(3)
  })

  test.each(LAYOUT_FORMS)('is not uploaded again, as a %s', async (as) => {
    const { server, client } = await connect()
    await pushLayout(packed, client, { as })
    const before = server.requests.length
    const { layers } = await pushLayout(packed, client, { as })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    const requests = server.requests.slice(before)
    expect(uploads(requests)).toEqual([])
    expect(manifestPuts(requests)).toEqual([publishedOf(packed).digest])
    expect(client.lines.filter((line) => line.endsWith('already exists'))).toHaveLength(4)
  })

  test.each(['folder', 'tar'] as const)('has only missing layers uploaded, as a %s', async (as) => {
    const { server, client } = await connect()
    const there = packed.layers.filter((_, at) => at !== 2)
    for (const { blob } of there) await server.seedBlob('app', blob)
    const { layers } = await pushLayout(packed, client, { as })
    await expectSame(server, packed)
    expect(layers.map(({ reused }) => reused)).toEqual([true, true, false, true])
    const sent = uploads(server.requests).map(digestAskedFor)
    expect(sent.sort()).toEqual([packed.layers[2]?.digest, packed.configDigest].sort())
  })

  test.each(['folder', 'gzip'] as const)(
    'is the same in several repositories, each layer uploaded once, as a %s',
    async (as) => {
      const { server, client } = await connect()
      const images = ['app', 'other'].map((path) => ({ ...client.repository, path }))
      const { manifest } = await pushLayout(packed, client, { as, images })
      for (const { path } of images) {
        await expectSame(server, packed, path)
        expect(server.tags(path).get('v1')).toBe(manifest.digest)
      }
      expect(uploads(server.requests)).toHaveLength(packed.layers.length + 1)
    },
  )

  test('is complete in all repositories if one of them had a layer', async () => {
    const { server, client } = await connect()
    const images = ['app', 'other'].map((path) => ({ ...client.repository, path }))
    await pushLayout(packed, client)
    const { layers } = await pushLayout(packed, client, { images })
    for (const { path } of images) await expectSame(server, packed, path)
    expect(layers.map(({ size }) => size)).toEqual(packed.layers.map(({ blob }) => blob.length))
  })

  test.each(['folder', 'gzip'] as const)('reuses the same layers of a published image, as a %s', async (as) => {
    const { server, client } = await connect()
    await pushLayout(packed, client, { images: [{ ...client.repository, path: 'base' }], tag: 'latest' })
    const before = server.requests.length
    await pushLayout(packed, client, { as, published: await publishedAt(client, 'latest', 'base') })
    await expectSame(server, packed)
    const asked = server.requests.slice(before).filter(({ path }) => path.includes('mount='))
    if (as === 'folder') expect(asked).toHaveLength(packed.layers.length)
  })

  test.each(['folder', 'tar'] as const)('causes no requests for published layers, as a %s', async (as) => {
    const { server, client } = await connect()
    await pushLayout(packed, client, { as, tag: 'latest' })
    const published = await publishedAt(client)
    const before = server.requests.length
    await pushLayout(packed, client, { as, tag: 'latest', published })
    expect(server.requests.slice(before).map(({ method, route }) => `${method} ${route}`)).toEqual([
      'PUT manifest',
      'HEAD manifest',
    ])
  })

  test.each(['folder', 'gzip'] as const)(
    'does not reuse published layers with another compression, as a %s',
    async (as) => {
      const { server, client } = await connect()
      await push(made, client, { tag: 'latest' })
      await pushLayout(packed, client, { as, published: await publishedAt(client) })
      await expectSame(server, packed)
    },
  )

  test('gets a new config and manifest with labels, and keeps its layers', async () => {
    for (const as of LAYOUT_FORMS) {
      const { server, client } = await connect()
      const { manifest } = await pushLayout(packed, client, { as, labels: { a: 'b' } })
      const { digest, config, layers, manifest: read } = await pulled(server, 'v1')
      expect(digest).toBe(manifest.digest)
      expect(digest).not.toBe(publishedOf(packed).digest)
      const own = JSON.parse(packed.config.toString())
      expect(JSON.parse(config.toString())).toEqual({ ...own, config: { ...own.config, Labels: { a: 'b' } } })
      expect(read.layers.map((layer) => layer.digest)).toEqual(packed.layers.map((layer) => layer.digest))
      expect(read.layers.map(({ mediaType }) => mediaType.slice(-4))).toEqual(['gzip', 'zstd', 'gzip', 'zstd'])
      // The annotations of unchanged layers are kept.
      const came = JSON.parse(packed.manifest.toString())
      expect(read.annotations).toEqual({
        ...came.annotations,
        [`${KEY}.store-path`]: STORE_PATH,
        [`${KEY}.labels`]: '["a"]',
        [`${KEY}.compression`]: 'gzip',
      })
      expect(read.layers).toEqual(came.layers)
      expect(digestsOf(layers)).toEqual(packed.layers.map(({ diffId }) => diffId))
    }
  })
})
