import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { NOTHING_PUBLISHED } from '../../src/cache/layers.ts'
import { readPreviousImages } from '../../src/cache/previous-image.ts'
import { findUnchanged, lookForUnchanged, namesStorePath, ownIndexes } from '../../src/cache/unchanged.ts'
import { findSource } from '../../src/image/source.ts'
import { EMPTY_CONFIG } from '../../src/oci/manifest.ts'
import { NO_PLATFORM } from '../../src/oci/platform.ts'
import type { Digest, Reference } from '../../src/oci/reference.ts'
import { publishUnchanged, relabel } from '../../src/push/existing.ts'
import { pushImage } from '../../src/push/image.ts'
import type { Labels } from '../../src/push/manifest.ts'
import { attestationAnnotations, sbomAttestation } from '../../src/sbom/attestation.ts'
import { type Client, connect, open, start } from '../registry/connect.ts'
import { type MadeLayout, makeLayout, storeLayout } from '../support/layout.ts'
import { blobsOf, loseBlob, writesTo } from '../support/merging.ts'
import type { RegistryOptions, TestRegistry } from '../support/registry.ts'
import { OCI_MANIFEST, type SeededEntry, seedAttestation, seedImage, seedIndex } from '../support/seed.ts'

const KEY = 'io.github.nix-image-action.store-path'
const LABELS = 'io.github.nix-image-action.labels'
const COMPRESSION = 'io.github.nix-image-action.compression'
const PATH = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
const AMD64 = { os: 'linux', architecture: 'amd64' }
const ARM64 = { os: 'linux', architecture: 'arm64' }

/**
 * Seeds an image whose layer has a media type that this action pushes, and returns its entry for an index.
 * @param own the annotations of its manifest; by default those of its entry
 */
async function seed(
  server: TestRegistry,
  { annotations = { [KEY]: PATH }, own = annotations, platform = AMD64, layer = 'gzip', storePaths }: Seeding = {},
): Promise<SeededEntry> {
  const { digest } = await seedImage(server, 'app', AMD64, undefined, { storePaths })
  const plain = JSON.parse(String(server.manifest('app', digest)?.bytes))
  const layers = plain.layers.map((one: object) => ({
    ...one,
    mediaType: `application/vnd.oci.image.layer.v1.tar+${layer}`,
  }))
  const bytes = Buffer.from(JSON.stringify({ ...plain, layers, annotations: own }))
  const image = { digest: server.seedManifest('app', bytes, OCI_MANIFEST), mediaType: OCI_MANIFEST, size: bytes.length }
  return { ...image, platform, annotations }
}

/** Seeds the SBOM of an image as a build pushes it, and returns its entry for an index. */
async function seedSbom(server: TestRegistry, image: SeededEntry): Promise<SeededEntry> {
  const { mediaType, size } = image
  const subject = { name: 'app', mediaType, size, digest: image.digest as Digest }
  const { manifest, statement } = sbomAttestation(subject, Buffer.from('{"spdxVersion":"SPDX-2.3"}'))
  for (const blob of [EMPTY_CONFIG, statement]) await server.seedBlob('app', blob)
  return {
    mediaType: OCI_MANIFEST,
    digest: server.seedManifest('app', manifest, OCI_MANIFEST),
    size: manifest.length,
    platform: NO_PLATFORM,
    annotations: attestationAnnotations(subject.digest),
  }
}

interface Seeding extends Partial<SeededEntry> {
  readonly layer?: string
  /** In the history of its config. */
  readonly storePaths?: readonly string[]
  readonly own?: Readonly<Record<string, string>>
}

interface Asking {
  readonly path?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly platform?: typeof AMD64
  readonly format?: 'gzip' | 'zstd' | undefined
  readonly references?: readonly Reference[]
  /** The path of the image that is to be published, in the same registry. */
  readonly image?: string
  readonly sbom?: boolean
}

