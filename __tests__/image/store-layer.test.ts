import { execFile } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { ImageError } from '../../src/errors.ts'
import type { LayerRecipe } from '../../src/image/layered-description.ts'
import { readStoreLayer } from '../../src/image/store-layer.ts'

const SCRIPT = fileURLToPath(new URL('../fixtures/store-layer.py', import.meta.url))
const STORE = '/nix/store'
const PACKAGE = `${STORE}/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-package-1.0`

let root: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'store-layer-'))
  mkdirSync(join(root, STORE), { recursive: true })
})

afterEach(() => {
  rmSync(root, { recursive: true })
})

function recipeOf(paths: readonly string[], changes: Partial<LayerRecipe> = {}): LayerRecipe {
  const attributes = { mtime: 1, uid: 0, gid: 0, uname: 'root', gname: 'root', storeFolderMode: 0o755 } as const
  return { paths, storeDir: STORE, ...attributes, ...changes }
}

function readLayer(recipe: LayerRecipe): Promise<Buffer> {
  return buffer(copies(readStoreLayer(recipe, { place: join(root, recipe.storeDir) })))
}

/** Copies the chunks, each of which is valid only until the next one is read. */
async function* copies(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) yield Buffer.from(chunk)
}

/** Returns the tar that Python writes, without the content of files larger than `contentLimit` bytes. */
async function writeWithPython(recipe: LayerRecipe, contentLimit = Number.MAX_SAFE_INTEGER): Promise<Buffer> {
  // UTF-8 is the encoding of file names in any environment in which Nix runs the script.
  const env = { ...process.env, PYTHONUTF8: '1' }
  const running = promisify(execFile)('python3', [SCRIPT], { encoding: 'buffer', maxBuffer: 2 ** 30, env })
  running.child.stdin?.on('error', () => undefined)
  running.child.stdin?.end(JSON.stringify({ ...recipe, root, contentLimit }))
  const { stdout } = await running.catch((error: unknown) => {
    throw new Error('python3 failed. If it is missing, run `node scripts/setup.mjs python`.', { cause: error })
  })
  return stdout
}

/** Fails with the first block that differs, rather than with all of both tars. */
function expectSameBytes(ours: Buffer, python: Buffer): void {
  let at = 0
  while (at < python.length && ours.subarray(at, at + 512).equals(python.subarray(at, at + 512))) at += 512
  expect({ at, block: ours.toString('latin1', at, at + 512) }).toEqual({
    at,
    block: python.toString('latin1', at, at + 512),
  })
  expect(ours.length).toBe(python.length)
}

async function expectAsPython(recipe: LayerRecipe): Promise<Buffer> {
  const ours = await readLayer(recipe)
  expectSameBytes(ours, await writeWithPython(recipe))
  return ours
}

/** Returns the modes in the first two headers of a tar, which are those of `/nix` and `/nix/store`. */
function storeFolderModes(tar: Buffer): readonly string[] {
  return [0, 512].map((at) => tar.toString('latin1', at + 100, at + 107))
}

/** Writes a file of the store, and the folders above it. The names may be any bytes. */
function addFile(path: string | Buffer, content: string | Buffer = '', mode = 0o444): void {
  const file = inRoot(path)
  makeParent(file)
  writeFileSync(file, content)
  chmodSync(file, mode)
}

function addLink(path: string | Buffer, target: string | Buffer): void {
  const link = inRoot(path)
  makeParent(link)
  symlinkSync(target, link)
}

function addFolder(path: string | Buffer): void {
  mkdirSync(inRoot(path), { recursive: true })
}

function inRoot(path: string | Buffer): Buffer {
  return Buffer.concat([Buffer.from(root), Buffer.from(path)])
}

function makeParent(path: Buffer): void {
  mkdirSync(Buffer.from(dirname(path.toString('latin1')), 'latin1'), { recursive: true })
}

