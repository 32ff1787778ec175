import { readdir } from 'node:fs/promises'
import { describe, expect, test } from '@jest/globals'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { connect, failureOf, password, start } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { large, spilling } from './large.ts'
import {
  big,
  digestAskedFor,
  expectNothingPublished,
  expectWhole,
  FORMS,
  folder,
  KEY,
  LAYERS,
  made,
  manifestPuts,
  named,
  OPTIONS,
  publishedAt,
  pulled,
  push,
  REFUSAL,
  STORE_PATH,
  setUpFolder,
  store,
  uploads,
} from './pushing.ts'

setUpFolder()

describe('a pushed image', () => {
  test.each(FORMS)('from a %s has the config byte for byte, and the layers, that Nix built', async (form) => {
    const { server, client } = await connect()
    const { manifest, layers } = await push(large, client, { form })
    await expectWhole(server, 'v1', large)
    const { digest, manifest: read } = await pulled(server, 'v1')
    expect(manifest.digest).toBe(digest)
    expect(read.config.digest).toBe(large.configDigest)
    expect(read.mediaType).toBe(mediaTypes.ociManifest)
    expect(read.config.mediaType).toBe('application/vnd.oci.image.config.v1+json')
    for (const { mediaType } of read.layers) expect(mediaType).toBe('application/vnd.oci.image.layer.v1.tar+gzip')
    expect(layers.map(({ diffId, digest: blob, size, reused }) => [diffId, blob, size, reused])).toEqual(
      large.layers.map(({ diffId }, at) => [diffId, read.layers[at]?.digest, read.layers[at]?.size, false]),
    )
  })

  test('has the same digest for each form, file name and repeated push', async () => {
    const digests = new Set<string>()
    for (const form of FORMS) {
      for (const options of [OPTIONS, named, { ...named, manifestFirst: true }]) {
        const { client } = await connect()
        digests.add((await push(makeArchive(options), client, { form })).manifest.digest)
      }
    }
    expect(digests.size).toBe(1)
  })

  test('in zstd has zstd’s media type and the same layers', async () => {
    const { server, client } = await connect()
    await push(large, client, { compression: { format: 'zstd', level: 3 } })
    await expectWhole(server, 'v1', large)
    const { manifest } = await pulled(server, 'v1')
    for (const { mediaType } of manifest.layers) expect(mediaType).toBe('application/vnd.oci.image.layer.v1.tar+zstd')
  })

  test.each(['hard-link', 'symbolic-link'] as const)('with a layer twice, by %s, lists it twice', async (links) => {
    for (const form of FORMS) {
      const { server, client } = await connect()
      const twice = makeArchive({ layers: ['same', big, 'same'], links })
      await push(twice, client, { form })
      await expectWhole(server, 'v1', twice)
      // The config as well.
      expect(uploads(server.requests)).toHaveLength(3)
    }
  })

  // As `docker save` names layers: configs have such names too, and only the content tells them apart.
  const blobName = (diffId: string) => `blobs/sha256/${diffId.slice('sha256:'.length)}`
  test.each(
    ['[id].js', '[...all].json', '{x}.json', '{'].flatMap((name) => FORMS.map((form) => [name, form] as const)),
  )('has a layer that begins like JSON, with a file called %s: %s', async (name, form) => {
    const { server, client } = await connect()
    const pages = writeTar([{ name, content: 'export default 1' }])
    const alike = makeArchive({ layers: ['lower', pages, 'upper'], layerName: blobName })
    await push(alike, client, { form })
    await expectWhole(server, 'v1', alike)
    const checked = await checkImage(await findSource(await store(alike.bytes, form)))
    expect(checked.config.diffIds).toEqual(alike.layers.map(({ diffId }) => diffId))
  })

  test.each(FORMS)(
    'from a %s has only its layers and its config uploaded, whatever the size of its documents',
    async (form) => {
      const { server, client } = await connect()
      const document = {
        name: 'other.json',
        content: JSON.stringify({ size: 'x'.repeat(1024 - '{"size":""}'.length) }),
      }
      await push({ bytes: writeTar([document, ...made.members]) }, client, { form })
      await expectWhole(server, 'v1', made)
      expect(uploads(server.requests)).toHaveLength(LAYERS.length + 1)
      expect(server.requests.map(digestAskedFor)).not.toContain(digestOf(Buffer.from(document.content)))
    },
  )

  test.each(FORMS)('from a %s may have no layers', async (form) => {
    const { server, client } = await connect()
    const empty = makeArchive({ layers: [] })
    await push(empty, client, { form })
    await expectWhole(server, 'v1', empty)
  })

  test('from a plain tar has all layers in order, even if there are more than are uploaded at once', async () => {
    const { server, client } = await connect()
    const many = makeArchive({ layers: Array.from({ length: 45 }, (_, at) => `layer ${at}`) })
    await push(many, client)
    await expectWhole(server, 'v1', many)
  })
})