/** The result for a build, and whether it evaluated a store path. */
async function ask(client: Client, asking: Asking = {}) {
  const { path: storePath = PATH, platform = AMD64, image = 'app', labels = {}, sbom = false, references } = asking
  const format = 'format' in asking ? asking.format : 'gzip'
  const { host } = client.repository
  const lines: string[] = []
  const log = { info: (line: string) => void lines.push(line), warning: fail, debug: () => undefined }
  const latest = { repository: client.repository, tag: 'latest' }
  const earlier = await readPreviousImages(client, references ?? [latest], log)
  const indexes = ownIndexes(earlier, [{ host, path: image }])
  const wanted = { platform, storePath, labels, format, sbom }
  const unchanged = await findUnchanged(client, indexes, wanted, log)
  const found = unchanged?.image
  return { worthwhile: namesStorePath(indexes, platform), digest: found?.digest, found, unchanged, lines }
}

function fail(line: string): never {
  throw new Error(`There should be no warning: ${line}`)
}

async function published(entries: readonly Parameters<typeof seed>[1][] = [{}], options: RegistryOptions = {}) {
  const { server, client } = await connect(options)
  const seeded: SeededEntry[] = []
  for (const entry of entries) seeded.push(await seed(server, entry))
  seedIndex(server, 'app', seeded, 'latest')
  return { server, client, first: seeded[0] as SeededEntry }
}

test('an image of the same store path is found, with its size, platform and blobs', async () => {
  const { server, client, first } = await published([{}, { platform: ARM64 }])
  const { found, worthwhile, lines } = await ask(client)
  expect(worthwhile).toBe(true)
  expect(found).toMatchObject({ digest: first.digest, mediaType: OCI_MANIFEST, size: first.size, platform: AMD64 })
  expect(found?.own.blobs.map(({ digest }) => digest)).toEqual(blobsOf(server, 'app', first.digest))
  expect(lines).toEqual([])
})

test('a build is compared only if an index names store paths, and not with `rebuild`', async () => {
  const { server, client, first } = await published()
  seedIndex(server, 'app', [await seed(server, { annotations: {} })], 'foreign')
  const { repository } = client
  const lines: string[] = []
  const log = { info: (line: string) => void lines.push(line), warning: fail, debug: () => undefined }
  const [foreign, latest] = await Promise.all(
    ['foreign', 'latest'].map((tag) => readPreviousImages(client, [{ repository, tag }], log)),
  )
  if (foreign === undefined || latest === undefined) throw new Error('there are two references')
  const question = {
    system: 'x86_64-linux',
    runnerSystem: 'x86_64-linux',
    installable: { options: [], text: '.#image', name: '.#image' },
    nixArgs: [],
    images: [repository],
    labels: {},
    format: 'gzip',
    rebuild: false,
    sbom: false,
  } as const
  expect(await lookForUnchanged({ ...question, rebuild: true }, latest, client, log, PATH)).toBeUndefined()
  expect(await lookForUnchanged(question, foreign, client, log, undefined)).toBeUndefined()
  expect(await lookForUnchanged(question, latest, client, log, PATH)).toMatchObject({
    info: { storePath: PATH, labels: [] },
    image: { digest: first.digest },
  })
  expect(lines).toEqual([])
  expect(await lookForUnchanged(question, latest, client, log, undefined)).toBeUndefined()
  expect(lines).toEqual([
    "Can't check whether .#image is already published: its store path is not known before the build",
  ])
})

test('an image with new labels is read again until the registry has it', async () => {
  const { server, client } = await published()
  const { unchanged } = await ask(client)
  if (unchanged === undefined) throw new Error('nothing was found')
  let reads = 0
  server.setFault(({ method, route }) =>
    method === 'GET' && route === 'manifest' && ++reads <= 2 ? { kind: 'status', status: 404 } : undefined,
  )
  const { image, info } = await relabel(client, unchanged, { a: '1' }, 'gzip')
  expect(image).toMatchObject({ labels: { a: '1' }, own: { annotations: { [KEY]: PATH, [LABELS]: '["a"]' } } })
  expect(info).toEqual({ storePath: PATH, labels: ['a'] })
  expect(server.manifest('app', image.digest)).toBeDefined()
  expect(reads).toBe(3)
})

