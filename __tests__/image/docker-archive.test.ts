import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { ImageError } from '../../src/errors.ts'
import { readArchive } from '../../src/image/archive.ts'
import { streamReader } from '../../src/image/byte-reader.ts'
import { type OpenImage, openImageReader, type SourceImage } from '../../src/image/source-image.ts'
import { digestOf } from '../../src/oci/reference.ts'
import {
  type ArchiveOptions,
  type MadeArchive,
  makeArchive,
  memberBounds,
  readLayerFiles,
  type TarMember,
  writeTar,
} from '../support/image.ts'

function openBytes(bytes: Buffer): OpenImage {
  async function* stream() {
    yield bytes
  }
  return openImageReader(readArchive(streamReader(stream()), '/nix/store/app.tar'))
}

function read(bytes: Buffer): Promise<SourceImage> {
  return openBytes(bytes).image()
}

/** Returns the image that an archive should be read as. */
function contentOf({ layers, config, configDigest }: MadeArchive, names: readonly string[] = ['app:nix']): object {
  const { os, architecture, created, history = [] } = JSON.parse(config.toString())
  const diffIds = layers.map(({ diffId }) => diffId)
  return {
    names,
    configDigest,
    configBytes: config,
    layerNames: layers.map(({ file }) => file),
    config: {
      os,
      architecture,
      diffIds,
      labels: {},
      created,
      comments: history.map(({ comment }: { comment: string }) => comment),
    },
    archiveManifest: expect.any(Buffer),
  }
}

const deep = (_: string, index: number): string => `${'deep/'.repeat(30)}${index}/layer.tar`

describe('a docker archive is the same image with', () => {
  test.each<[string, ArchiveOptions]>([
    ['manifest.json last (buildLayeredImage)', {}],
    ['manifest.json first (buildImage)', { manifestFirst: true }],
    ['no layers', { layers: [] }],
    ['a hundred layers', { layers: Array.from({ length: 100 }, (_, at) => `layer ${at}`) }],
    ['layers named by their diff IDs', { layerName: (diffId) => `${diffId.slice(7)}/layer.tar` }],
    ['equal layers in several files', { layers: ['same', 'other', 'same'] }],
    ['layers that are hard links to others', { layers: ['same', 'other', 'same'], links: 'hard-link' }],
    ['layers that are symbolic links to others', { layers: ['same', 'other', 'same'], links: 'symbolic-link' }],
    ['links before their targets', { layers: ['same', 'same'], links: 'symbolic-link', manifestFirst: true }],
    ['names with a leading ./', { prefix: './' }],
    ['names with a leading ./, and links', { prefix: './', layers: ['same', 'same'], links: 'symbolic-link' }],
    ['long names in two fields', { layerName: deep }],
    ['long names by pax', { layerName: deep, header: 'pax' }],
    ['long names by GNU', { layerName: deep, header: 'gnu' }],
    ['long names by pax, and links', { layerName: deep, header: 'pax', layers: ['a', 'a'], links: 'symbolic-link' }],
    ['sizes in base 256', { base256: true }],
    ['another architecture', { architecture: 'arm64' }],
  ])('%s', async (_, options) => {
    const made = makeArchive(options)
    expect(await read(made.bytes)).toEqual(contentOf(made))
  })

  test('a link may come before the layer that it points to', async () => {
    const made = makeArchive({ layers: ['same', 'same'], links: 'hard-link' })
    expect(await read(writeTar([...made.members].reverse()))).toEqual(contentOf(made))
  })

  test('a link may point to a link', async () => {
    const made = makeArchive({ layers: ['same', 'same', 'same'], links: 'symbolic-link' })
    const [, second, third] = made.members
    const chained = { ...third, name: third?.name ?? '', linkName: `../${second?.name}` }
    expect(await read(writeTar(made.members.map((one) => (one === third ? chained : one))))).toEqual(contentOf(made))
  })

  test('the last of several members with the same name counts, as when the tar is extracted', async () => {
    const made = makeArchive()
    const stale = [
      { name: 'manifest.json', content: '[]' },
      { name: `./${made.configName}`, content: '{}' },
      { name: made.layers[0]?.name ?? '', content: 'stale' },
    ]
    expect(await read(writeTar([...stale, ...made.members]))).toEqual(contentOf(made))
  })

  test('folders, repositories and other members are ignored', async () => {
    const made = makeArchive()
    const more: readonly TarMember[] = [
      { name: './', type: 'folder' },
      { name: 'repositories', content: '{"app":{"nix":"x"}}' },
      { name: 'x/VERSION', content: '1.0' },
      { name: 'x/json', content: '{}' },
    ]
    expect(await read(writeTar([...more, ...made.members]))).toEqual(contentOf(made))
  })

  test.each([
    ['several names', ['app:nix', 'ghcr.io/owner/app:v1'], ['app:nix', 'ghcr.io/owner/app:v1']],
    ['no names', [], []],
    ['null for names', null, []],
  ])('%s', async (_, repoTags, names) => {
    const made = makeArchive({ repoTags })
    expect(await read(made.bytes)).toEqual(contentOf(made, names))
  })

  test('documents may begin with white space', async () => {
    const made = makeArchive()
    const config = Buffer.from(` \r\n\t${made.config}`)
    const configDigest = digestOf(config)
    const spaced = made.members.map((one) => {
      if (one.name === made.configName) return { ...one, content: config }
      return one.name === 'manifest.json' ? { ...one, content: `\n${one.content}` } : one
    })
    expect(await read(writeTar(spaced))).toEqual(contentOf({ ...made, config, configDigest }))
  })

  test.each(['config', 'x/json', 'blobs/sha256/config', 'config.v1', 'config:latest'])(
    'a config may be called %s, and have any length',
    async (name) => {
      for (const length of [1024, 1025]) {
        const made = makeArchive({ manifest: { Config: name } })
        const config = Buffer.from(made.config.toString().padEnd(length))
        const members = made.members.map((one) => (one.name === made.configName ? { name, content: config } : one))
        const configDigest = digestOf(config)
        expect(await read(writeTar(members))).toEqual(contentOf({ ...made, config, configDigest }))
      }
    },
  )

  test('manifest.json may be a link', async () => {
    const made = makeArchive()
    const members = made.members.map((one) => (one.name === 'manifest.json' ? { ...one, name: 'x/listed' } : one))
    const link: TarMember = { name: 'manifest.json', type: 'symbolic-link', linkName: 'x/listed' }
    expect(await read(writeTar([link, ...members]))).toEqual(contentOf(made))
  })

  test('the config’s variant and labels are returned', async () => {
    const made = makeArchive({ architecture: 'arm', variant: 'v7', config: { config: { Labels: { a: 'b' } } } })
    expect((await read(made.bytes)).config).toMatchObject({ architecture: 'arm', variant: 'v7', labels: { a: 'b' } })
  })

  test('many small layers may be among the blobs of an OCI layout, as docker save and skopeo write them', async () => {
    const layers = Array.from({ length: 20 }, (_, at) => Buffer.alloc(3.5 * 1024 * 1024, at + 1))
    const made = makeArchive({ layers, layerName: (diffId) => `blobs/sha256/${diffId.slice(7)}` })
    expect(await read(made.bytes)).toEqual(contentOf(made))
  })
})

