import { chmod, mkdir, mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import { afterEach, beforeEach, expect } from '@jest/globals'
import { findPublished, type LayerCache, NOTHING_PUBLISHED } from '../../src/cache/layers.ts'
import { readPreviousImages } from '../../src/cache/previous-image.ts'
import { findSource } from '../../src/image/source.ts'
import { type PushedImage, pushImage } from '../../src/push/image.ts'
import type { RegistryPush } from '../../src/push/layers.ts'
import type { ImageManifest } from '../../src/registry/image.ts'
import type { Client } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { type ArchiveOptions, type MadeArchive, makeArchive, writeTar } from '../support/image.ts'
import { noise, unzstd } from '../support/layer-content.ts'
import { annotatedManifest, type LayoutForm, type MadeLayout, makeLayout, storeLayout } from '../support/layout.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import type { SeenRequest, TestRegistry } from '../support/registry.ts'

export const PLATFORM = { os: 'linux', architecture: 'amd64' }
export const REFUSAL = '{"errors":[{"code":"DENIED","message":"not yours"}]}'

/** The folder of one test. */
export let folder: string
/** The temporary files of a push. */
export let temp: string
let files = 0

/** Gives each test its own folder, and checks that no push leaves temporary files behind. */
export function setUpFolder(): void {
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'push-'))
    temp = join(folder, 'temp')
    await mkdir(temp)
  })

  afterEach(async () => {
    const left = await readdir(temp)
    const held = await openIn(temp)
    await rm(folder, { recursive: true })
    // Neither files nor open handles of deleted files, which would still take disk space.
    expect({ left, held }).toEqual({ left: [], held: [] })
  })
}

/** Returns the open files of this process that are, or were, in a folder. */
export async function openIn(path: string): Promise<readonly string[]> {
  const links = (await readdir('/proc/self/fd')).map((fd) => readlink(join('/proc/self/fd', fd)).catch(() => ''))
  return (await Promise.all(links)).filter((link) => link.startsWith(path))
}

export const STORE_PATH = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
export const KEY = 'io.github.nix-image-action'
export const FORMS = ['tar', 'gzip', 'script'] as const
export type Form = (typeof FORMS)[number]

export async function store(bytes: Buffer, form: Form = 'tar'): Promise<string> {
  const path = join(folder, `result-${files++}`)
  await writeFile(path, form === 'gzip' ? gzipSync(bytes) : bytes)
  if (form !== 'script') return path
  await writeFile(`${path}.sh`, `#!/bin/sh\necho made >> '${path}.runs'\nexec cat '${path}'\n`)
  await chmod(`${path}.sh`, 0o555)
  return `${path}.sh`
}

export interface Pushing extends Partial<Omit<RegistryPush, 'source'>> {
  readonly form?: Form
  readonly path?: string
}