test('an image with attestations is still unchanged', async () => {
  const { server, client, first } = await published()
  seedIndex(server, 'app', [first, await seedAttestation(server, 'app', first)], 'latest')
  expect((await ask(client)).digest).toBe(first.digest)
})

test('an image that has no SBOM yet is built once, unless it may never get one', async () => {
  const glibc = `/nix/store/${'1'.repeat(32)}-glibc-2.40`
  const rootLayer = `/nix/store/${'2'.repeat(32)}-app-customisation-layer`
  const { server, client, first } = await published([{ storePaths: [glibc] }])
  const { digest, lines } = await ask(client, { sbom: true })
  expect(digest).toBeUndefined()
  expect(lines).toEqual([expect.stringMatching(/^Building .* names its store path: it has no SBOM yet$/)])
  expect((await ask(client, { sbom: false })).digest).toBe(first.digest)
  // Docker attaches none.
  expect((await ask(client, { sbom: true, format: undefined })).digest).toBe(first.digest)

  // A merge of bare digests did not know the SBOM.
  const annotations = { ...first.annotations, 'io.github.nix-image-action.sbom': 'unknown' }
  seedIndex(server, 'app', [{ ...first, annotations }], 'latest')
  expect((await ask(client, { sbom: true })).digest).toBe(first.digest)

  // BuildKit's provenance is an attestation as well.
  seedIndex(server, 'app', [first, await seedAttestation(server, 'app', first)], 'latest')
  expect((await ask(client, { sbom: true })).lines).toEqual(lines)

  seedIndex(server, 'app', [first, await seedSbom(server, first)], 'latest')
  const attested = await ask(client, { sbom: true })
  expect(attested.digest).toBe(first.digest)
  expect(attested.found?.attestations).toHaveLength(1)

  for (const storePaths of [undefined, [], [rootLayer]]) {
    const without = await published([{ ...(storePaths && { storePaths }) }])
    expect((await ask(without.client, { sbom: true })).digest).toBe(without.first.digest)
  }
})

test('an image whose SBOM was deleted is built', async () => {
  const { server, client, first } = await published()
  const sbom = await seedAttestation(server, 'app', first)
  seedIndex(server, 'app', [first, sbom], 'latest')
  const [, statement] = blobsOf(server, 'app', sbom.digest)
  for (const lost of [sbom.digest, statement]) {
    server.setFault(({ reference }) => (reference === lost ? { kind: 'status', status: 404 } : undefined))
    const { digest, lines } = await ask(client, { sbom: true })
    expect(digest).toBeUndefined()
    expect(lines).toEqual([expect.stringMatching(/^Building the image .*(not in|missing from) the registry/)])
  }
})

test('if Docker pushes, any compression is accepted', async () => {
  const { client, first } = await published([{ layer: 'zstd' }])
  expect((await ask(client, { format: 'zstd' })).digest).toBe(first.digest)
  expect((await ask(client, { format: undefined })).digest).toBe(first.digest)
})

test('layers that kept their compression are reused if the same compression is requested', async () => {
  const left = { [KEY]: PATH, [COMPRESSION]: 'gzip' }
  const { client, first } = await published([{ annotations: left, layer: 'zstd' }])
  expect((await ask(client, { format: 'gzip' })).digest).toBe(first.digest)
  const mixed = await published([{ annotations: { ...left, [COMPRESSION]: 'zstd' }, layer: 'gzip' }])
  expect((await ask(mixed.client, { format: 'zstd' })).digest).toBe(mixed.first.digest)
  const other = await published([{ annotations: { ...left, [COMPRESSION]: 'xz' }, layer: 'zstd' }])
  expect((await ask(other.client, { format: 'gzip' })).digest).toBeUndefined()
})

test('labels may have new values, and labels may be added', async () => {
  const { client, first } = await published([{ annotations: { [KEY]: PATH, [LABELS]: '["a","b"]' } }])
  expect((await ask(client, { labels: { a: '1', b: '2', c: '3' } })).digest).toBe(first.digest)
})

