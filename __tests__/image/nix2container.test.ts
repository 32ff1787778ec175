import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { FileError, ImageError } from '../../src/errors.ts'
import { goTarHeader } from '../../src/image/go-tar.ts'
import {
  type Nix2containerImage,
  type Nix2containerLayer,
  type Nix2containerPath,
  nix2containerConfig,
  parseNix2containerImage,
} from '../../src/image/nix2container.ts'
import { readNix2containerLayer } from '../../src/image/nix2container-layer.ts'
import { addStorePath, createLayerTree } from '../../src/image/nix2container-tree.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { FIXTURE_STORE, STORE_PATHS, writeFixtureStore } from './nix2container-store.ts'

/**
 * Written by nix2container 1.0.0 (commit 20d3395) from the store that `writeFixtureStore` writes: the JSON of its commands
 * `image-from-dir`, `layers-from-…` and `image`, and the config of its GetConfigBlob.
 */
const FIXTURE = new URL('../fixtures/nix2container/', import.meta.url)
const TAR = 'application/vnd.oci.image.layer.v1.tar'
const json = await readFile(new URL('image.json', FIXTURE))

let folder: string
let store: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nix2container-'))
  store = join(folder, 'store')
  await mkdir(store)
  await writeFixtureStore(store)
})

afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the image that nix2container describes', () => {
  const image = parsed(json)

  test('has the config that nix2container writes, byte for byte', async () => {
    const written = await readFile(new URL('config', FIXTURE))
    expect(nix2containerConfig(image).toString()).toBe(written.toString())
  })

  test.each([
    ['files, links and names of all kinds', 1],
    ['the contents of two store paths in the same root', 2],
    ['owners and permissions', 3],
  ])('has the layer that nix2container writes, byte for byte: %s', async (_, at) => {
    expect(await digestOfLayer(layerAt(image, at))).toBe(layerAt(image, at).digest)
  })

  test('has layers of a base image and of store paths that differ in each build, read from their files', async () => {
    const base = layerAt(image, 0)
    const unreproducible = layerAt(image, 4)
    await writeLayerFile(base, [Buffer.from('a compressed layer')])
    await writeLayerFile(unreproducible, readLocated(storePathLayer({ path: `${FIXTURE_STORE}/${STORE_PATHS.file}` })))
    expect(base.digest).not.toBe(base.diffId)
    expect(await digestOfLayer(base)).toBe(base.digest)
    expect(await digestOfLayer(unreproducible)).toBe(unreproducible.digest)
  })
})

describe('a description that could mean another image is refused with a reason', () => {
  test.each<[string, (image: FixtureImage) => unknown, RegExp]>([
    ['another version', (image) => ({ ...image, version: 2 }), /^version: /],
    ['an unknown field', (image) => ({ ...image, variant: 'v8' }), /^variant: /],
    ['an unknown field of its config', withConfig({ Healthcheck: {} }), /^image-config.Healthcheck: /],
    ['an unknown field of a layer', withLayer({ perms: [] }), /^layers.1.perms: /],
    ['no history, as in older versions', withLayer({ History: undefined }), /^layers.1.History: /],
    ['no layers', (image) => ({ ...image, layers: null }), /^layers: /],
    ['a layer without content', withLayer({ paths: undefined }), /^layers.1: has no content$/],
    ['a layer of another type', withLayer({ mediatype: 'application/x-tar' }), /^layers.1.mediatype: /],
    ['a compressed layer of store paths', withLayer({ mediatype: `${TAR}+gzip` }), /^layers.1: is compressed/],
    [
      'a tar whose digest is not its diff ID',
      withLayer({ diff_ids: digestOf(Buffer.from('other')) }),
      /^layers.1: has two digests$/,
    ],
    ['a file outside of the store', withPath({ path: '/etc/passwd' }), /^a file of its layers is not in \/nix\/store$/],
    ['a path that leaves the store', withPath({ path: '/nix/store/../../etc' }), /^a file of its layers is not in/],
    ['a path inside of a store path', withPath({ path: '/nix/store/x/etc/passwd' }), /^a file of its layers is not in/],
    ['the store itself', withPath({ path: '/nix/store/' }), /^a file of its layers is not in/],
    ['a layer file outside of the store', withLayer({ 'layer-path': '/tmp/x' }), /^a file of its layers is not in/],
    ['an expression of Go', withRewrite({ regex: '(?i)^/nix', repl: '' }), /regex: is a regular expression that only/],
    ['a replacement with groups', withRewrite({ regex: '^/(nix)', repl: '$1' }), /repl: refers to groups$/],
    ['a time in another form', (image) => ({ ...image, created: '2024-02-29T12:00:00+00:00' }), /^created: /],
    ['text that Go replaces', withConfig({ User: '\ud800' }), /^image-config.User: has an unusual character$/],
  ])('%s', (_, change, reason) => {
    const parsed = parseNix2containerImage(Buffer.from(JSON.stringify(change(fixture()))), FIXTURE_STORE)
    expect(parsed).toEqual({ ok: false, reason: expect.stringMatching(reason) })
  })

  test('not JSON', () => {
    expect(parseNix2containerImage(json.subarray(1), FIXTURE_STORE)).toEqual({ ok: false, reason: 'it is not JSON' })
  })
})