describe('a layer that begins like JSON', () => {
  const layerNames: readonly [string, (diffId: string) => string][] = [
    ['a blob of an OCI layout', (diffId) => `blobs/sha256/${diffId.slice(7)}`],
    ['a JSON file', (diffId) => `${diffId.slice(7)}.json`],
  ]
  test.each(
    layerNames.flatMap(([as, layerName]) => ['[id].js', '{x}.json'].map((name) => [name, as, layerName] as const)),
  )('with a first file called %s, and named as %s, is yielded with all its bytes', async (name, _, layerName) => {
    const layers = [writeTar([{ name, content: 'first' }]), writeTar([{ name: `${name}/2`, content: 'second' }])]
    const made = makeArchive({ layers, layerName })
    const opened = openBytes(made.bytes)
    const files = new Map(await readLayerFiles(opened))
    expect(await opened.image()).toEqual(contentOf(made))
    for (const layer of made.layers) expect(files.get(layer.file)).toEqual(layer.bytes)
  })
})

test.each([511, 512, 1024])('a JSON file of %d bytes is not mistaken for a layer', async (size) => {
  const made = makeArchive()
  const content = JSON.stringify({ size: 'x'.repeat(size - '{"size":""}'.length) })
  const files = await readLayerFiles(openBytes(writeTar([{ name: 'other.json', content }, ...made.members])))
  expect(files.map(([name]) => name)).toEqual(made.layers.map(({ file }) => file))
})