describe('the tag', () => {
  test.each(FORMS)('is pushed last, after the manifest, which follows its blobs: %s', async (form) => {
    const { server, client } = await connect()
    const { manifest } = await push(made, client, { form })
    expect(manifestPuts(server.requests)).toEqual([manifest.digest, 'v1'])
    const stored = server.requests.filter(({ method }) => method === 'PUT').map(({ route }) => route)
    expect(stored.slice(-2)).toEqual(['manifest', 'manifest'])
    expect(stored.slice(0, -2)).toEqual(Array(made.layers.length + 1).fill('upload'))
  })

  test('may be empty: then the image is pushed by digest alone', async () => {
    const { server, client } = await connect()
    const { manifest } = await push(made, client, { tag: '' })
    expect([...server.tags('app').keys()]).toEqual([])
    await expectWhole(server, manifest.digest, made)
  })

  test('is not written if it points to the image already, because it may be immutable', async () => {
    const { server, client } = await connect()
    await push(made, client)
    const before = server.requests.length
    const again = await push(made, client)
    expect(manifestPuts(server.requests.slice(before))).toEqual([again.manifest.digest])
  })

  test('is moved if it points to another image', async () => {
    const { server, client } = await connect()
    await push(makeArchive(), client)
    await push(made, client)
    await expectWhole(server, 'v1', made)
  })

  test('is set only when every repository has the image', async () => {
    const { server, client } = await connect()
    server.setFault(({ method, route, repository }) =>
      method === 'PUT' && route === 'manifest' && repository === 'other'
        ? { kind: 'status', status: 403, body: REFUSAL }
        : undefined,
    )
    const images = [client.repository, { ...client.repository, path: 'other' }]
    await failureOf(push(made, client, { images }))
    expect([...server.tags('app').keys()]).toEqual([])
  })
})

describe('several repositories', () => {
  test('get the same digest, and the image is read once', async () => {
    const { server, client } = await connect()
    const images = ['app', 'other', 'third'].map((path) => ({ ...client.repository, path }))
    const path = await store(made.bytes, 'script')
    const { manifest } = await push(made, client, { images, path })
    for (const image of images) {
      expect(server.tags(image.path).get('v1')).toBe(manifest.digest)
      await expectWhole(server, 'v1', made, image.path)
    }
    expect((await readdir(folder)).filter((name) => name.endsWith('.runs'))).toHaveLength(1)
  })

  test('of one registry receive each layer once', async () => {
    const { server, client } = await connect()
    const images = ['app', 'other', 'third'].map((path) => ({ ...client.repository, path }))
    await push(made, client, { images })
    const sent = server.requests.filter(({ method, route }) => method === 'PUT' && route === 'upload')
    expect(new Set(sent.map(({ repository }) => repository))).toEqual(new Set(['app']))
    // Three distinct layers and the config.
    expect(sent).toHaveLength(new Set(made.layers.map(({ diffId }) => diffId)).size + 1)
    for (const image of images) await expectWhole(server, 'v1', made, image.path)
  })

  test('mount the layers that one of them has', async () => {
    const { server, client } = await connect()
    await push(made, client, { tag: 'latest' })
    const images = [client.repository, { ...client.repository, path: 'other' }]
    const before = server.requests.length
    const { layers } = await push(made, client, { images, published: await publishedAt(client) })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before)).map(({ repository }) => repository)).toEqual(['other'])
    await expectWhole(server, 'v1', made, 'other')
  })

  test('get no tag if one of them refuses the image', async () => {
    const { server, client } = await connect(
      {
        fault: ({ route, repository }) =>
          route === 'uploads' && repository === 'other' ? { kind: 'status', status: 403, body: REFUSAL } : undefined,
      },
      password,
    )
    const images = [client.repository, { ...client.repository, path: 'other' }]
    const error = await failureOf(push(made, client, { images }))
    expect(error.message).toContain('not yours')
    expectNothingPublished(server)
    expectNothingPublished(server, 'other')
  })

  test.each(FORMS)('fail if one of them refuses a layer, after running uploads have ended: %s', async (form) => {
    // The other registry is slow: it is still receiving the same layer, from the same file, when the first one refuses.
    const slow = await start({ delayMs: 50 })
    const { server, client } = await connect(
      {
        fault: ({ method, route, count }) =>
          method === 'PUT' && route === 'upload' && count >= 2
            ? { kind: 'status', status: 403, body: REFUSAL }
            : undefined,
      },
      password,
    )
    const images = [{ ...client.repository, host: slow.host }, client.repository]
    const error = await failureOf(push(spilling, client, { images, form }))
    expect(error).toMatchObject({ problem: 'denied', status: 403, code: 'DENIED' })
    expect(error.message).toContain(`Can't upload the blob ${server.host}/app@sha256:`)
    expect(error.message).toContain('not yours')
    for (const one of [slow, server]) expectNothingPublished(one)
    // Running uploads end normally instead of losing their file.
    const begun = slow.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads')
    expect(begun.length).toBeGreaterThan(0)
    expect(uploads(slow.requests)).toHaveLength(begun.length)
    expect(client.waits).toEqual([])
  })
})

