import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, expect } from '@jest/globals'
import { NOTHING_PUBLISHED } from '../../src/cache/layers.ts'
import { ActionError, ImageError } from '../../src/errors.ts'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { pushImage } from '../../src/push/image.ts'
import { open } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { annotatedManifest, layoutTar, makeLayout, packWithXz } from '../support/layout.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'

// Truncated and changed files: whatever their bytes are, either the original image is published or nothing.

let folder: string
let temp: string
let server: TestRegistry
let files = 0

/** Starts a registry for the tests of a file, and checks that they leave no temporary files behind. */
export function setUpRegistry(): void {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'damaged-'))
    temp = join(folder, 'temp')
    await mkdir(temp)
    server = await startRegistry()
  })

  afterAll(async () => {
    await server.close()
    const left = await readdir(temp)
    await rm(folder, { recursive: true })
    expect(left).toEqual([])
  })
}

export const layers = ['lower', writeTar([{ name: 'noise', content: noise(3000) }])]
export const archive = makeArchive({ layers })
export const layout = makeLayout({ layers, packings: ['gzip', 'zstd'] })
export const storePath = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
export const KEY = 'io.github.nix-image-action'
export const published = digestOf(
  annotatedManifest(layout, { [`${KEY}.store-path`]: storePath, [`${KEY}.compression`]: 'gzip' }),
)
export const tars = { 'docker archive': archive.bytes, layout: layoutTar(layout.files) }

export type Kind = 'docker archive' | 'layout'
export type Format = 'tar' | 'gzip' | 'zstd' | 'xz'

export const PACKERS: Readonly<Record<Format, (bytes: Buffer) => Buffer | Promise<Buffer>>> = {
  tar: (bytes) => bytes,
  gzip: (bytes) => gzipSync(bytes),
  zstd: (bytes) => zstdCompressSync(bytes),
  xz: packWithXz,
}
export const FORMATS: readonly Format[] = ['tar', 'gzip', 'zstd', 'xz']
export const WHOLE = FORMATS.flatMap((format) =>
  (['docker archive', 'layout'] as const).map((kind) => [format, kind, () => PACKERS[format](tars[kind])] as const),
)

/** The first bytes of each format, without tars, which begin with a file name. */
export const MAGIC: Readonly<Record<string, string>> = {
  gzip: '1f8b0800',
  zstd: '28b52ffd',
  xz: 'fd377a585a00',
  script: '23212f62',
}

/** Stores a file that is not executable, so that no script runs. */
export async function store(bytes: Buffer): Promise<string> {
  const path = join(folder, `result-${files++}`)
  await writeFile(path, bytes, { mode: 0o444 })
  return path
}

/** Pushes an image, and expects either an explained error or the original image. */
export async function expectImageOrError(bytes: Buffer, kind?: Kind): Promise<'image' | 'error'> {
  const path = await store(bytes)
  // Only nix2container's own program reads a description.
  if (bytes[0] === 0x7b) return 'error'
  const client = open(server.host)
  const repository = { ...client.repository, path: `app-${files++}` }
  const tried = await attempt(async () => {
    const source = await findSource(path)
    const {
      images: [image],
      layers: pushed,
    } = await pushImage(
      {
        source,
        images: [repository],
        tag: 'v1',
        platform: { os: 'linux', architecture: 'amd64' },
        compression: { format: 'gzip', level: 1 },
        published: NOTHING_PUBLISHED,
        labels: {},
        storePath,
        tempFolder: temp,
        check: () => undefined,
      },
      client,
      { info: () => undefined, group: (_title, work) => work() },
    )
    return { digest: image?.digest, diffIds: pushed.map(({ diffId }) => diffId) }
  })
  const checked = await attempt(async () => checkImage(await findSource(path)))
  await rm(path, { force: true })
  if (tried instanceof ActionError) {
    expect(tried).toBeInstanceOf(ImageError)
    expect(tried.message).toContain(path)
    expect(checked).toBeInstanceOf(ImageError)
    expect([...server.tags(repository.path).keys()]).toEqual([])
    return 'error'
  }
  expect(checked).not.toBeInstanceOf(Error)
  if (kind === 'layout') expect(tried.digest).toBe(published)
  expect(tried.diffIds).toEqual(archive.layers.map(({ diffId }) => diffId))
  expect(server.tags(repository.path)).toEqual(new Map([['v1', tried.digest]]))
  return 'image'
}

/** Returns an explained error, and throws any other. */
export async function attempt<Result>(work: () => Promise<Result>): Promise<Result | ActionError> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof ActionError) return error
    throw error
  }
}