describe('the layer has the bytes that Python writes, with', () => {
  test('files of any mode and size, empty folders, and executables', async () => {
    addFile(`${PACKAGE}/bin/program`, '#!/bin/sh\n', 0o555)
    addFile(`${PACKAGE}/setuid`, 'x', 0o4755)
    addFile(`${PACKAGE}/sticky`, 'x', 0o1644)
    for (const size of [0, 1, 511, 512, 513, 262_143, 262_144, 262_145, 1_000_000])
      addFile(`${PACKAGE}/share/${size}`, Buffer.alloc(size, `${size} bytes `))
    addFolder(`${PACKAGE}/empty/inner`)
    chmodSync(inRoot(`${PACKAGE}/empty`), 0o1777)
    await expectAsPython(recipeOf([PACKAGE]))
  })

  test('a file that ends with a chunk', async () => {
    // The header of /nix, of /nix/store, of the store path.
    for (const length of [262_144, 262_144 + 1, 262_144 - 1])
      addFile(`${STORE}/a-${length}`, Buffer.alloc(length - 1536))
    for (const length of [262_144, 262_144 + 1, 262_144 - 1]) await expectAsPython(recipeOf([`${STORE}/a-${length}`]))
  })

  test('no paths', async () => {
    expect(await expectAsPython(recipeOf([]))).toHaveLength(10_240)
  })

  test('several paths in their order, one of them twice', async () => {
    const paths = ['c-file', 'a-folder', 'b-file', 'a-folder'].map((name) => `${STORE}/${name}`)
    addFile(`${STORE}/a-folder/file`, 'content')
    addFile(`${STORE}/b-file`, 'content')
    addFile(`${STORE}/c-file`, 'content', 0o555)
    await expectAsPython(recipeOf(paths))
  })

  test('a store folder that is not writable, as older versions of nixpkgs write it', async () => {
    addFile(`${PACKAGE}/file`, 'content')
    const tar = await expectAsPython(recipeOf([PACKAGE], { storeFolderMode: 0o555 }))
    expect(storeFolderModes(tar)).toEqual(['0000555', '0000555'])
    expect(storeFolderModes(await readLayer(recipeOf([PACKAGE])))).toEqual(['0000755', '0000755'])
  })

  test('a store of another folder', async () => {
    addFile('/home/user/store/abc-package/file', 'content')
    await expectAsPython(recipeOf(['/home/user/store/abc-package'], { storeDir: '/home/user/store' }))
  })

  test('symbolic links, of which none is followed', async () => {
    addFile(`${PACKAGE}/folder/file`, 'content')
    addLink(`${PACKAGE}/to-file`, 'folder/file')
    addLink(`${PACKAGE}/to-folder`, 'folder')
    addLink(`${PACKAGE}/up`, '..')
    addLink(`${PACKAGE}/dangling`, '/nix/store/missing')
    for (const length of [99, 100, 101, 255, 4000])
      addLink(`${PACKAGE}/long-${length}`, 'x/'.repeat(length).slice(0, length))
    addLink(`${PACKAGE}/trailing`, 'folder/')
    addLink(`${PACKAGE}/not-ascii`, 'ünï/名前/🦀')
    addLink(`${PACKAGE}/not-utf8`, Buffer.from('a\xff\xe9b', 'latin1'))
    await expectAsPython(recipeOf([PACKAGE]))
  })

  test('a store path that is a symbolic link', async () => {
    addFile(`${PACKAGE}/file`, 'content')
    addLink(`${STORE}/to-folder`, PACKAGE)
    addLink(`${STORE}/to-nothing`, 'missing')
    await expectAsPython(recipeOf([`${STORE}/to-folder`, `${STORE}/to-nothing`]))
  })

  test('hard links as regular files', async () => {
    addFile(`${PACKAGE}/first`, 'the content of both')
    linkSync(inRoot(`${PACKAGE}/first`), inRoot(`${PACKAGE}/second`))
    linkSync(inRoot(`${PACKAGE}/first`), inRoot(`${STORE}/third`))
    const tar = await expectAsPython(recipeOf([PACKAGE, `${STORE}/third`]))
    expect(tar.toString('latin1').match(/the content of both/g)).toHaveLength(3)
  })

  test('names of any length', async () => {
    const start = `${PACKAGE}/`
    for (const length of [98, 99, 100, 101, 102, 155, 156, 157, 200, 255, 256, 257]) {
      addFile(start.padEnd(length, 'n'), `${length}`)
      addFolder(`${start}folder/`.padEnd(length, 'f'))
    }
    // The prefix of ustar has space for this one, but Python does not use it in this format.
    addFile(`${PACKAGE}/${'folder/'.repeat(12)}file`)
    addFile(`${PACKAGE}/${`${'d'.repeat(200)}/`.repeat(10)}file`)
    await expectAsPython(recipeOf([PACKAGE]))
  })

  test('pax records near lengths whose number of digits changes', async () => {
    for (let length = 80; length < 96; length++) addLink(`${PACKAGE}/link-${length}`, `é${'x'.repeat(length)}`)
    for (let length = 975; length < 995; length++)
      addLink(`${PACKAGE}/link-${length}`, 'x/'.repeat(length).slice(0, length))
    await expectAsPython(recipeOf([PACKAGE]))
  })

  test('names with spaces, control characters, and characters that are not ASCII', async () => {
    const names = [
      ' ',
      'a b',
      '-',
      'new\nline',
      'tab\t',
      '\x01',
      '\x7f',
      '\\',
      '*?[',
      'é',
      'e\u0301',
      '名前',
      '🦀',
      '%s',
    ]
    for (const name of names) {
      addFile(`${PACKAGE}/files/${name}`, name)
      addFolder(`${PACKAGE}/folders/${name}/inner`)
    }
    addFile(`${PACKAGE}/${'é'.repeat(60)}/${'名'.repeat(80)}`)
    await expectAsPython(recipeOf([PACKAGE]))
  })

  test('names that are not UTF-8', async () => {
    const names = [
      '\xff',
      'a\xe9',
      '\xc3',
      '\xc3\xa9',
      '\xc0\xaf',
      '\xed\xa0\x80',
      '\xf4\x90\x80\x80',
      '\xe2\x82',
      '\xf0\x9f\xa6',
    ]
    for (const name of names) addFile(Buffer.from(`${PACKAGE}/${name}/${name}`, 'latin1'), 'content')
    await expectAsPython(recipeOf([PACKAGE], { uname: 'jürgen' }))
  })

  test.each<readonly [string, readonly (string | Buffer)[]]>([
    [
      'a folder before names that begin with its name',
      ['a/b', 'a-b', 'a.b', 'a b', 'a0', 'A', 'aa/b', 'a/b-c', 'a/b.c'],
    ],
    ['characters outside the basic plane after U+FFxx', ['\u{10000}', '\uff21', '\ud7ff', '\ue000', '\u{10ffff}', 'z']],
    [
      'bytes that are not UTF-8 between U+D7FF and U+E000',
      [
        '\ud7ff',
        '\ue000',
        '\uffff',
        '🦀',
        ...['80', 'ff', 'e97a', 'edb280', 'ee80'].map((hex) => Buffer.from(hex, 'hex')),
      ],
    ],
  ])('the order of Python: %s', async (_, names) => {
    for (const name of names) addFile(Buffer.concat([Buffer.from(`${PACKAGE}/`), Buffer.from(name)]))
    await expectAsPython(recipeOf([PACKAGE]))
  })

  const EDGES: readonly (readonly [string, Partial<LayerRecipe>])[] = [
    ['the time 0', { mtime: 0 }],
    ['the largest time in ustar', { mtime: 8 ** 11 - 1 }],
    ['a larger time', { mtime: 8 ** 11 }],
    ['a time before 1970', { mtime: -1 }],
    ['the largest IDs in ustar', { uid: 2_097_151, gid: 2_097_151 }],
    ['a larger user ID', { uid: 2_097_152 }],
    ['a larger group ID', { gid: 4_294_967_294 }],
    ['negative IDs', { uid: -1, gid: -2 }],
    ['no names', { uname: '', gname: '' }],
    ['the longest names in ustar', { uname: 'u'.repeat(32), gname: 'g'.repeat(32) }],
    ['a longer user name', { uname: 'u'.repeat(33) }],
    ['a longer group name', { gname: 'g'.repeat(100) }],
    ['names that are not ASCII', { uname: 'jürgen', gname: '🦀'.repeat(40) }],
    ['all of them', { mtime: -5, uid: 1e9, gid: 2e9, uname: 'é', gname: 'g'.repeat(40) }],
  ]

  test.each(EDGES)('%s', async (_, changes) => {
    addFile(`${PACKAGE}/file`, 'content')
    addFile(`${PACKAGE}/${'n'.repeat(120)}`, 'content')
    addLink(`${PACKAGE}/link`, 'é')
    addFile(Buffer.from(`${PACKAGE}/\xff`, 'latin1'))
    await expectAsPython(recipeOf([PACKAGE], changes))
  })

  // Only the headers are compared: reading the content would take half a minute.
  test.each([
    ['the largest file in ustar', 8 ** 11 - 1, 4 * 512],
    ['a file of 8 GiB', 8 ** 11, 6 * 512],
    ['a larger file', 10 * 2 ** 30 + 5, 6 * 512],
  ])('%s', async (_, size, start) => {
    addFile(`${PACKAGE}/file`)
    truncateSync(inRoot(`${PACKAGE}/file`), size)
    const recipe = recipeOf([PACKAGE])
    const headers: Buffer[] = []
    for await (const chunk of readStoreLayer(recipe, { place: join(root, STORE) })) {
      headers.push(Buffer.from(chunk.subarray(0, start)))
      break
    }
    const withoutContent = await writeWithPython(recipe, size - 1)
    expect(withoutContent.subarray(start).every((byte) => byte === 0)).toBe(true)
    expectSameBytes(Buffer.concat(headers), withoutContent.subarray(0, start))
  })

  test('random trees', async () => {
    let trees = 0
    await fc.assert(
      fc.asyncProperty(treeArbitrary, attributesArbitrary, async (tree, attributes) => {
        const path = `${STORE}/tree-${trees++}`
        addTree(Buffer.from(path), tree)
        await expectAsPython(recipeOf([path], attributes))
      }),
      // Stops shrinking a tree that fails before Jest's time limit.
      { numRuns: 25, interruptAfterTimeLimit: 30_000 },
    )
  })
})

