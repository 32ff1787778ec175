import { chmod, mkdir, mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { findPublished, type LayerCache, NOTHING_PUBLISHED } from '../../src/cache/layers.ts'
import { readPreviousImages } from '../../src/cache/previous-image.ts'
import { ActionError } from '../../src/errors.ts'
import { ImageError } from '../../src/image/image-error.ts'
import { findSource } from '../../src/image/source.ts'
import type { Digest } from '../../src/oci/digest.ts'
import type { Platform } from '../../src/oci/platform.ts'
import { checkImage } from '../../src/push/check-image.ts'
import { type PushCall, type PushedImage, pushImage } from '../../src/push/push.ts'
import { type Client, connect, failureOf, open, password, start } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { type ArchiveOptions, type MadeArchive, makeArchive, writeTar } from '../support/image.ts'
import { noise, unzstd } from '../support/layer-content.ts'
import {
  annotatedManifest,
  blobName,
  indexOf,
  LAYOUT_FORMS,
  type LayoutFile,
  type LayoutForm,
  layoutOf,
  type MadeLayout,
  makeLayout,
  packWithXz,
  storeLayout,
  withArtifact,
  withFiles,
} from '../support/layout.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import type { FaultOf, RegistryOptions, SeenRequest, TestRegistry } from '../support/registry.ts'

const PLATFORM = { os: 'linux', architecture: 'amd64' }
const REFUSAL = '{"errors":[{"code":"DENIED","message":"not yours"}]}'

let folder: string
let temp: string
let files = 0

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'push-'))
  temp = join(folder, 'temp')
  await mkdir(temp)
})

afterEach(async () => {
  const left = await readdir(temp)
  const held = await openIn(temp)
  await rm(folder, { recursive: true })
  // Whatever became of the push, nothing of it stays: neither files nor what keeps the space of deleted ones.
  expect({ left, held }).toEqual({ left: [], held: [] })
})

/** The files of this process that are, or were, in the folder. */
async function openIn(path: string): Promise<readonly string[]> {
  const links = (await readdir('/proc/self/fd')).map((fd) => readlink(join('/proc/self/fd', fd)).catch(() => ''))
  return (await Promise.all(links)).filter((link) => link.startsWith(path))
}

const STORE_PATH = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
const KEY = 'io.github.nix-image-action'
const FORMS = ['tar', 'gzip', 'script'] as const
type Form = (typeof FORMS)[number]

async function store(bytes: Buffer, form: Form = 'tar'): Promise<string> {
  const path = join(folder, `result-${files++}`)
  await writeFile(path, form === 'gzip' ? gzipSync(bytes) : bytes)
  if (form !== 'script') return path
  await writeFile(`${path}.sh`, `#!/bin/sh\necho made >> '${path}.runs'\nexec cat '${path}'\n`)
  await chmod(`${path}.sh`, 0o555)
  return `${path}.sh`
}

interface Pushing extends Partial<Omit<PushCall, 'source'>> {
  readonly form?: Form
  readonly path?: string
  /** Of the image, where a layout has several. */
  readonly platform?: Platform
}

async function push(
  { bytes }: Pick<MadeArchive, 'bytes'>,
  client: Client,
  pushing: Pushing = {},
): Promise<PushedImage> {
  const { form, path, platform, ...call } = pushing
  return pushImage(
    {
      source: { ...(await findSource(path ?? (await store(bytes, form)))), ...(platform && { platform }) },
      images: [client.repository],
      tag: 'v1',
      platform: { os: 'linux', architecture: 'amd64' },
      compression: { format: 'gzip', level: 4 },
      published: NOTHING_PUBLISHED,
      labels: {},
      storePath: STORE_PATH,
      tempFolder: temp,
      check: () => undefined,
      ...call,
    },
    client,
    logOf(client),
  )
}

function logOf({ lines }: Client) {
  const write = (line: string): void => void (lines as string[]).push(line)
  return { info: write, warning: write, debug: write }
}

async function publishedAt(client: Client, tag = 'latest', path = client.repository.path): Promise<LayerCache> {
  const reference = { repository: { ...client.repository, path }, tag }
  const log = logOf(client)
  return findPublished(client, await readPreviousImages(client, [reference], log), PLATFORM, log)
}

interface ReadLayer {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly annotations?: unknown
}

interface ReadManifest {
  readonly mediaType: string
  readonly annotations?: unknown
  readonly config: ReadLayer
  readonly layers: readonly ReadLayer[]
}

/** What the registry has under a tag or digest, as whoever pulls it gets it. */
async function pulled(server: TestRegistry, reference: string, path = 'app') {
  const stored = server.manifest(path, reference)
  if (stored === undefined) throw new Error(`there is no ${path}:${reference}`)
  const manifest: ReadManifest = JSON.parse(stored.bytes.toString())
  const config = await blobAt(server, manifest.config, path)
  const layers = await Promise.all(
    manifest.layers.map(async (layer) => {
      const bytes = await blobAt(server, layer, path)
      return layer.mediaType.endsWith('zstd') ? unzstd(bytes) : gunzipSync(bytes)
    }),
  )
  return { digest: stored.digest, mediaType: stored.mediaType, manifest, config, layers }
}

async function blobAt(server: TestRegistry, { digest, size }: ReadLayer, path: string): Promise<Buffer> {
  const bytes = await server.blob(path, digest)
  if (bytes?.length !== size) throw new Error(`${digest} has ${bytes?.length} bytes, not ${size}`)
  return bytes
}

function digestsOf(layers: readonly Buffer[]): readonly string[] {
  return layers.map((bytes) => digestOf(bytes))
}

/** The requests that store something. */
function uploads(requests: readonly SeenRequest[]): readonly SeenRequest[] {
  return requests.filter(({ method, route, status }) => method === 'PUT' && route === 'upload' && status === 201)
}

/** Of the blob that an upload is to become. */
function digestAskedFor({ path }: SeenRequest): string {
  return new URL(path, 'http://x').searchParams.get('digest') ?? ''
}

function manifestPuts(requests: readonly SeenRequest[]): readonly (string | undefined)[] {
  return requests
    .filter(({ method, route, status }) => method === 'PUT' && route === 'manifest' && status === 201)
    .map(({ reference }) => reference)
}

