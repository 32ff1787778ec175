import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { NOTHING_PUBLISHED } from '../../src/cache/layers.ts'
import { ActionError } from '../../src/errors.ts'
import { ImageError } from '../../src/image/image-error.ts'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check-image.ts'
import { pushImage } from '../../src/push/push.ts'
import { open } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { annotatedManifest, layoutTar, makeLayout, packWithXz } from '../support/layout.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'

// Files that begin like one thing and go on like another, or end anywhere: whatever their bytes are, what is published
// is the image that was built, or nothing.

let folder: string
let temp: string
let server: TestRegistry
let files = 0

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

const layers = ['lower', writeTar([{ name: 'noise', content: noise(3000) }])]
const archive = makeArchive({ layers })
const layout = makeLayout({ layers, packings: ['gzip', 'zstd'] })
const storePath = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
const KEY = 'io.github.nix-image-action'
const published = digestOf(
  annotatedManifest(layout, { [`${KEY}.store-path`]: storePath, [`${KEY}.compression`]: 'gzip' }),
)
const tars = { 'docker archive': archive.bytes, layout: layoutTar(layout.files) }

type Kind = 'docker archive' | 'layout'
type Format = 'tar' | 'gzip' | 'zstd' | 'xz'

const PACKERS: Readonly<Record<Format, (bytes: Buffer) => Buffer | Promise<Buffer>>> = {
  tar: (bytes) => bytes,
  gzip: (bytes) => gzipSync(bytes),
  zstd: (bytes) => zstdCompressSync(bytes),
  xz: packWithXz,
}
const FORMATS: readonly Format[] = ['tar', 'gzip', 'zstd', 'xz']
const WHOLE = FORMATS.flatMap((format) =>
  (['docker archive', 'layout'] as const).map((kind) => [format, kind, () => PACKERS[format](tars[kind])] as const),
)

/** How the forms begin, but for tars, whose first bytes are a name. */
const MAGIC: Readonly<Record<string, string>> = {
  gzip: '1f8b0800',
  zstd: '28b52ffd',
  xz: 'fd377a585a00',
  script: '23212f62',
}

/** Nothing here can be run: files are not executable. */
async function store(bytes: Buffer): Promise<string> {
  const path = join(folder, `result-${files++}`)
  await writeFile(path, bytes, { mode: 0o444 })
  return path
}

/** What comes of it: an explained error, or the very image. */
async function expectImageOrError(bytes: Buffer, kind?: Kind): Promise<'image' | 'error'> {
  const path = await store(bytes)
  // Its own program reads a description, and says what is wrong with it.
  if (bytes[0] === 0x7b) return 'error'
  const client = open(server.host)
  const repository = { ...client.repository, path: `app-${files++}` }
  const tried = await attempt(async () => {
    const source = await findSource(path)
    const { manifest, layers: pushed } = await pushImage(
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
      { info: () => undefined, warning: () => undefined, debug: () => undefined },
    )
    return { digest: manifest.digest, diffIds: pushed.map(({ diffId }) => diffId) }
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

/** An explained failure is a result; any other is this test's. */
async function attempt<Result>(work: () => Promise<Result>): Promise<Result | ActionError> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof ActionError) return error
    throw error
  }
}

test.each(WHOLE)('as it was built, a %s of a %s is the image', async (_format, kind, make) => {
  expect(await expectImageOrError(await make(), kind)).toBe('image')
})

test.each(WHOLE)(
  'cut anywhere, a %s of a %s is an error, or, where only padding is cut, the image',
  async (format, kind, make) => {
    const whole = await make()
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: whole.length - 1 }), async (length) => {
        expect(await expectImageOrError(whole.subarray(0, length), kind)).toBe(
          isCleanEnd(length, format, kind) ? 'image' : 'error',
        )
      }),
      { numRuns: 25, examples: [[0], [1], [6], [257], [512], [whole.length - 1], [whole.length - 513]] },
    )
  },
)

/** Where nobody misses anything: between the last member and the end that zeros mark, or after the first block of them. */
function isCleanEnd(length: number, format: Format, kind: Kind): boolean {
  if (format !== 'tar') return false
  const end = tars[kind].length - 1024
  return length === end || length >= end + 512
}

test.each(WHOLE)('with other first bytes, a %s of a %s is an error, or else the image', async (_format, kind, make) => {
  const whole = await make()
  const magics = Object.values(MAGIC).map((hex) => Uint8Array.from(Buffer.from(hex, 'hex')))
  const starts = fc.oneof(fc.constantFrom(...magics), fc.uint8Array({ minLength: 1, maxLength: 600 }))
  await fc.assert(
    fc.asyncProperty(starts, fc.boolean(), async (start, inPlace) => {
      const bytes = Buffer.concat([start, whole.subarray(inPlace ? start.length : 0)])
      if (bytes.equals(whole)) return
      await expectImageOrError(bytes, kind)
    }),
    {
      numRuns: 25,
      examples: magics.flatMap((magic): [Uint8Array<ArrayBuffer>, boolean][] => [
        [magic, true],
        [magic, false],
      ]),
    },
  )
})

test.each(WHOLE)(
  'with a byte changed anywhere, a %s of a %s is an error, or else the image',
  async (_format, kind, make) => {
    const whole = await make()
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
        const bytes = Buffer.from(whole)
        bytes.writeUInt8(bytes.readUInt8(at) ^ change, at)
        await expectImageOrError(bytes, kind)
      }),
      { numRuns: 40 },
    )
  },
)

test('random bytes are an error', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 2000 }), async (bytes) => {
      expect(await expectImageOrError(Buffer.from(bytes))).toBe('error')
    }),
    { numRuns: 40 },
  )
})