type Tree =
  | { readonly file: Uint8Array; readonly mode: number }
  | { readonly link: Uint8Array }
  | { readonly folder: readonly (readonly [Uint8Array, Tree])[] }

const nameArbitrary = fc
  .oneof(
    fc.string({ unit: fc.constantFrom('a', 'b', '-', '.', ' ', 'A', '~', '0', '_'), minLength: 1, maxLength: 4 }),
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 }),
    fc.string({ unit: 'binary', minLength: 1, maxLength: 60 }),
    fc.string({ unit: fc.constantFrom('n', 'é'), minLength: 60, maxLength: 120 }),
    fc.uint8Array({ min: 1, minLength: 1, maxLength: 20 }),
    fc.uint8Array({ min: 0x7e, max: 0xf5, minLength: 1, maxLength: 6 }),
  )
  .map((name) => (typeof name === 'string' ? Buffer.from(name) : Buffer.from(name)))
  .filter((name) => name.length <= 255 && !name.includes(0) && !name.includes('/'))
  .filter((name) => !['.', '..'].includes(name.toString('latin1')))

const fileArbitrary = fc.record({
  file: fc.uint8Array({ maxLength: 1100 }),
  mode: fc.integer({ min: 0, max: 0o7777 }).map((mode) => mode | 0o400),
})
const linkArbitrary = fc.record({ link: fc.array(nameArbitrary, { minLength: 1, maxLength: 3 }).map(joined) })