describe('an incomplete image', () => {
  const made = makeArchive()
  const [lower] = made.layers
  const listed = (...entries: unknown[]): Buffer =>
    writeTar([
      ...made.members.filter(({ name }) => name !== 'manifest.json'),
      { name: 'manifest.json', content: JSON.stringify(entries) },
    ])
  const replaced = (name: string, content: string): Buffer =>
    writeTar(made.members.map((one) => (one.name === name ? { ...one, content } : one)))
  const without = (name: string | undefined): Buffer => writeTar(made.members.filter((one) => one.name !== name))

  test.each<[string, Buffer, RegExp]>([
    [
      'a layer is missing',
      without(lower?.name),
      new RegExp(`not a complete image: these layers are missing: ${lower?.name}`),
    ],
    [
      'the config is missing',
      without(made.configName),
      new RegExp(`not a complete image: its config ${made.configName} is missing`),
    ],
    [
      'manifest.json is missing',
      without('manifest.json'),
      /is a tar but not an image: it has neither manifest\.json nor index\.json\n {2}it contains .+layer\.tar.+\n.*dockerTools\.buildImage.*truncated/,
    ],
    ['the tar is empty', Buffer.alloc(10240), /neither manifest\.json nor index\.json\n {2}it contains nothing\n/],
    ['manifest.json lists nothing', listed(), /its manifest\.json lists no image/],
    ['manifest.json is empty', replaced('manifest.json', ''), /not a complete image: its manifest\.json is empty$/],
    [
      'manifest.json is text',
      replaced('manifest.json', 'hello, world'),
      /not a complete image: its manifest\.json: it is not JSON$/,
    ],
    [
      'manifest.json is too large',
      replaced('manifest.json', `[${' '.repeat(5e6)}]`),
      /not a complete image: its manifest\.json is too large \(5\.0 MB, at most 4\.2 MB\)$/,
    ],
    [
      'manifest.json is empty the second time',
      writeTar([...made.members, { name: 'manifest.json' }]),
      /its manifest\.json is empty$/,
    ],
    ['the config is empty', replaced(made.configName, ''), /its config \w+\.json is empty$/],
    ['the config is text', replaced(made.configName, 'hello, world'), /its config \w+\.json is not JSON$/],
    [
      'the config is too large',
      replaced(made.configName, '{}'.padEnd(6e6)),
      /its config \w+\.json is too large \(6\.0 MB, at most 4\.2 MB\)$/,
    ],
    ['index.json is empty', writeTar([{ name: 'index.json' }]), /not a complete image: its index\.json is empty$/],
    [
      'manifest.json is not JSON',
      writeTar([{ name: 'manifest.json', content: '{' }]),
      /not a complete image: its manifest\.json: .*JSON/,
    ],
    [
      'manifest.json has another structure',
      writeTar([{ name: 'manifest.json', content: '{"Config":"x"}' }]),
      /its manifest\.json: .*Array/,
    ],
    [
      'a name in manifest.json is not a string',
      listed({ ...made.manifest, Config: 7 }),
      /its manifest\.json, at 0\.Config: .*string/,
    ],
    [
      'there are fewer layers than diff IDs',
      listed({ ...made.manifest, Layers: [lower?.name] }),
      /it has 1 layers, and its config lists 2/,
    ],
    [
      'there are more layers than diff IDs',
      makeArchive({ config: { rootfs: { diff_ids: [] } } }).bytes,
      /it has 2 layers, and its config lists 0/,
    ],
    ['layers is null', listed({ ...made.manifest, Layers: null }), /it has 0 layers, and its config lists 2/],
    [
      'the config is not JSON',
      writeTar(made.members.map((one) => (one.name === made.configName ? { ...one, content: '{' } : one))),
      /app\.tar is not a complete image: the config .+ not JSON/,
    ],
    [
      'the config names no architecture',
      makeArchive({ config: { architecture: undefined } }).bytes,
      /the config .+ architecture/,
    ],
    [
      'a diff ID is invalid',
      makeArchive({ config: { rootfs: { diff_ids: ['x', 'y'] } } }).bytes,
      /the config .+ sha256 digest/,
    ],
    [
      'a layer is a folder',
      writeTar(made.members.map((one) => (one.name === lower?.name ? { name: one.name, type: 'folder' } : one))),
      /these layers are missing/,
    ],
    [
      'a layer links to itself',
      writeTar(
        made.members.map((one) =>
          one.name === lower?.name ? { name: one.name, type: 'hard-link', linkName: one.name } : one,
        ),
      ),
      /these layers are missing/,
    ],
    [
      'a layer links to a file outside',
      writeTar(
        made.members.map((one) =>
          one.name === lower?.name ? { name: one.name, type: 'symbolic-link', linkName: '../../etc/passwd' } : one,
        ),
      ),
      /these layers are missing/,
    ],
    [
      'a member is outside the archive',
      writeTar([...made.members, { name: 'x/../../etc/passwd', content: 'root' }]),
      /its member x\/\.\.\/\.\.\/etc\/passwd points outside the archive/,
    ],
  ])('%s: the message says so, and of which file', async (_, bytes, message) => {
    const reading = read(bytes)
    await expect(reading).rejects.toThrow(message)
    await expect(reading).rejects.toThrow('/nix/store/app.tar')
    await expect(reading).rejects.toBeInstanceOf(ImageError)
  })

  test('the error for two images names both, and says how to build one', async () => {
    const nameless = { ...made.manifest, RepoTags: null, Config: 'other.json' }
    const reading = read(listed(made.manifest, nameless))
    await expect(reading).rejects.toThrow(
      /^\/nix\/store\/app\.tar has 2 images, and only one can be pushed\n {2}app:nix\n {2}other\.json\nBuild each image/,
    )
    await expect(reading).rejects.toBeInstanceOf(ImageError)
  })

  test('the JSON files together are limited', async () => {
    const limit = 64 * 1024 * 1024
    const most = Buffer.alloc(limit / 16, '{')
    const full = Array.from({ length: 16 }, () => most)
    let given = 0
    async function* tar(documents: readonly Buffer[]): AsyncGenerator<Buffer> {
      for (const content of documents) yield writeTar([{ name: `${given++}.json`, content }], 0)
    }
    const readAll = (...documents: readonly Buffer[]) =>
      openImageReader(readArchive(streamReader(tar(documents)), '/nix/store/app.tar')).image()
    await expect(readAll(...full)).rejects.toThrow('it has neither manifest.json nor index.json')
    given = 0
    const one = Buffer.from('{')
    const reading = readAll(...full, one, one, one)
    await expect(reading).rejects.toThrow(
      `/nix/store/app.tar is not a complete image: it contains more than ${limit} bytes of JSON`,
    )
    await expect(reading).rejects.toBeInstanceOf(ImageError)
    expect(given).toBe(17)
  })

  test('a long link to itself that is listed as very many layers is not followed each time', async () => {
    const tar = writeTar([
      { name: 'loop', type: 'symbolic-link', linkName: `${'./'.repeat(2000)}loop`, header: 'pax' },
      { name: 'config.json', content: makeArchive({ layers: [] }).config },
      {
        name: 'manifest.json',
        content: `[{"Config":"config.json","Layers":[${Array.from({ length: 500_000 }, () => '"loop"').join()}]}]`,
      },
    ])
    await expect(read(tar)).rejects.toThrow(/it has 500000 layers, and its config lists 0$/)
  })

  test('the error for a tar with many members names some of them', async () => {
    const files = Array.from({ length: 20 }, (_, at) => ({ name: `file-${at}` }))
    await expect(read(writeTar(files))).rejects.toThrow(/it contains file-0, .*file-7 and 12 more/)
  })
})