const big = writeTar([{ name: 'usr/share/noise', content: noise(2_500_000) }])
const text = writeTar([{ name: 'usr/share/words', content: 'many words, again and again\n'.repeat(60_000) }])
const LAYERS = ['lower', big, text, 'upper']
const OPTIONS: ArchiveOptions = { layers: LAYERS }
const made = makeArchive(OPTIONS)
/** With a layer that is too large for memory once it is compressed. */
const spilling = makeArchive({ layers: ['lower', writeTar([{ name: 'noise', content: noise(18_000_000) }]), 'upper'] })
/** As Nix's layered images have it: the names of layers are their diff IDs. */
const named: ArchiveOptions = { ...OPTIONS, layerName: (diffId) => `${diffId.slice('sha256:'.length)}/layer.tar` }

async function expectWhole(server: TestRegistry, reference: string, archive: MadeArchive, path = 'app'): Promise<void> {
  const image = await pulled(server, reference, path)
  expect(image.mediaType).toBe(mediaTypes.ociManifest)
  expect(image.config.equals(archive.config)).toBe(true)
  expect(digestsOf(image.layers)).toEqual(archive.layers.map(({ diffId }) => diffId))
}

function expectNothingPublished(server: TestRegistry, path = 'app'): void {
  expect([...server.tags(path).keys()]).toEqual([])
  expect(manifestPuts(server.requests)).toEqual([])
}

describe('an image pushed from', () => {
  test.each(FORMS)('a %s has Nix’s config byte for byte, and Nix’s layers', async (form) => {
    const { server, client } = await connect()
    const { manifest, layers } = await push(made, client, { form })
    await expectWhole(server, 'v1', made)
    const { digest, manifest: read } = await pulled(server, 'v1')
    expect(manifest.digest).toBe(digest)
    expect(read.config.digest).toBe(made.configDigest)
    expect(read.mediaType).toBe(mediaTypes.ociManifest)
    expect(read.config.mediaType).toBe('application/vnd.oci.image.config.v1+json')
    for (const { mediaType } of read.layers) expect(mediaType).toBe('application/vnd.oci.image.layer.v1.tar+gzip')
    expect(layers.map(({ diffId, digest: blob, size, reused }) => [diffId, blob, size, reused])).toEqual(
      made.layers.map(({ diffId }, at) => [diffId, read.layers[at]?.digest, read.layers[at]?.size, false]),
    )
  })

  test('any form, under any names, however often, has one digest', async () => {
    const digests = new Set<string>()
    for (const form of FORMS) {
      for (const options of [OPTIONS, named, { ...named, manifestFirst: true }]) {
        const { client } = await connect()
        digests.add((await push(makeArchive(options), client, { form })).manifest.digest)
      }
    }
    expect(digests.size).toBe(1)
  })

  test('one in zstd has zstd’s media type and the same layers', async () => {
    const { server, client } = await connect()
    await push(made, client, { compression: { format: 'zstd', level: 3 } })
    await expectWhole(server, 'v1', made)
    const { manifest } = await pulled(server, 'v1')
    for (const { mediaType } of manifest.layers) expect(mediaType).toBe('application/vnd.oci.image.layer.v1.tar+zstd')
  })

  test.each(['hard-link', 'symbolic-link'] as const)('one with a layer twice, by %s, lists it twice', async (links) => {
    for (const form of FORMS) {
      const { server, client } = await connect()
      const twice = makeArchive({ layers: ['same', big, 'same'], links })
      await push(twice, client, { form })
      await expectWhole(server, 'v1', twice)
      // The config too.
      expect(uploads(server.requests)).toHaveLength(3)
    }
  })

  // As `docker save` names layers: the configs are among them, and what is no config is told by its bytes.
  const blobName = (diffId: string) => `blobs/sha256/${diffId.slice('sha256:'.length)}`
  test.each(
    ['[id].js', '[...all].json', '{x}.json', '{'].flatMap((name) => FORMS.map((form) => [name, form] as const)),
  )('one whose layer begins like JSON, with a file called %s, has that layer: %s', async (name, form) => {
    const { server, client } = await connect()
    const pages = writeTar([{ name, content: 'export default 1' }])
    const alike = makeArchive({ layers: ['lower', pages, 'upper'], layerName: blobName })
    await push(alike, client, { form })
    await expectWhole(server, 'v1', alike)
    const checked = await checkImage(await findSource(await store(alike.bytes, form)))
    expect(checked.config.diffIds).toEqual(alike.layers.map(({ diffId }) => diffId))
  })

  test.each(FORMS)('a %s without layers is an image all the same', async (form) => {
    const { server, client } = await connect()
    const empty = makeArchive({ layers: [] })
    await push(empty, client, { form })
    await expectWhole(server, 'v1', empty)
  })

  test('a plain tar with more layers than go up at once has all of them, in their order', async () => {
    const { server, client } = await connect()
    const many = makeArchive({ layers: Array.from({ length: 45 }, (_, at) => `layer ${at}`) })
    await push(many, client)
    await expectWhole(server, 'v1', many)
  })
})