const { tree: treeArbitrary } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { depthSize: 'medium', withCrossShrink: true },
    fileArbitrary,
    linkArbitrary,
    fc.record({
      folder: fc.uniqueArray(fc.tuple(nameArbitrary, tie('tree')), {
        maxLength: 12,
        selector: ([name]) => name.toString('latin1'),
      }),
    }),
  ),
}))

const nameOfOwner = fc.oneof(fc.constant('root'), fc.string({ maxLength: 40 }), fc.string({ unit: 'grapheme' }))
const idArbitrary = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 2 ** 32 - 1 }))
const attributesArbitrary = fc.record({
  mtime: fc.oneof(fc.constant(1), fc.integer({ min: -(2 ** 40), max: 2 ** 40 })),
  uid: idArbitrary,
  gid: idArbitrary,
  uname: nameOfOwner,
  gname: nameOfOwner,
})

function joined(names: readonly Buffer[]): Buffer {
  return Buffer.from(names.map((name) => name.toString('latin1')).join('/'), 'latin1')
}

function addTree(path: Buffer, tree: Tree): void {
  if ('file' in tree) addFile(path, Buffer.from(tree.file), tree.mode)
  else if ('link' in tree) addLink(path, Buffer.from(tree.link))
  else {
    addFolder(path)
    for (const [name, below] of tree.folder) addTree(joined([path, Buffer.from(name)]), below)
  }
}