describe('a truncated archive', () => {
  test.each<[string, ArchiveOptions]>([
    ['manifest.json last', {}],
    ['manifest.json first', { manifestFirst: true }],
    ['pax headers', { header: 'pax' }],
    ['GNU headers and links', { header: 'gnu', layers: ['same', 'same'], links: 'hard-link' }],
  ])('with %s is damaged; if only the zeros at its end are missing, it is the same image', async (_, options) => {
    const made = makeArchive(options)
    const end = memberBounds(made.members).at(-1)?.end ?? 0
    const bounds = memberBounds(made.members).flatMap(({ start, end }) => [start, end])
    const telling = bounds.flatMap((at) => [at - 1, at, at + 1, at + 511, at + 512, at + 513])
    const whole = contentOf(made)
    await fc.assert(
      fc.asyncProperty(fc.nat(made.bytes.length - 1), async (length) => {
        const outcome = await read(made.bytes.subarray(0, length)).catch((error: unknown) => error)
        if (length >= end && !(outcome instanceof ImageError)) expect(outcome).toEqual(whole)
        else expect(outcome).toBeInstanceOf(ImageError)
      }),
      { numRuns: 200, examples: telling.filter((at) => at >= 0 && at < made.bytes.length).map((at) => [at]) },
    )
    expect(await read(made.bytes.subarray(0, end))).toEqual(whole)
  })
})