describe('the tag', () => {
  test.each(FORMS)('comes last, after the manifest, and that after all that it lists: %s', async (form) => {
    const { server, client } = await connect()
    const { manifest } = await push(made, client, { form })
    expect(manifestPuts(server.requests)).toEqual([manifest.digest, 'v1'])
    const stored = server.requests.filter(({ method }) => method === 'PUT').map(({ route }) => route)
    expect(stored.slice(-2)).toEqual(['manifest', 'manifest'])
    expect(stored.slice(0, -2)).toEqual(Array(made.layers.length + 1).fill('upload'))
  })

  test('may be none: the image is there by its digest alone', async () => {
    const { server, client } = await connect()
    const { manifest } = await push(made, client, { tag: '' })
    expect([...server.tags('app').keys()]).toEqual([])
    await expectWhole(server, manifest.digest, made)
  })

  test('that points to the image already is not written, for it may be immutable', async () => {
    const { server, client } = await connect()
    await push(made, client)
    const before = server.requests.length
    const again = await push(made, client)
    expect(manifestPuts(server.requests.slice(before))).toEqual([again.manifest.digest])
  })

  test('that points elsewhere is moved', async () => {
    const { server, client } = await connect()
    await push(makeArchive(), client)
    await push(made, client)
    await expectWhole(server, 'v1', made)
  })

  test('is not there in any repository before the image is in all of them', async () => {
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

test('after a refusal no further layer is compressed and uploaded', async () => {
  const { server, client } = await connect()
  server.setFault(({ method, route }) =>
    method === 'PUT' && route === 'upload' ? { kind: 'status', status: 403, body: REFUSAL } : undefined,
  )
  const many = makeArchive({ layers: Array.from({ length: 90 }, (_, at) => `layer ${at}`) })
  expect((await failureOf(push(many, client))).message).toContain('not yours')
  // Those that were under way, and those for which they made room until the refusal was known.
  expect(server.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads').length).toBeLessThan(
    45,
  )
})

describe('what was published before', () => {
  test.each(FORMS)('is not uploaded again, in fewer than 10 requests in all: %s', async (form) => {
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

  test.each(FORMS)('is all but one layer: that, the config and the manifest go up: %s', async (form) => {
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

  test('in another repository of the same registry is mounted from there', async () => {
    const { server, client } = await connect()
    const other = { ...client.repository, path: 'base' }
    await push(made, client, { images: [other], tag: 'latest' })
    const before = server.requests.length
    const { layers } = await push(made, client, { published: await publishedAt(client, 'latest', 'base') })
    await expectWhole(server, 'v1', made)
    expect(layers.every(({ reused }) => reused)).toBe(true)
    // The config alone.
    expect(uploads(server.requests.slice(before))).toHaveLength(1)
  })

  test.each(FORMS)('but must not be mounted is uploaded: %s', async (form) => {
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

  test('but is asked to be uploaded in place of a mount is uploaded', async () => {
    const { server, client } = await connect()
    await push(made, client, { images: [{ ...client.repository, path: 'base' }], tag: 'latest' })
    const published = await publishedAt(client, 'latest', 'base')
    // As a registry does that can't read where it is to be mounted from.
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

  test.each(FORMS)('but has lost a layer since is pushed anew: %s', async (form) => {
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

  test.each(['latest', ''])('but has lost a layer since is mended, where it is this image: %s', async (tag) => {
    const { server, client } = await connect()
    const { layers } = await push(made, client, { tag: 'latest' })
    const url = `http://${server.host}/v2/app/blobs/${layers[1]?.digest}`
    expect((await fetch(url, { method: 'DELETE' })).status).toBe(202)
    const again = await push(made, client, { tag, published: await publishedAt(client) })
    expect(again.layers.map(({ reused }) => reused)).toEqual([true, false, true, true])
    await expectWhole(server, 'latest', made)
  })

  test.each([
    ['not there', 'absent', {}, undefined, 'it is not there yet'],
    ['not readable', 'latest', { auth: { kind: 'basic', user: 'a', password: 'b' } }, undefined, 'it wants a login'],
  ] as const)('may be %s, which is said in one line', async (_, tag, options, credentials, why) => {
    const { client } = await connect(options as RegistryOptions, credentials)
    const published = await publishedAt(client, tag)
    const said = client.lines.filter((line) => line.includes('reuse'))
    expect(said).toHaveLength(1)
    expect(said[0]).toContain(`Nothing to reuse from ${client.repository.host}/app:${tag}`)
    expect(said[0]).toContain(why)
    expect(said[0]).not.toContain('\n')
    expect(published.blobsOf(made.layers[0]?.diffId as Digest)).toEqual([])
  })

  test('may be an index: the manifest for the same platform counts', async () => {
    const { server, client } = await connect()
    const arm = makeArchive({ architecture: 'arm64', layers: ['for arm'] })
    const entries: unknown[] = []
    for (const [archive, architecture] of [
      [arm, 'arm64'],
      [made, 'amd64'],
    ] as const) {
      const { manifest } = await push(archive, client, { tag: '' })
      const { digest, mediaType, bytes } = manifest
      entries.push({ digest, mediaType, size: bytes.length, platform: { os: 'linux', architecture } })
    }
    const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: entries }
    server.seedManifest('app', Buffer.from(JSON.stringify(index)), mediaTypes.ociIndex, 'latest')
    const before = server.requests.length
    const { layers } = await push(made, client, { published: await publishedAt(client) })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before))).toEqual([])
  })

  test('by Docker, with Docker’s media types, is reused as gzip', async () => {
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

  test('in gzip is not mixed into an image in zstd', async () => {
    const { server, client } = await connect()
    await push(made, client, { tag: 'latest' })
    const published = await publishedAt(client)
    const { layers } = await push(made, client, { published, compression: { format: 'zstd', level: 3 } })
    expect(layers.every(({ reused }) => !reused)).toBe(true)
    await expectWhole(server, 'v1', made)
  })

  test('is not uploaded, though nobody told that it was there', async () => {
    const { server, client } = await connect()
    await push(made, client)
    const before = server.requests.length
    const { layers } = await push(made, client)
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before))).toEqual([])
    expect(client.lines.join('\n')).toContain('is there already')
  })

  test.each(['gzip', 'script'] as const)('is not taken for a layer that has only its name: %s', async (form) => {
    const { server, client } = await connect()
    await push(makeArchive(named), client, { tag: 'latest' })
    const published = await publishedAt(client)
    const layerName = (_: string, at: number) => `${made.layers[(at + 1) % 4]?.diffId.slice(7)}/layer.tar`
    // Layers that were published, under each other's names, and one that was not, under the name of one that was.
    for (const layers of [OPTIONS.layers ?? [], ['lower', 'not published', text, 'upper']]) {
      const misnamed = makeArchive({ layers, layerName })
      await push(misnamed, client, { form, published })
      await expectWhole(server, 'v1', misnamed)
    }
  })
})

describe('several images', () => {
  test('get one digest, and the image is read once', async () => {
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

  test('of one registry are sent each layer once', async () => {
    const { server, client } = await connect()
    const images = ['app', 'other', 'third'].map((path) => ({ ...client.repository, path }))
    await push(made, client, { images })
    const sent = server.requests.filter(({ method, route }) => method === 'PUT' && route === 'upload')
    expect(new Set(sent.map(({ repository }) => repository))).toEqual(new Set(['app']))
    // The layers, of which two are the same, and the config.
    expect(sent).toHaveLength(new Set(made.layers.map(({ diffId }) => diffId)).size + 1)
    for (const image of images) await expectWhole(server, 'v1', made, image.path)
  })

  test('reuse what one of them has by mounting it in the others', async () => {
    const { server, client } = await connect()
    await push(made, client, { tag: 'latest' })
    const images = [client.repository, { ...client.repository, path: 'other' }]
    const before = server.requests.length
    const { layers } = await push(made, client, { images, published: await publishedAt(client) })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    expect(uploads(server.requests.slice(before)).map(({ repository }) => repository)).toEqual(['other'])
    await expectWhole(server, 'v1', made, 'other')
  })

  test('of which one refuses have no tag in any', async () => {
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

  test.each(FORMS)(
    'of which one refuses a layer in the middle fail by that, with nothing half done: %s',
    async (form) => {
      // The other registry is slow: it is still taking the same layer, from the same file, when the refusal comes.
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
      // What had begun was carried to its end, not left to break once its bytes were taken away.
      const begun = slow.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads')
      expect(begun.length).toBeGreaterThan(0)
      expect(uploads(slow.requests)).toHaveLength(begun.length)
      expect(client.waits).toEqual([])
    },
  )
})

describe('another job that pushes the same image at the same time', () => {
  /** Neither sees what the other has done so far, so that both send all of it. */
  const blind: FaultOf = ({ method, route }) =>
    method === 'HEAD' && route === 'blob' ? { kind: 'status', status: 404 } : undefined

  test.each(['tar', 'script'] as const)('gets the same digest, though both send every layer: %s', async (form) => {
    const { server, client } = await connect({ fault: blind })
    const path = await store(spilling.bytes, form)
    const both = await Promise.all([client, open(server.host)].map((each) => push(spilling, each, { path })))
    const [first, second] = both.map(({ manifest }) => manifest.digest)
    expect(first).toBe(second)
    expect(server.tags('app')).toEqual(new Map([['v1', first]]))
    await expectWhole(server, 'v1', spilling)
    expect(uploads(server.requests)).toHaveLength(2 * (spilling.layers.length + 1))
  })

  test.each([201, 202, 204])('may be first with a layer: the registry takes no second, and says %d', async (status) => {
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
  })

  test('may be first with a layer between the look for it and its upload', async () => {
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

describe('the manifest says what the image was built from', () => {
  test.each(FORMS)('from a %s, with the keys of added labels, sorted', async (form) => {
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

  test('so that the same content of two store paths has two digests', async () => {
    const { client } = await connect()
    const other = `/nix/store/${'1'.repeat(32)}-image.tar.gz`
    const [one, two] = [await push(made, client), await push(made, client, { storePath: other })]
    expect(two.manifest.digest).not.toBe(one.manifest.digest)
  })
})

describe('labels', () => {
  test('are added to the config, and nothing else changes', async () => {
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

  test('go into an image that has no config of its own', async () => {
    const { server, client } = await connect()
    await push(makeArchive({ config: { config: null } }), client, { labels: { a: 'b' } })
    expect(JSON.parse((await pulled(server, 'v1')).config.toString()).config).toEqual({ Labels: { a: 'b' } })
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
  ] as const)('that %s begins anew, and the image is whole', async (_, fault) => {
    const { server, client } = await connect({ fault: once(fault) })
    await push(made, client)
    await expectWhole(server, 'v1', made)
    const begun = server.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads')
    expect(begun).toHaveLength(made.layers.length + 1 + 2)
    expect(client.waits).toHaveLength(2)
  })

  test('whose answer is lost is looked for, and not sent again if it is stored', async () => {
    const { server, client } = await connect({ fault: once({ kind: 'lose' }) })
    await push(made, client)
    await expectWhole(server, 'v1', made)
    const begun = server.requests.filter(({ method, route }) => method === 'POST' && route === 'uploads')
    expect(begun).toHaveLength(made.layers.length + 1)
    expect(client.waits).toEqual([])
  })

  test('that waits in a file, being large, begins anew as well', async () => {
    const large = makeArchive({ layers: [writeTar([{ name: 'noise', content: noise(20_000_000) }])] })
    const { server, client } = await connect({ fault: once({ kind: 'status', status: 503 }) })
    await push(large, client)
    await expectWhole(server, 'v1', large)
  })

  test.each(FORMS)('that is forbidden fails with the registry’s words, and leaves no tag: %s', async (form) => {
    const fault: FaultOf = ({ route }) =>
      route === 'uploads' ? { kind: 'status', status: 403, body: REFUSAL } : undefined
    const { server, client } = await connect({ fault }, password)
    const error = await failureOf(push(made, client, { form }))
    expect(error).toMatchObject({ problem: 'denied', status: 403, code: 'DENIED' })
    expect(error.message).toContain('not yours')
    expectNothingPublished(server)
  })

  test('of a layer too large for memory that is forbidden leaves nothing behind', async () => {
    const large = makeArchive({ layers: [writeTar([{ name: 'noise', content: noise(20_000_000) }]), 'more'] })
    const fault: FaultOf = ({ method, route }) =>
      method === 'PUT' && route === 'upload' ? { kind: 'status', status: 403, body: REFUSAL } : undefined
    const { server, client } = await connect({ fault }, password)
    await failureOf(push(large, client))
    expectNothingPublished(server)
  })

  test.each(FORMS)(
    'of layers too large for memory, with nowhere to keep them, fails and leaves no tag: %s',
    async (form) => {
      const { server, client } = await connect()
      await expect(push(spilling, client, { form, tempFolder: join(temp, 'absent') })).rejects.toThrow(
        /can't be kept in [\s\S]*ENOENT/,
      )
      expectNothingPublished(server)
    },
  )

  test('of which the registry claims another digest, and that it does not have, is not taken for stored', async () => {
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
  ] as const)('goes to where the registry says, %s', async (_, options) => {
    const { server, client } = await connect(options as RegistryOptions, password)
    await push(made, client)
    await expectWhole(server, 'v1', made)
  })
})

describe('a damaged archive publishes nothing, and says what is wrong:', () => {
  const other = (content: string) => writeTar([{ name: 'etc/motd', content }])
  const replaced = (name: string | undefined, content: Buffer) =>
    writeTar(made.members.map((member) => (member.name === name ? { ...member, content } : member)))

  test.each<[string, Buffer, RegExp]>([
    ['cut short in a layer', made.bytes.subarray(0, 1_500_000), /is damaged: it ends in the middle of/],
    [
      'a layer that is not the one',
      replaced(made.layers[0]?.name, other('another')),
      /not the one that its config lists[\s\S]*its diff ID is/,
    ],
    [
      'the last layer is not the one',
      replaced(made.layers[3]?.name, other('another')),
      /not the one that its config lists/,
    ],
    [
      'a layer is missing',
      writeTar(made.members.filter(({ name }) => name !== made.layers[1]?.name)),
      /layers are missing/,
    ],
    [
      'a layer is no tar',
      replaced(made.layers[0]?.name, Buffer.from('not a tar')),
      /not the one that its config lists|layers? .*(missing|no tar)/,
    ],
    [
      'a layer is empty',
      replaced(made.layers[0]?.name, Buffer.alloc(0)),
      /not the one that its config lists|layers? .*(missing|empty|is no tar)/,
    ],
    [
      'two images',
      writeTar(
        made.members.map((one) =>
          one.name === 'manifest.json' ? { ...one, content: JSON.stringify([made.manifest, made.manifest]) } : one,
        ),
      ),
      /holds 2 images/,
    ],
    [
      'a path that climbs out',
      writeTar([...made.members, { name: '../../etc/passwd', content: 'x' }]),
      /points out of it/,
    ],
    [
      'a layer fewer than the config lists',
      makeArchive({ ...OPTIONS, manifest: { Layers: [made.layers[0]?.name] } }).bytes,
      /it has 1 layers, and its config lists 4/,
    ],
  ])('%s', async (_, bytes, message) => {
    for (const form of FORMS) {
      const { server, client } = await connect()
      const pushing = push({ bytes }, client, { form })
      await expect(pushing).rejects.toThrow(message)
      await expect(pushing).rejects.toBeInstanceOf(ImageError)
      expectNothingPublished(server)
    }
  })

  test.each(['not a tar', ''].flatMap((content) => FORMS.map((form) => [content, form] as const)))(
    'a layer that is no tar, also where nothing is to be pushed: %j, %s',
    async (content, form) => {
      const { server, client } = await connect()
      const { name = '' } = made.layers[1] ?? {}
      const bytes = replaced(name, Buffer.from(content))
      const check = async () => checkImage(await findSource(await store(bytes, form)))
      for (const attempt of [() => push({ bytes }, client, { form }), check]) {
        const refused = attempt()
        await expect(refused).rejects.toThrow(`is damaged: its layer ${name} is no tar`)
        await expect(refused).rejects.toBeInstanceOf(ImageError)
      }
      expectNothingPublished(server)
    },
  )

  test('a script that fails after all is written', async () => {
    const { server, client } = await connect()
    const path = await store(made.bytes, 'script')
    await chmod(path, 0o755)
    await writeFile(path, `#!/bin/sh\ncat '${path.replace(/\.sh$/, '')}'\necho late >&2; exit 7\n`)
    await expect(push(made, client, { path })).rejects.toThrow(/it ended with status 7\n {2}late/)
    expectNothingPublished(server)
  })

  test.each(FORMS)('cut short in a layer that is too large for memory: %s', async (form) => {
    const { server, client } = await connect()
    const large = makeArchive({ layers: [writeTar([{ name: 'noise', content: noise(24_000_000) }])] })
    await expect(push({ bytes: large.bytes.subarray(0, 23_000_000) }, client, { form })).rejects.toThrow(ImageError)
    expectNothingPublished(server)
  })

  test.each(FORMS)('an image that must not be pushed, such as another platform’s: %s', async (form) => {
    const { server, client } = await connect()
    const check = () => {
      throw new ImageError({ message: 'The image is for linux/arm64' })
    }
    await expect(push(made, client, { form, check })).rejects.toThrow('The image is for linux/arm64')
    expectNothingPublished(server)
  })
})

const packed = makeLayout({ layers: LAYERS, packings: ['gzip', 'zstd', 'gzip', 'zstd'] })

interface PushingLayout extends Omit<Pushing, 'form' | 'path'> {
  readonly as?: LayoutForm
}

async function pushLayout(
  { files }: Pick<MadeLayout, 'files'>,
  client: Client,
  { as = 'folder', ...call }: PushingLayout = {},
): Promise<PushedImage> {
  return push(made, client, { ...call, path: await storeLayout(folder, files, as) })
}

/** What is published of a layout's manifest: build info is added, and nothing else changes. */
function publishedOf(layout: MadeLayout, asked = 'gzip'): { readonly bytes: Buffer; readonly digest: string } {
  const { layers }: Readonly<Listed> = JSON.parse(layout.manifest.toString())
  const leftSome = layers.some(({ mediaType }) => !String(mediaType).endsWith(asked))
  const bytes = annotatedManifest(layout, {
    [`${KEY}.store-path`]: STORE_PATH,
    ...(leftSome && { [`${KEY}.compression`]: asked }),
  })
  return { bytes, digest: digestOf(bytes) }
}

async function expectSame(server: TestRegistry, layout: MadeLayout, path = 'app', asked = 'gzip'): Promise<void> {
  const { bytes } = publishedOf(layout, asked)
  expect(String(server.manifest(path, 'v1')?.bytes)).toBe(String(bytes))
  await expectSameBlobs(server, layout, path)
}

async function expectSameBlobs(server: TestRegistry, layout: MadeLayout, path = 'app'): Promise<void> {
  expect((await server.blob(path, layout.configDigest))?.equals(layout.config)).toBe(true)
  for (const { digest, blob } of layout.layers) expect((await server.blob(path, digest))?.equals(blob)).toBe(true)
}

describe('an OCI layout whose layers are compressed', () => {
  test.each(LAYOUT_FORMS)(
    'is pushed as it is, its manifest annotated with what it was built from, as a %s',
    async (as) => {
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
    },
  )

  test.each(['gzip', 'zstd'] as const)('stays as it is where layers are to be in %s', async (format) => {
    for (const as of ['folder', 'gzip'] as const) {
      const { server, client } = await connect()
      await pushLayout(packed, client, { as, compression: { format, level: 9 } })
      await expectSame(server, packed, 'app', format)
    }
  })

  test('has its attestation left out, and the indexes that lead to it', async () => {
    const { server, client } = await connect()
    const attested = makeLayout({ layers: LAYERS, attested: true, nested: 2 })
    await pushLayout(attested, client)
    await expectSame(server, attested)
    expect(new Set(manifestPuts(server.requests))).toEqual(new Set([publishedOf(attested).digest, 'v1']))
  })

  test.each(LAYOUT_FORMS)('has a signature beside it left out, as a %s', async (as) => {
    const { server, client } = await connect()
    const entry = { artifactType: 'application/vnd.dev.sigstore.bundle.v0.3+json' }
    await pushLayout({ files: withArtifact(packed, 'signed'.padEnd(1024), { entry }) }, client, { as })
    await expectSame(server, packed)
    expect(new Set(manifestPuts(server.requests))).toEqual(new Set([publishedOf(packed).digest, 'v1']))
  })

  test.each(LAYOUT_FORMS)('has nothing of its images for other platforms pushed, as a %s', async (as) => {
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

  test('keeps its manifest byte for byte if that is of Docker’s type, which has no annotations', async () => {
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

  test.each(LAYOUT_FORMS)('may have zstd layers of several frames, as podman packs them, as a %s', async (as) => {
    const { server, client } = await connect()
    const tar = made.layers[2]?.bytes ?? Buffer.alloc(0)
    const parts = [tar.subarray(0, 700_000), tar.subarray(700_000)].map((part) => zstdCompressSync(part))
    // Says nothing, and is to be skipped.
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

  test('may list it under two names', async () => {
    const { server, client } = await connect()
    const names = ['1.0', 'latest'].map((name) => ({ 'org.opencontainers.image.ref.name': name }))
    const index = indexOf(names.map((annotations) => ({ ...packed.entry, annotations })))
    await pushLayout({ files: withFiles(packed, { 'index.json': index }) }, client)
    await expectSame(server, packed)
  })

  test.each(['folder', 'gzip'] as const)(
    'but called plain, has a manifest that tells it right, as a %s',
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

  test('has a layer twice, and sends it once', async () => {
    const { server, client } = await connect()
    const twice = makeLayout({ layers: ['same', big, 'same'] })
    await pushLayout(twice, client)
    await expectSame(server, twice)
    expect(uploads(server.requests)).toHaveLength(3)
  })

  test.each(LAYOUT_FORMS)('is not sent a second time, as a %s', async (as) => {
    const { server, client } = await connect()
    await pushLayout(packed, client, { as })
    const before = server.requests.length
    const { layers } = await pushLayout(packed, client, { as })
    expect(layers.every(({ reused }) => reused)).toBe(true)
    const requests = server.requests.slice(before)
    expect(uploads(requests)).toEqual([])
    expect(manifestPuts(requests)).toEqual([publishedOf(packed).digest])
    expect(client.lines.filter((line) => line.endsWith('is there already'))).toHaveLength(4)
  })

  test.each(['folder', 'tar'] as const)('has only the layers sent that are not there yet, as a %s', async (as) => {
    const { server, client } = await connect()
    const there = packed.layers.filter((_, at) => at !== 2)
    for (const { blob } of there) await server.seedBlob('app', blob)
    const { layers } = await pushLayout(packed, client, { as })
    await expectSame(server, packed)
    expect(layers.map(({ reused }) => reused)).toEqual([true, true, false, true])
    const sent = uploads(server.requests).map(digestAskedFor)
    expect(sent.sort()).toEqual([packed.layers[2]?.digest, packed.configDigest].sort())
  })

  test.each(['folder', 'gzip'] as const)('is the same in several images, each sent once, as a %s', async (as) => {
    const { server, client } = await connect()
    const images = ['app', 'other'].map((path) => ({ ...client.repository, path }))
    const { manifest } = await pushLayout(packed, client, { as, images })
    for (const { path } of images) {
      await expectSame(server, packed, path)
      expect(server.tags(path).get('v1')).toBe(manifest.digest)
    }
    expect(uploads(server.requests)).toHaveLength(packed.layers.length + 1)
  })

  test('of which only one of several images has a layer is whole in all', async () => {
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

  test.each(['folder', 'tar'] as const)('is not asked for where it is published, as a %s', async (as) => {
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
    'does not get layers of a published image that are packed in another way, as a %s',
    async (as) => {
      const { server, client } = await connect()
      await push(made, client, { tag: 'latest' })
      await pushLayout(packed, client, { as, published: await publishedAt(client) })
      await expectSame(server, packed)
    },
  )

  test('with labels has a config and a manifest of its own, and the same layers', async () => {
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
      // What is said of them is still true.
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

describe('the manifest of an OCI layout keeps all that it says', () => {
  const subject = { mediaType: mediaTypes.ociManifest, digest: `sha256:${'5'.repeat(64)}`, size: 12 }
  const layers = ['lower', 'upper']
  const { config }: Readonly<Listed> = JSON.parse(makeLayout({ layers }).manifest.toString())
  const told = {
    artifactType: 'application/vnd.example',
    subject,
    config: { ...config, data: 'e30=', annotations: { a: 'b' } },
    'org.example.field': [1, null, { a: true }],
  }
  // As JSON has it: in a literal, `__proto__` is something else.
  const annotations = JSON.parse('{"org.example":"ä\\"","__proto__":"own"}')
  const rich = makeLayout({ layers, manifest: { ...told, annotations } })

  test('without labels, in its order', async () => {
    const { server, client } = await connect()
    await pushLayout(rich, client)
    expect(String(server.manifest('app', 'v1')?.bytes)).toBe(
      JSON.stringify(JSON.parse(rich.manifest.toString())).replace(
        '"__proto__":"own"}',
        `"__proto__":"own","${KEY}.store-path":"${STORE_PATH}"}`,
      ),
    )
  })

  test('with labels too, but for the config’s digest, size and embedded bytes', async () => {
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

  test('but for what it says of another build, as the copy of a published image does', async () => {
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

describe('an OCI layout with layers that are not compressed', () => {
  const mixed = makeLayout({ layers: LAYERS, packings: ['plain', 'plain', 'gzip', 'zstd'] })

  test.each(LAYOUT_FORMS.flatMap((as) => (['gzip', 'zstd'] as const).map((format) => [as, format] as const)))(
    'as a %s has them compressed with %s, and the others as they are',
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

  test('is the very image that the same layers in a docker archive are', async () => {
    const { client } = await connect()
    const packings = ['plain', 'plain', 'plain', 'plain'] as const
    const plain = makeLayout({ layers: LAYERS, packings, manifest: { annotations: undefined } })
    const { manifest } = await push(made, client)
    expect((await pushLayout(plain, client)).manifest.digest).toBe(manifest.digest)
  })

  test.each(['folder', 'tar'] as const)('takes those of a published image, unread, as a %s', async (as) => {
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

interface Listed {
  readonly config: Readonly<Record<string, unknown>>
  readonly layers: readonly Readonly<Record<string, unknown>>[]
}

describe('a damaged OCI layout publishes nothing, and neither it nor its check passes:', () => {
  const { layers, configDigest } = packed
  const [, second, third] = layers
  const blobOf = (digest = '') => blobName(digest)
  const changed = (bytes: Buffer | undefined, at: number): Buffer => {
    const copy = Buffer.from(bytes ?? '')
    const place = at < 0 ? copy.length + at : at
    copy.writeUInt8(copy.readUInt8(place) ^ 0x55, place)
    return copy
  }
  const cut = (bytes: Buffer | undefined) => bytes?.subarray(0, -1)
  const replaced = (name: string | undefined, file: LayoutFile | undefined) => withFiles(packed, { [name ?? '']: file })
  /** With a manifest that says so, under a name that fits. */
  const listing = (manifest: Readonly<Record<string, unknown>>) =>
    makeLayout({ layers: LAYERS, packings: ['gzip', 'zstd', 'gzip', 'zstd'], manifest }).files
  const { layers: listed, config: listedConfig }: Readonly<Listed> = JSON.parse(packed.manifest.toString())
  const withEntries = (...manifests: readonly unknown[]) => replaced('index.json', indexOf(manifests))
  const other = makeLayout({ layers: ['other'] })
  const fake = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' }
  const noGzip = Buffer.concat([Buffer.from('1f8b0800', 'hex'), noise(5000)])
  const climbing = { ...packed.entry, digest: 'sha256:../../etc/passwd' }

  test.each<[string, ReadonlyMap<string, LayoutFile>, RegExp]>([
    ['a layer is missing', replaced(third?.name, undefined), /its layer sha256:\w+ is missing/],
    ['a layer has another first byte', replaced(third?.name, changed(third?.blob, 0)), /not the one|another content/],
    [
      'a layer has another last byte',
      replaced(third?.name, changed(third?.blob, -1)),
      /is damaged: it can't be decomp/,
    ],
    [
      'a layer in zstd has another byte',
      replaced(second?.name, changed(second?.blob, 1_000_000)),
      /another content|not the one|is damaged/,
    ],
    [
      'a layer is cut short',
      replaced(third?.name, cut(third?.blob)),
      /has \d+ bytes, and its manifest says \d+|is damaged/,
    ],
    [
      'a layer holds the same in other bytes, the system in its gzip header changed',
      replaced(third?.name, changed(third?.blob, 9)),
      /has another content than its name says/,
    ],
    [
      'a layer in zstd is called gzip',
      listing({ layers: listed.map((layer) => ({ ...layer, ...fake })) }),
      /its layer blobs\S+ is zstd, and its manifest says gzip/,
    ],
    [
      'a layer that is not compressed is called gzip',
      makeLayout({
        layers: ['lower'],
        packings: ['plain'],
        manifest: { layers: [{ ...fake, digest: made.layers[0]?.diffId, size: made.layers[0]?.bytes.length }] },
      }).files,
      /another content than its name says|its manifest says gzip/,
    ],
    ['a layer is empty', replaced(third?.name, Buffer.alloc(0)), /has 0 bytes, and its manifest says/],
    [
      'a layer has another size than its manifest says',
      listing({ layers: listed.map((layer) => ({ ...layer, size: Number(layer['size']) + 1 })) }),
      /has \d+ bytes, and its manifest says \d+/,
    ],
    [
      'a layer is another’s',
      replaced(third?.name, layers[3]?.blob),
      /has \d+ bytes, and its manifest says \d+|has another content than its name says/,
    ],
    [
      'a layer with gzip’s first bytes is no gzip',
      new Map([
        ...listing({
          layers: listed.map((layer, at) =>
            at === 2 ? { ...fake, digest: digestOf(noGzip), size: noGzip.length } : layer,
          ),
        }),
        [blobName(digestOf(noGzip)), noGzip] as const,
      ]),
      /is damaged: it can't be decompressed/,
    ],
    ['its manifest is missing', replaced(blobOf(packed.manifestDigest), undefined), /sha256:\w+ is missing/],
    [
      'its manifest has another byte',
      replaced(blobOf(packed.manifestDigest), changed(packed.manifest, -3)),
      /has another content than its name says/,
    ],
    [
      'its manifest is no JSON',
      new Map([...withEntries({ ...packed.entry, digest: digestOf(Buffer.from('{x')), size: 2 })]).set(
        blobName(digestOf(Buffer.from('{x'))),
        Buffer.from('{x'),
      ),
      /its manifest sha256:\w+ is not a valid image manifest: it is not JSON/,
    ],
    [
      'its manifest has another size than its index says',
      withEntries({ ...packed.entry, size: packed.manifest.length + 1 }),
      /has \d+ bytes, and what lists it says \d+/,
    ],
    [
      'its config has another size than its manifest says, by which clients would refuse it',
      listing({ config: { ...listedConfig, size: packed.config.length + 1 } }),
      /has \d+ bytes, and what lists it says \d+/,
    ],
    ['its config is missing', replaced(blobOf(configDigest), undefined), /sha256:\w+ is missing/],
    [
      'its config has another byte',
      replaced(blobOf(configDigest), changed(packed.config, -3)),
      /has another content than its name says/,
    ],
    ['its index.json is no JSON', replaced('index.json', Buffer.from('{"manifests')), /index\.json .*it is not JSON/],
    ['its index.json is a manifest', replaced('index.json', packed.manifest), /index\.json contradicts itself/],
    ['its index.json lists nothing', withEntries(), /its index\.json lists no image/],
    [
      'its index.json lists an attestation alone',
      withEntries({ ...packed.entry, platform: { os: 'unknown', architecture: 'unknown' } }),
      /its index\.json lists no image/,
    ],
    [
      'it has two images',
      new Map([...other.files, ...withEntries(packed.entry, other.entry)]),
      /has 2 images, and only one can be pushed/,
    ],
    ['its indexes go on and on', makeLayout({ nested: 40 }).files, /its indexes lead to one another/],
    ['its index.json points out of it', withEntries(climbing), /manifests\.0\.digest: is not a sha256 digest/],
    ['its config lists a layer less', listing({ layers: [...listed, listed[0]] }), /has 5 layers, .* config lists 4/],
    ['its config lists a layer more', listing({ layers: listed.slice(1) }), /has 3 layers, .* config lists 4/],
    ['its layers are in another order', listing({ layers: listed.toReversed() }), /not the one that its config lists/],
    [
      'its config lists other layers',
      makeLayout({
        layers: LAYERS,
        config: { rootfs: { type: 'layers', diff_ids: made.layers.map(() => digestOf(Buffer.from('none'))) } },
      }).files,
      /not the one that its config lists/,
    ],
    [
      'its config lists other layers, which are not compressed',
      makeLayout({
        layers: ['lower'],
        packings: ['plain'],
        config: { rootfs: { type: 'layers', diff_ids: [digestOf(Buffer.from('none'))] } },
      }).files,
      /not the one that its config lists/,
    ],
    [
      'a layer is a symbolic link to a file of the machine',
      replaced(third?.name, { linkName: '/etc/passwd' }),
      /is a link that leads out of|its layer sha256:\w+ is missing/,
    ],
    [
      'a layer is a symbolic link to a device',
      replaced(third?.name, { linkName: '/dev/zero' }),
      /is a link that leads out of|its layer sha256:\w+ is missing/,
    ],
    [
      'its config is a symbolic link that leads nowhere',
      replaced(blobOf(configDigest), { linkName: 'absent' }),
      /sha256:\w+ is missing/,
    ],
  ])('%s', async (_, files, message) => {
    for (const as of ['folder', 'tar', 'gzip'] as const) {
      const { server, client } = await connect()
      // Again, for the first attempt has left blobs behind.
      for (const _attempt of [1, 2]) {
        const pushing = pushLayout({ files }, client, { as })
        await expect(pushing).rejects.toThrow(message)
        await expect(pushing).rejects.toBeInstanceOf(ActionError)
        expectNothingPublished(server)
      }
      const checking = checkImage(await findSource(await storeLayout(folder, files, as)))
      await expect(checking).rejects.toThrow(message)
      await expect(checking).rejects.toBeInstanceOf(ActionError)
    }
  })

  test.each(['folder', 'tar', 'gzip'] as const)(
    'a layer of its %s has other content, and none of it is sent',
    async (as) => {
      const { server, client } = await connect()
      // A whole layer, which only its digest tells from the one that the manifest lists.
      const secret = gzipSync(writeTar([{ name: 'secret', content: 'hunter2' }]))
      const files = new Map([
        ...listing({ layers: listed.map((layer, at) => (at === 2 ? { ...layer, size: secret.length } : layer)) }),
        [third?.name ?? '', secret] as const,
      ])
      await expect(pushLayout({ files }, client, { as })).rejects.toThrow(/is not the one|has another content/)
      expectNothingPublished(server)
      expect(await server.blob('app', digestOf(secret))).toBeUndefined()
    },
  )

  test.each(['tar', 'gzip'] as const)('a member of its %s climbs out', async (as) => {
    const { server, client } = await connect()
    const files = replaced('blobs/sha256/../../../../etc/passwd', Buffer.from('x'))
    await expect(pushLayout({ files }, client, { as })).rejects.toThrow(/points out of it/)
    expectNothingPublished(server)
  })

  test.each(['tar', 'gzip'] as const)('its %s has no index.json', async (as) => {
    const { server, client } = await connect()
    const files = replaced('index.json', undefined)
    await expect(pushLayout({ files }, client, { as })).rejects.toThrow(/has neither manifest\.json nor index\.json/)
    expectNothingPublished(server)
  })
})

describe('a docker archive whose layers are compressed already', () => {
  // As crane writes it: layers by the digests of their blobs, and the config by its own.
  // https://github.com/google/go-containerregistry/blob/main/pkg/v1/tarball/write.go
  const blobs = made.layers.map(({ bytes }) => gzipSync(bytes, { level: 1 }))
  const names = blobs.map((blob) => `${digestOf(blob).slice('sha256:'.length)}.tar.gz`)
  const archive = (contents: readonly Buffer[], layers = names) =>
    writeTar([
      { name: made.configDigest, content: made.config },
      ...contents.map((content, at) => ({ name: layers[at] ?? '', content })),
      {
        name: 'manifest.json',
        content: JSON.stringify([{ ...made.manifest, Config: made.configDigest, Layers: layers }]),
      },
    ])

  test.each(FORMS)('has them sent as they are: %s', async (form) => {
    const { server, client } = await connect()
    const { layers } = await push({ bytes: archive(blobs) }, client, { form })
    await expectWhole(server, 'v1', made)
    expect(layers.map(({ digest }) => digest)).toEqual(blobs.map(digestOf))
    const checked = await checkImage(await findSource(await store(archive(blobs), form)))
    expect(checked.configDigest).toBe(made.configDigest)
  })

  test.each(['.tar', '/layer.tar', '.tgz', ''])(
    'has them sent as they are, whatever they are called: x%s',
    async (end) => {
      const called = blobs.map((_, at) => `${at}${end}`)
      for (const packed of [blobs, made.layers.map(({ bytes }) => zstdCompressSync(bytes))]) {
        expect(packed.some(({ length }) => length % 512 !== 0)).toBe(true)
        const { server, client } = await connect()
        for (const form of FORMS) {
          const { layers } = await push({ bytes: archive(packed, called) }, client, { form })
          expect(layers.map(({ digest }) => digest)).toEqual(packed.map(digestOf))
        }
        await expectWhole(server, 'v1', made)
      }
    },
  )

  test.each(FORMS)('stays in gzip where layers are to be in zstd: %s', async (form) => {
    const { server, client } = await connect()
    const { layers } = await push({ bytes: archive(blobs) }, client, {
      form,
      compression: { format: 'zstd', level: 3 },
    })
    await expectWhole(server, 'v1', made)
    expect(layers.map(({ format }) => format)).toEqual(made.layers.map(() => 'gzip'))
  })

  test.each(FORMS)('has those in xz packed anew, for registries take none: %s', async (form) => {
    const bytes = archive(await Promise.all(made.layers.map((layer) => packWithXz(layer.bytes))))
    const { server, client } = await connect()
    await push({ bytes }, client, { form })
    await expectWhole(server, 'v1', made)
    await checkImage(await findSource(await store(bytes, form)))
  })

  test.each(FORMS)('publishes nothing where one is damaged: %s', async (form) => {
    const [first = Buffer.alloc(0), ...more] = blobs
    for (const bytes of [archive([first.subarray(0, -1), ...more]), archive([noise(1000), ...more])]) {
      const { server, client } = await connect()
      await expect(push({ bytes }, client, { form })).rejects.toBeInstanceOf(ImageError)
      expectNothingPublished(server)
      await expect(checkImage(await findSource(await store(bytes, form)))).rejects.toBeInstanceOf(ImageError)
    }
  })
})

test('whoever reads the log learns of each layer what became of it', async () => {
  const { client } = await connect()
  await push(made, client, { tag: 'latest' })
  const pushedLines = client.lines.filter((line) => /^[0-9a-f]{12}: .* → .*, pushed in \d+\.\d s \(.*\/s\)$/.test(line))
  expect(pushedLines).toHaveLength(made.layers.length)
  await push(made, client, { published: await publishedAt(client) })
  expect(client.lines.filter((line) => /^[0-9a-f]{12}: .*, reused \(/.test(line))).toHaveLength(made.layers.length)
})
