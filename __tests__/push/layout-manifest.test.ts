import { describe, expect, test } from '@jest/globals'
import { connect } from '../registry/connect.ts'
import { LAYOUT_FORMS, makeLayout, withFiles } from '../support/layout.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import {
  digestsOf,
  KEY,
  LAYERS,
  type Listed,
  made,
  publishedAt,
  pulled,
  push,
  pushLayout,
  STORE_PATH,
  setUpFolder,
  uploads,
} from './pushing.ts'

setUpFolder()

describe('the manifest of an OCI layout keeps its fields', () => {
  const subject = { mediaType: mediaTypes.ociManifest, digest: `sha256:${'5'.repeat(64)}`, size: 12 }
  const layers = ['lower', 'upper']
  const { config }: Readonly<Listed> = JSON.parse(makeLayout({ layers }).manifest.toString())
  const told = {
    artifactType: 'application/vnd.example',
    subject,
    config: { ...config, data: 'e30=', annotations: { a: 'b' } },
    'org.example.field': [1, null, { a: true }],
  }
  // As JSON, because in an object literal `__proto__` sets the prototype.
  const annotations = JSON.parse('{"org.example":"ä\\"","__proto__":"own"}')
  const rich = makeLayout({ layers, manifest: { ...told, annotations } })

  test('without labels, in their order', async () => {
    const { server, client } = await connect()
    await pushLayout(rich, client)
    expect(String(server.manifest('app', 'v1')?.bytes)).toBe(
      JSON.stringify(JSON.parse(rich.manifest.toString())).replace(
        '"__proto__":"own"}',
        `"__proto__":"own","${KEY}.store-path":"${STORE_PATH}"}`,
      ),
    )
  })

  test('with labels, except the config’s digest, size and embedded bytes', async () => {
    const { server, client } = await connect()
    await pushLayout(rich, client, { labels: { a: '1' } })
    const read = JSON.parse(String(server.manifest('app', 'v1')?.bytes))
    const { digest, size, ...rest } = read.config
    expect(rest).toEqual({ mediaType: config.mediaType, annotations: { a: 'b' } })
    expect((await server.blob('app', digest))?.length).toBe(size)
    expect(read).toMatchObject({
      subject,
      artifactType: told.artifactType,
      'org.example.field': [1, null, { a: true }],
    })
    expect(Object.keys(read)).toEqual(Object.keys(JSON.parse(rich.manifest.toString())))
  })

  test('except the build info of another build, as in a copy of a published image', async () => {
    const { server, client } = await connect()
    const other = `/nix/store/${'1'.repeat(32)}-image.tar.gz`
    const claims = { [`${KEY}.store-path`]: other, [`${KEY}.labels`]: '["a"]', [`${KEY}.compression`]: 'zstd' }
    const copy = makeLayout({ layers: ['lower'], manifest: { annotations: { ...claims, 'org.example': 'x' } } })
    await pushLayout(copy, client)
    expect((await pulled(server, 'v1')).manifest.annotations).toEqual({
      'org.example': 'x',
      [`${KEY}.store-path`]: STORE_PATH,
    })
  })
})

describe('an OCI layout with uncompressed layers', () => {
  const mixed = makeLayout({ layers: LAYERS, packings: ['plain', 'plain', 'gzip', 'zstd'] })

  test.each(LAYOUT_FORMS.flatMap((as) => (['gzip', 'zstd'] as const).map((format) => [as, format] as const)))(
    'as a %s has them compressed with %s, and the others unchanged',
    async (as, format) => {
      const { server, client } = await connect()
      await pushLayout(mixed, client, { as, compression: { format, level: 3 } })
      const { config, layers, manifest } = await pulled(server, 'v1')
      expect(config.equals(mixed.config)).toBe(true)
      expect(digestsOf(layers)).toEqual(mixed.layers.map(({ diffId }) => diffId))
      expect(manifest.layers.map(({ mediaType }) => mediaType)).toEqual(
        [format, format, 'gzip', 'zstd'].map((each) => `application/vnd.oci.image.layer.v1.tar+${each}`),
      )
      expect(manifest.layers.slice(2).map(({ digest }) => digest)).toEqual(
        mixed.layers.slice(2).map(({ digest }) => digest),
      )
      const elsewhere = { 'org.example.made': 'elsewhere' }
      expect(manifest.layers.map(({ annotations }) => annotations)).toEqual([
        undefined,
        undefined,
        elsewhere,
        elsewhere,
      ])
    },
  )

  test('is the same image as a docker archive with these layers', async () => {
    const { client } = await connect()
    const packings = ['plain', 'plain', 'plain', 'plain'] as const
    const plain = makeLayout({ layers: LAYERS, packings, manifest: { annotations: undefined } })
    const { manifest } = await push(made, client)
    expect((await pushLayout(plain, client)).manifest.digest).toBe(manifest.digest)
  })

  test.each(['folder', 'tar'] as const)('reuses published layers without reading them, as a %s', async (as) => {
    const { server, client } = await connect()
    await pushLayout(mixed, client, { tag: 'latest' })
    const published = await publishedAt(client)
    const before = server.requests.length
    const unreadable = Object.fromEntries(mixed.layers.map(({ name, blob }) => [name, Buffer.alloc(blob.length, 'x')]))
    const { layers } = await pushLayout({ files: withFiles(mixed, unreadable) }, client, { as, published })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before))).toEqual([])
    expect(digestsOf((await pulled(server, 'v1')).layers)).toEqual(mixed.layers.map(({ diffId }) => diffId))
  })
})