describe('the config of an image', () => {
  test('has only what the description has', () => {
    const digest = layerAt(parsed(json), 1).digest
    const layer = { ...fixture().layers[1], History: {} }
    const image = { version: 1, 'image-config': {}, layers: [layer], arch: 'amd64' }
    expect(nix2containerConfig(parsed(Buffer.from(JSON.stringify(image)))).toString()).toBe(
      `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["${digest}"]},"history":[{}]}`,
    )
  })

  test('keeps labels with the names of properties that all objects have', () => {
    const labels = '{"__proto__":"a","constructor":"b"}'
    const text = json.toString().replace(/"Labels": \{[^}]*\}/, `"Labels": ${labels}`)
    expect(nix2containerConfig(parsed(Buffer.from(text))).toString()).toContain(`"Labels":${labels}`)
  })
})

describe('a layer that cannot be read is an error that names the file', () => {
  test('a store path that is missing', async () => {
    const read = digestOfLayer(storePathLayer({ path: `${FIXTURE_STORE}/missing` }))
    await expect(read).rejects.toThrow(FileError)
    await expect(read).rejects.toThrow(/^\/nix\/store\/missing can't be read\n {2}ENOENT/)
  })

  test.each<[string, (path: string) => Promise<void>, RegExp]>([
    ['a file that became a link', becomeLink, /^\/nix\/store\/changing\/b can't be read\n {2}ELOOP/],
    ['a file that became shorter', (path) => truncate(path), /^\/nix\/store\/changing\/b became shorter/],
  ])('%s', async (_, change, message) => {
    for (const size of [1000, 1_000_000]) {
      const path = join(store, 'changing')
      await mkdir(path)
      await writeFile(join(path, 'a'), Buffer.alloc(1_000_000))
      await writeFile(join(path, 'b'), Buffer.alloc(size))
      const read = (async () => {
        for await (const _ of readLocated(storePathLayer({ path: `${FIXTURE_STORE}/changing` })))
          await change(join(path, 'b'))
      })()
      await expect(read).rejects.toThrow(FileError)
      await expect(read).rejects.toThrow(message)
      await rm(path, { recursive: true })
    }
  })

  test('two store paths have different files of the same name', async () => {
    const paths = [STORE_PATHS.file, STORE_PATHS.link].map((name) => `${FIXTURE_STORE}/${name}`)
    const read = digestOfLayer(
      storePathLayer(...paths.map((path) => ({ path, rewrite: { regex: '^.*$', repl: '/etc/passwd' } }))),
    )
    await expect(read).rejects.toThrow(ImageError)
    await expect(read).rejects.toThrow(/^Two store paths have different files for \/etc\/passwd in the image\n/)
  })
})

test('a layer with more files than fit into memory is refused', async () => {
  const path = { path: `${FIXTURE_STORE}/${STORE_PATHS.root}`, rewrite: undefined, perms: [] }
  const count = async (limit: number) => {
    const tree = createLayerTree(limit)
    await addStorePath(tree, path, join(store, STORE_PATHS.root))
    return tree.count
  }
  const files = await count(1000)
  expect(await count(files)).toBe(files)
  await expect(count(files - 1)).rejects.toThrow(
    new ImageError({ message: `a layer of the image has more than ${files - 1} files` }),
  )
})

test('timers and sockets take their turn while many small files are read', async () => {
  const path = join(store, 'small')
  await mkdir(path)
  for (let at = 0; at < 40; at++) await writeFile(join(path, `${at}`), Buffer.alloc(128 * 1024))
  let turns = 0
  const turn = () => {
    turns++
    next = setImmediate(turn)
  }
  let next = setImmediate(turn)
  const seen: number[] = []
  for await (const _ of readLocated(storePathLayer({ path: `${FIXTURE_STORE}/small` }))) seen.push(turns)
  clearImmediate(next)
  await rm(path, { recursive: true })
  expect(seen.length).toBeGreaterThan(4)
  expect(new Set(seen).size).toBe(seen.length)
})

test('a file of more than 8 GiB has the header that Go writes', () => {
  // Recorded from nix2container with a sparse file of this size.
  const header = goTarHeader({
    type: 'file',
    name: '/nix/store/00000000000000000000000000000009-big/file',
    linkName: '',
    mode: 0o444,
    uid: 0,
    gid: 0,
    userName: 'root',
    groupName: 'root',
    size: 9 * 1024 ** 3,
    modified: 1,
  })
  expect(header.toString('latin1', 512, 532)).toBe('19 size=9663676416\n\0')
  expect(digestOf(header)).toBe('sha256:47d4fbf3fd1c0b48aae81731cb645e6162b12e7ff791e3340c542d0235eb2bb3')
})

type FixtureImage = ReturnType<typeof fixture>

function fixture(): { readonly 'image-config': object; readonly layers: readonly object[] } {
  return JSON.parse(json.toString())
}

function withConfig(fields: object) {
  return (image: FixtureImage) => ({ ...image, 'image-config': { ...image['image-config'], ...fields } })
}

/** Changes a layer of store paths. */
function withLayer(fields: object) {
  return (image: FixtureImage) => ({
    ...image,
    layers: image.layers.map((layer, at) => (at === 1 ? { ...layer, ...fields } : layer)),
  })
}

function withPath(path: object) {
  return withLayer({ paths: [path] })
}

function withRewrite(rewrite: object) {
  return withPath({ path: `${FIXTURE_STORE}/${STORE_PATHS.root}`, options: { rewrite } })
}

function parsed(bytes: Buffer): Nix2containerImage {
  const description = parseNix2containerImage(bytes, FIXTURE_STORE)
  if (!description.ok) throw new Error(description.reason)
  return description.value
}

function layerAt({ layers }: Nix2containerImage, at: number): Nix2containerLayer {
  const layer = layers[at]
  if (layer === undefined) throw new Error(`the fixture has no layer ${at}`)
  return layer
}

function storePathLayer(...paths: readonly (Pick<Nix2containerPath, 'path'> & Partial<Nix2containerPath>)[]) {
  const content = paths.map((path) => ({ rewrite: undefined, perms: [], ...path }))
  return { ...layerAt(parsed(json), 1), content: { kind: 'store-paths', paths: content } } as const
}

/** Reads a layer of the fixture from where its store is in this test. */
function readLocated(layer: Nix2containerLayer): AsyncGenerator<Buffer> {
  return readNix2containerLayer(layer, { name: FIXTURE_STORE, place: store })
}

async function digestOfLayer(layer: Nix2containerLayer): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of readLocated(layer)) hash.update(chunk)
  return `sha256:${hash.digest('hex')}`
}

async function writeLayerFile({ content }: Nix2containerLayer, bytes: AsyncIterable<Buffer> | Buffer[]): Promise<void> {
  if (content.kind !== 'file') throw new Error('the layer has no file')
  const path = content.path.replace(FIXTURE_STORE, store)
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, bytes)
}

async function becomeLink(path: string): Promise<void> {
  await rm(path, { force: true })
  await symlink('/etc/passwd', path)
}