export async function push(
  { bytes }: Pick<MadeArchive, 'bytes'>,
  client: Client,
  pushing: Pushing = {},
): Promise<Pushed> {
  const { form, path, ...call } = pushing
  const pushed = await pushImage(
    {
      source: await findSource(path ?? (await store(bytes, form))),
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
  const [manifest] = pushed.images
  if (manifest === undefined) throw new Error('pushImage returned no image')
  return { ...pushed, manifest }
}

export interface Pushed extends Required<PushedImage> {
  /** The first of the images, which all have the same manifest. */
  readonly manifest: ImageManifest
}

export function logOf({ lines }: Client) {
  const write = (line: string): void => void (lines as string[]).push(line)
  const group = <Result>(title: string, work: () => Promise<Result>): Promise<Result> => {
    write(title)
    return work()
  }
  return { info: write, warning: write, debug: write, group }
}

export async function publishedAt(client: Client, tag = 'latest', path = client.repository.path): Promise<LayerCache> {
  const reference = { repository: { ...client.repository, path }, tag }
  const log = logOf(client)
  return findPublished(client, await readPreviousImages(client, [reference], log), [client.repository], PLATFORM, log)
}

export interface ReadLayer {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly annotations?: unknown
}

export interface ReadManifest {
  readonly mediaType: string
  readonly annotations?: unknown
  readonly config: ReadLayer
  readonly layers: readonly ReadLayer[]
}

/** Reads an image from the registry, as a client that pulls it. */
export async function pulled(server: TestRegistry, reference: string, path = 'app') {
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

export async function blobAt(server: TestRegistry, { digest, size }: ReadLayer, path: string): Promise<Buffer> {
  const bytes = await server.blob(path, digest)
  if (bytes?.length !== size) throw new Error(`${digest} has ${bytes?.length} bytes, not ${size}`)
  return bytes
}

export function digestsOf(layers: readonly Buffer[]): readonly string[] {
  return layers.map((bytes) => digestOf(bytes))
}

/** Returns the requests that stored a blob. */
export function uploads(requests: readonly SeenRequest[]): readonly SeenRequest[] {
  return requests.filter(({ method, route, status }) => method === 'PUT' && route === 'upload' && status === 201)
}

/** Returns the digest of the blob that an upload creates. */
export function digestAskedFor({ path }: SeenRequest): string {
  return new URL(path, 'http://x').searchParams.get('digest') ?? ''
}

export function manifestPuts(requests: readonly SeenRequest[]): readonly (string | undefined)[] {
  return requests
    .filter(({ method, route, status }) => method === 'PUT' && route === 'manifest' && status === 201)
    .map(({ reference }) => reference)
}

// Larger than a pipe and the chunks of a stream. `large.ts` has an image whose layers are larger than all blocks.
export const big = writeTar([{ name: 'usr/share/noise', content: noise(200_000) }])
export const text = writeTar([{ name: 'usr/share/words', content: 'many words, again and again\n'.repeat(5000) }])
export const LAYERS = ['lower', big, text, 'upper']
export const OPTIONS: ArchiveOptions = { layers: LAYERS }
export const made = makeArchive(OPTIONS)
/** Layers are named by their diff IDs, as in Nix's layered images. */
export const named: ArchiveOptions = {
  ...OPTIONS,
  layerName: (diffId) => `${diffId.slice('sha256:'.length)}/layer.tar`,
}

export async function expectWhole(
  server: TestRegistry,
  reference: string,
  archive: MadeArchive,
  path = 'app',
): Promise<void> {
  const image = await pulled(server, reference, path)
  expect(image.mediaType).toBe(mediaTypes.ociManifest)
  expect(image.config.equals(archive.config)).toBe(true)
  expect(digestsOf(image.layers)).toEqual(archive.layers.map(({ diffId }) => diffId))
}

export function expectNothingPublished(server: TestRegistry, path = 'app'): void {
  expect([...server.tags(path).keys()]).toEqual([])
  expect(manifestPuts(server.requests)).toEqual([])
}

export const packed = makeLayout({ layers: LAYERS, packings: ['gzip', 'zstd', 'gzip', 'zstd'] })

export interface PushingLayout extends Omit<Pushing, 'form' | 'path'> {
  readonly as?: LayoutForm
}

export async function pushLayout(
  { files }: Pick<MadeLayout, 'files'>,
  client: Client,
  { as = 'folder', ...call }: PushingLayout = {},
): Promise<Pushed> {
  return push(made, client, { ...call, path: await storeLayout(folder, files, as) })
}

/** Returns the manifest that is published for a layout: its own, with build info added. */
export function publishedOf(layout: MadeLayout, asked = 'gzip'): { readonly bytes: Buffer; readonly digest: string } {
  const { layers }: Readonly<Listed> = JSON.parse(layout.manifest.toString())
  const leftSome = layers.some(({ mediaType }) => !String(mediaType).endsWith(asked))
  const bytes = annotatedManifest(layout, {
    [`${KEY}.store-path`]: STORE_PATH,
    ...(leftSome && { [`${KEY}.compression`]: asked }),
  })
  return { bytes, digest: digestOf(bytes) }
}

export async function expectSame(
  server: TestRegistry,
  layout: MadeLayout,
  path = 'app',
  asked = 'gzip',
): Promise<void> {
  const { bytes } = publishedOf(layout, asked)
  expect(String(server.manifest(path, 'v1')?.bytes)).toBe(String(bytes))
  await expectSameBlobs(server, layout, path)
}

export async function expectSameBlobs(server: TestRegistry, layout: MadeLayout, path = 'app'): Promise<void> {
  expect((await server.blob(path, layout.configDigest))?.equals(layout.config)).toBe(true)
  for (const { digest, blob } of layout.layers) expect((await server.blob(path, digest))?.equals(blob)).toBe(true)
}

export interface Listed {
  readonly config: Readonly<Record<string, unknown>>
  readonly layers: readonly Readonly<Record<string, unknown>>[]
}