describe('a layer that can’t be read is an error that names the path', () => {
  async function errorOf(recipe: LayerRecipe, onFirstChunk: () => void = () => undefined): Promise<unknown> {
    const chunks = readStoreLayer(recipe, { place: join(root, STORE) })
    try {
      await chunks.next()
      onFirstChunk()
      for await (const _ of chunks);
      return undefined
    } catch (error) {
      expect(error).toBeInstanceOf(ImageError)
      return error
    }
  }

  const large = `${PACKAGE}/large`

  test('a store path that is missing', async () => {
    addFile(`${STORE}/first`)
    const error = await errorOf(recipeOf([`${STORE}/first`, PACKAGE]))
    expect(error).toHaveProperty(
      'message',
      expect.stringContaining(`${PACKAGE}, which a layer of the image includes, `),
    )
    expect(error).toHaveProperty('parts.detail', expect.stringContaining('ENOENT'))
    expect(error).toHaveProperty('parts.hint', expect.stringContaining('nix-store --verify --check-contents --repair'))
  })

  test('a path that is below a file', async () => {
    addFile(PACKAGE)
    const error = await errorOf(recipeOf([`${PACKAGE}/file`]))
    expect(error).toHaveProperty('message', expect.stringContaining(`${PACKAGE}/file, which`))
    expect(error).toHaveProperty('parts.detail', expect.stringContaining('ENOTDIR'))
  })

  test('a file that is removed while the layer is read', async () => {
    addFile(large, Buffer.alloc(1e6))
    addFile(`${PACKAGE}/next-ü`)
    const error = await errorOf(recipeOf([PACKAGE]), () => rmSync(inRoot(`${PACKAGE}/next-ü`)))
    expect(error).toHaveProperty('message', expect.stringContaining(`${PACKAGE}/next-ü, which`))
  })

  test.each([
    ['shorter', () => truncateSync(inRoot(large), 999_999)],
    ['longer', () => appendFileSync(inRoot(large), 'x')],
  ])('a file that becomes %s while it is read', async (_, change) => {
    addFile(large, Buffer.alloc(1e6), 0o644)
    const error = await errorOf(recipeOf([PACKAGE]), change)
    expect(error).toHaveProperty('message', expect.stringContaining(`${large} changed while it was read`))
  })

  test.each([
    ['a link', () => addLink(`${PACKAGE}/next`, '/etc/passwd'), 'ELOOP'],
    ['a folder', () => addFolder(`${PACKAGE}/next`), 'changed while it was read'],
  ])('a file that is replaced with %s while the layer is read', async (_, replace, words) => {
    addFile(large, Buffer.alloc(1e6))
    addFile(`${PACKAGE}/next`)
    const error = await errorOf(recipeOf([PACKAGE]), () => {
      rmSync(inRoot(`${PACKAGE}/next`))
      replace()
    })
    expect(error).toHaveProperty('message', expect.stringContaining(`${PACKAGE}/next`))
    expect(error).toHaveProperty('message', expect.stringContaining(words))
  })

  test('a pipe', async () => {
    addFolder(PACKAGE)
    await promisify(execFile)('mkfifo', [join(root, PACKAGE, 'pipe')])
    const error = await errorOf(recipeOf([PACKAGE]))
    expect(error).toHaveProperty('message', expect.stringContaining(`${PACKAGE}/pipe is a pipe, a socket or a device`))
  })

  test.each([
    '/etc/passwd',
    STORE,
    `${STORE}/`,
    `${STORE}/../etc`,
    `${STORE}/a/../..`,
    `${PACKAGE}/`,
    `${STORE}//a`,
    'a',
  ])('the path %s, which is not in the store', async (path) => {
    const error = await errorOf(recipeOf([path]))
    expect(error).toHaveProperty('message', expect.stringContaining(`${path}, which is not a path in ${STORE}`))
  })

  test.each([{ mtime: 1.5 }, { uid: Number.NaN }, { gid: 2 ** 60 }, { uname: '\ud800' }])('%j', async (changes) => {
    const error = await errorOf(recipeOf([], changes))
    expect(error).toHaveProperty(
      'message',
      expect.stringContaining(`The ${Object.keys(changes)[0]} of an image's layers`),
    )
  })
})

test('other work of the process continues while a layer is read', async () => {
  addFile(PACKAGE, Buffer.alloc(4e6))
  let turns = 0
  const count = () => {
    turns++
    immediate = setImmediate(count)
  }
  let immediate = setImmediate(count)
  let chunks = 0
  for await (const _ of readStoreLayer(recipeOf([PACKAGE]), { place: join(root, STORE) })) chunks++
  clearImmediate(immediate)
  expect(chunks).toBeGreaterThan(10)
  expect(turns).toBeGreaterThanOrEqual(chunks - 1)
})

test('a layer that is not read to its end leaves no file open', async () => {
  addFile(PACKAGE, Buffer.alloc(4e6))
  for await (const _ of readStoreLayer(recipeOf([PACKAGE]), { place: join(root, STORE) })) {
    expect(openFiles()).toEqual([join(root, PACKAGE)])
    break
  }
  expect(openFiles()).toEqual([])
})

/** Returns the paths of the files in the store that this process has open. */
function openFiles(): readonly string[] {
  return readdirSync('/proc/self/fd')
    .map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`)
      } catch {
        // The one with which the folder was listed.
        return ''
      }
    })
    .filter((path) => path.startsWith(root))
}