describe('the annotations of the manifest contain the build info', () => {
  test.each(FORMS)('of a %s, with the sorted keys of added labels', async (form) => {
    const { server, client } = await connect()
    await push(made, client, { form })
    const annotations = { [`${KEY}.store-path`]: STORE_PATH }
    expect((await pulled(server, 'v1')).manifest.annotations).toEqual(annotations)
    await push(made, client, { form, labels: { b: '1', a: '2' } })
    expect((await pulled(server, 'v1')).manifest.annotations).toEqual({
      ...annotations,
      [`${KEY}.labels`]: '["a","b"]',
    })
  })

  test('so that two store paths with the same content have two digests', async () => {
    const { client } = await connect()
    const other = `/nix/store/${'1'.repeat(32)}-image.tar.gz`
    const [one, two] = [await push(made, client), await push(made, client, { storePath: other })]
    expect(two.manifest.digest).not.toBe(one.manifest.digest)
  })
})

describe('labels', () => {
  test('are added to the config, which otherwise stays the same', async () => {
    const { server, client } = await connect()
    const archive = makeArchive({
      ...OPTIONS,
      config: { config: { Cmd: ['/bin/app'], Labels: { mine: '1', ours: 'nix' } } },
    })
    await push(archive, client, { tag: 'plain' })
    await push(archive, client, { labels: { ours: 'label', 'org.x': 'a=b' } })
    const [before, after] = [await pulled(server, 'plain'), await pulled(server, 'v1')]
    expect(after.manifest.layers).toEqual(before.manifest.layers)
    const expected = JSON.parse(before.config.toString())
    expected.config.Labels = { mine: '1', ours: 'label', 'org.x': 'a=b' }
    expect(JSON.parse(after.config.toString())).toEqual(expected)
    expect(after.manifest.config.digest).not.toBe(before.manifest.config.digest)
  })

  test('are added to an image without a config section', async () => {
    const { server, client } = await connect()
    await push(makeArchive({ config: { config: null } }), client, { labels: { a: 'b' } })
    expect(JSON.parse((await pulled(server, 'v1')).config.toString()).config).toEqual({ Labels: { a: 'b' } })
  })
})

test('the log reports the result for each layer, folded below their number', async () => {
  const { client } = await connect()
  await push(made, client, { tag: 'latest' })
  const [title = '', ...more] = groupOf(client.lines, /^[0-9a-f]{12}: /)
  expect(title).toMatch(/^4 layers: 0 reused, 4 pushed \(.* of .*\) in \d+(\.\d)? m?s$/)
  expect(more).toHaveLength(made.layers.length)
  const pushedLines = client.lines.filter((line) =>
    /^[0-9a-f]{12}: .* → .*, pushed in [\d.]+ m?s( \(.*\/s\))?$/.test(line),
  )
  expect(pushedLines).toHaveLength(made.layers.length)
  await push(made, client, { published: await publishedAt(client) })
  expect(client.lines.filter((line) => /^[0-9a-f]{12}: .*, reused \(/.test(line))).toHaveLength(made.layers.length)
})

test('after a failure, the log has the layers that were done', async () => {
  const { server, client } = await connect()
  server.setFault(({ method, route }) =>
    method === 'PUT' && route === 'manifest' ? { kind: 'status', status: 403, body: REFUSAL } : undefined,
  )
  await expect(push(made, client)).rejects.toThrow('DENIED')
  const [title, ...lines] = groupOf(client.lines, /^[0-9a-f]{12}: /)
  expect(title).toBe('Layers pushed or reused before the error')
  expect(lines).toHaveLength(made.layers.length)
})

/** Returns the lines that match a pattern, after the line before the first of them. */
function groupOf(lines: readonly string[], pattern: RegExp): readonly string[] {
  const first = lines.findIndex((line) => pattern.test(line))
  return [lines[first - 1] ?? '', ...lines.filter((line) => pattern.test(line))]
}