test('finds the image among several references, some of which do not exist or name another image', async () => {
  const { server, client, first } = await published()
  const { repository } = client
  server.seedTag('app', 'single', first.digest)
  const tags = ['none', 'single', 'latest'].map((tag) => ({ repository, tag }))
  expect(await ask(client, { references: tags })).toMatchObject({
    digest: first.digest,
    lines: [`${server.host}/app:none does not exist yet; no layers are reused`],
  })
})

describe('builds without a log line', () => {
  test('if another store path was published', async () => {
    const { client } = await published()
    const other = PATH.replace('0', '1')
    expect(await ask(client, { path: other })).toMatchObject({ worthwhile: true, digest: undefined, lines: [] })
  })

  test.each([
    ['the index names no store path', { annotations: {} }],
    ['its store path is invalid', { annotations: { [KEY]: `${PATH}\n::error::x` } }],
    ['its store path is for another platform', { platform: ARM64 }],
    ['its list of labels is not JSON', { annotations: { [KEY]: PATH, [LABELS]: 'a' } }],
    ['its list of labels is an object', { annotations: { [KEY]: PATH, [LABELS]: '{"a":"b"}' } }],
    ['a label is not a string', { annotations: { [KEY]: PATH, [LABELS]: '["a",1]' } }],
  ])('if %s', async (_, entry) => {
    const { client } = await published([entry])
    expect(await ask(client)).toMatchObject({ worthwhile: false, digest: undefined, lines: [] })
  })

  test('if the index is in another repository, whose owner may claim any store path', async () => {
    const { client } = await published()
    expect(await ask(client, { image: 'other' })).toMatchObject({ worthwhile: false, digest: undefined, lines: [] })
  })
})

describe('builds, and logs why', () => {
  test('if nothing was published', async () => {
    const { server, client } = await connect()
    const lines = [`${server.host}/app:latest does not exist yet; no layers are reused`]
    expect(await ask(client)).toEqual({ worthwhile: false, lines })
  })

  test('if the image is missing', async () => {
    const { server, client, first } = await published()
    server.setFault(({ reference }) => (reference === first.digest ? { kind: 'status', status: 404 } : undefined))
    expectBuilt(await ask(client), 'the image is missing from the registry')
  })

  test('if its manifest has no annotations, like those of earlier versions and of Docker', async () => {
    const { client } = await published([{ own: {} }])
    expectBuilt(await ask(client), 'the manifest of the image does not name a store path')
  })

  test.each([
    ['another store path', { [KEY]: PATH.replace('0', '1') }, `${PATH.replace('0', '1')}`],
    ['other labels', { [KEY]: PATH, [LABELS]: '["a"]' }, `${PATH}, labels a`],
    ['another compression', { [KEY]: PATH, [COMPRESSION]: 'zstd' }, `${PATH}, compression zstd`],
  ])('if only the index names the store path, and the manifest names %s', async (_, own, said) => {
    const { client } = await published([{ own }])
    const built = await ask(client, { labels: { a: '1' } })
    expect(built.digest).toBeUndefined()
    expect(built.lines).toEqual([expect.stringMatching(/the manifest of the image names \S/)])
    expect(built.lines[0]?.endsWith(` names ${said}`)).toBe(true)
  })

  test('if one of its layers is missing', async () => {
    const { server, client, first } = await published()
    await loseBlob(server, 'app', blobsOf(server, 'app', first.digest)[1])
    expectBuilt(await ask(client), '1 of its layers is missing from the registry')
  })

  test('if its config is missing', async () => {
    const { server, client, first } = await published()
    await loseBlob(server, 'app', blobsOf(server, 'app', first.digest)[0])
    expectBuilt(await ask(client), /The config of .* is not in the registry$/)
  })

  test.each([
    [{}, 'its labels a, toString are no longer in `labels`'],
    [{ a: '1' }, 'its label toString is no longer in `labels`'],
  ])('if labels were removed: %j', async (labels, why) => {
    const { client } = await published([{ annotations: { [KEY]: PATH, [LABELS]: '["a","toString"]' } }])
    expectBuilt(await ask(client, { labels }), why)
  })

  test('if its layers have another compression', async () => {
    const { client } = await published()
    expectBuilt(await ask(client, { format: 'zstd' }), 'its layers are not compressed with zstd')
  })

  test('if it is for another platform than the index says', async () => {
    const { client } = await published([{ platform: ARM64 }])
    const built = await ask(client, { platform: ARM64 })
    expect(built.lines).toEqual([
      expect.stringMatching(/^Building the image for linux\/arm64, although .*linux\/amd64$/),
    ])
    expect(built.digest).toBeUndefined()
  })

  test('if the index has two images for the platform', async () => {
    const { client } = await published([{}, { layer: 'zstd', annotations: {} }])
    expectBuilt(await ask(client), 'the index has 2 images for this platform')
  })

  test('if the index lists an index', async () => {
    const { server, client, first } = await published()
    const digest = seedIndex(server, 'app', [first])
    seedIndex(server, 'app', [{ ...first, digest }], 'latest')
    expectBuilt(await ask(client), 'the image is missing from the registry')
  })

  test('if the registry fails', async () => {
    const { server, client, first } = await published()
    server.setFault(({ reference }) => (reference === first.digest ? { kind: 'status', status: 500 } : undefined))
    expectBuilt(await ask(client), /answered with status 500 \(\d+ attempts in \d+ s\)$/)
  })

  test.each<[string, RegistryOptions, RegExp]>([
    ['does not answer', { fault: () => ({ kind: 'reset' }) }, /can't be reached|reset/],
    [
      'requires authentication',
      { auth: { kind: 'basic', user: 'a', password: 'b' } },
      /no credentials were found for \S+$/,
    ],
  ])('if the registry %s', async (_, options, why) => {
    const { server } = await published([{}], options)
    const { lines, digest, worthwhile } = await ask(open(server.host))
    expect({ digest, worthwhile }).toEqual({ digest: undefined, worthwhile: false })
    expect(lines).toEqual([expect.stringMatching(why)])
    expect(lines[0]).toContain(`Not reusing layers of ${server.host}/app:latest: `)
  })

  test("if the index can't be read", async () => {
    const { server, client } = await connect()
    server.seedManifest('app', Buffer.from('nonsense'), OCI_MANIFEST, 'latest')
    const { lines, digest } = await ask(client)
    expect(digest).toBeUndefined()
    expect(lines).toEqual([expect.stringMatching(/^Not reusing layers of .*it is not JSON$/)])
  })
})

describe('changed labels give the same image as a build with them:', () => {
  /** Pushes an image as a build does. */
  async function built(labels: Readonly<Record<string, string>>, layout: MadeLayout, format: 'gzip' | 'zstd' = 'gzip') {
    const { server, client } = await connect()
    const folder = await mkdtemp(join(tmpdir(), 'relabel-'))
    try {
      const {
        images: [image],
      } = await pushImage(
        {
          source: await findSource(await storeLayout(folder, layout.files, 'folder')),
          images: [client.repository],
          tag: '',
          platform: AMD64,
          compression: { format, level: 1 },
          published: NOTHING_PUBLISHED,
          labels,
          storePath: PATH,
          tempFolder: folder,
          check: () => undefined,
        },
        client,
        { info: () => undefined, group: (_title, work) => work() },
      )
      const digest = image?.digest ?? ''
      const bytes = server.manifest('app', digest)?.bytes ?? Buffer.alloc(0)
      const entry = { digest, mediaType: OCI_MANIFEST, size: bytes.length, platform: AMD64 }
      const { annotations } = JSON.parse(String(bytes))
      seedIndex(server, 'app', [{ ...entry, annotations }], 'latest')
      return { client, digest }
    } finally {
      await rm(folder, { recursive: true })
    }
  }

  const config = { config: { Labels: { a: '1' } } }
  const packed = makeLayout({ layers: ['lower', 'upper'], packings: ['gzip', 'zstd'] })
  const plain = makeLayout({ layers: ['lower'], packings: ['plain'] })
  // In the bytes that this action writes, so that setting an existing label changes nothing.
  const own = makeLayout({ layers: ['lower'], config })

  test.each<[string, MadeLayout, Labels, Labels]>([
    ['new labels', packed, {}, { b: '2', a: '1' }],
    ['new values', packed, { a: '1' }, { a: '2' }],
    ['additional labels', packed, { b: '1' }, { b: '1', a: '1' }],
    ['layers that were compressed', plain, {}, { a: '1' }],
    ['labels that Nix has already set', own, {}, { a: '1' }],
  ])('%s', async (_, layout, before, after) => {
    const { client } = await built(before, layout)
    const { unchanged } = await ask(client, { labels: after })
    if (unchanged === undefined) throw new Error('nothing was found')
    const { image } = await relabel(client, unchanged, after, 'gzip')
    expect(image.digest).toBe((await built(after, layout)).digest)
    expect(image.digest).not.toBe(unchanged.image.digest)
  })

  test('another compression that all layers have gives the same image as a build with it', async () => {
    const zstd = makeLayout({ layers: ['lower'], packings: ['zstd'] })
    const { client } = await built({}, zstd, 'gzip')
    const { unchanged } = await ask(client, { format: 'zstd' })
    if (unchanged === undefined) throw new Error('nothing was found')
    const { image, info } = await relabel(client, unchanged, {}, 'zstd')
    expect(image.digest).toBe((await built({}, zstd, 'zstd')).digest)
    expect(info).toEqual({ storePath: PATH, labels: [] })
  })

  test('the same labels change nothing, and neither does Docker, which has no requested compression', async () => {
    const { client } = await built({ a: '1' }, packed)
    const { unchanged } = await ask(client, { labels: { a: '1' } })
    if (unchanged === undefined) throw new Error('nothing was found')
    expect(await relabel(client, unchanged, { a: '1' }, 'gzip')).toEqual(unchanged)
    const other = await built({}, packed)
    const kept = (await ask(other.client, { format: undefined })).unchanged
    if (kept === undefined) throw new Error('nothing was found')
    expect(await relabel(other.client, kept, {}, undefined)).toEqual(kept)
  })
})

describe('a mirror of the image', () => {
  /** Seeds the same image, without an index, in a second registry, and returns a function that publishes to both. */
  async function mirrored() {
    const { server, client, first } = await published()
    const mirror = await start()
    const { digest } = await seed(mirror)
    expect(digest).toBe(first.digest)
    const { found } = await ask(client)
    if (found === undefined) throw new Error('There is no image to publish')
    const images = [client.repository, { ...client.repository, host: mirror.host }]
    const publish = (tag: string) => publishUnchanged(client, found, images, tag)
    return { server, mirror, digest, publish }
  }

  const parts = [
    ['config', 0],
    ['layer', 1],
  ] as const
  test.each(parts.flatMap(([part, at]) => ['', 'v1'].map((tag) => [part, tag, at] as const)))(
    'that lacks the %s gets it, with the tag %j',
    async (_, tag, at) => {
      const { server, mirror, digest, publish } = await mirrored()
      const lost = blobsOf(server, 'app', digest)[at]
      await loseBlob(mirror, 'app', lost)
      const bytes = await server.blob('app', lost)
      expect(await publish(tag)).toBe(bytes?.length)
      expect(await mirror.blob('app', lost)).toEqual(bytes)
      expect(Object.fromEntries(mirror.tags('app'))).toEqual(tag === '' ? {} : { [tag]: digest })
    },
  )

  test('that is complete gets only the request for the tag', async () => {
    const { server, mirror, digest, publish } = await mirrored()
    expect(await publish('')).toBe(0)
    expect(writesTo(mirror)).toEqual([])
    await publish('v1')
    for (const one of [server, mirror]) {
      expect(writesTo(one)).toEqual(['PUT /v2/app/manifests/v1'])
      expect(one.tags('app').get('v1')).toBe(digest)
    }
  })
})

function expectBuilt({ digest, lines }: Awaited<ReturnType<typeof ask>>, why: string | RegExp): void {
  expect(digest).toBeUndefined()
  expect(lines).toHaveLength(1)
  expect(lines[0]).toMatch(
    /^Building the image for linux\/amd64, although 127\.0\.0\.1:\d+\/app:latest names its store path: /,
  )
  expect(lines[0]).toMatch(why)
}
