import { describe, expect, test } from '@jest/globals'
import { findPublished } from '../../src/cache/layers.ts'
import { readPreviousImages } from '../../src/cache/previous-image.ts'
import { recipeDigest } from '../../src/image/layered-config.ts'
import { storeFolder } from '../../src/nix/store-path.ts'
import type { Digest } from '../../src/oci/reference.ts'
import { logOf, PLATFORM, publishedAt, push, setUpFolder } from '../push/pushing.ts'
import { connect } from '../registry/connect.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'

setUpFolder()

const STORE = storeFolder()
const [ONE, TWO] = [`${STORE}/${'a'.repeat(32)}-package`, `${STORE}/${'b'.repeat(32)}-package`]
const ROOT = `${STORE}/${'c'.repeat(32)}-app-customisation-layer`
const ATTRIBUTES = {
  uid: 0,
  gid: 7,
  uname: 'root',
  gname: 'users',
  mtime: 1,
  storeDir: STORE,
  storeFolderMode: 0o755,
} as const

/** A layer that begins as those of dockerTools do, with the attributes above in its first header. */
function storeLayer(path: string, folder: string, device: string): Buffer {
  const alter = (header: Buffer) => {
    header.write(device, 329)
    header.write('0000755\x000000000\x000000007\x00', 100)
    header.write('00000000001\x00', 136)
    header.write('root\x00', 265)
    header.write('users\x00', 297)
  }
  return writeTar([
    { name: folder, type: 'folder', alter },
    { name: `${path}/file`, content: path },
  ])
}

function comment(...paths: readonly string[]): object {
  return { comment: `store paths: [${paths.map((path) => `'${path}'`).join(', ')}]` }
}

async function published(folder: string, history: readonly object[], device = '') {
  const { server, client } = await connect()
  const rootFiles = writeTar([{ name: 'etc/noise', content: noise(5000) }])
  const layers = [storeLayer(ONE, folder, device), storeLayer(TWO, folder, device), rootFiles]
  const { layers: pushed } = await push(makeArchive({ layers, config: { history } }), client, { tag: 'latest' })
  return { server, client, pushed, found: await publishedAt(client) }
}

describe('an image that was published without recipes', () => {
  test('has those of the store paths in its history, with the attributes of its smallest layer', async () => {
    const { pushed, found } = await published('/nix/', [comment(ONE), comment(TWO), comment(ROOT)])
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, paths: [ONE] }))).toBe(pushed[0]?.diffId)
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, paths: [TWO] }))).toBe(pushed[1]?.diffId)
  })

  test.each([
    ['the owner', { uid: 1 }],
    ['the time', { mtime: 2 }],
    ['the name of the group', { gname: 'root' }],
    ['the mode of the store folder', { storeFolderMode: 0o555 }],
  ] as const)('does not have the recipe of a layer that differs in %s', async (_, change) => {
    const { found } = await published('/nix/', [comment(ONE), comment(TWO), comment(ROOT)])
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, ...change, paths: [ONE] }))).toBeUndefined()
  })

  test('has none for the files of its root folder, which are not in the store path that its history names', async () => {
    const { found } = await published('/nix/', [comment(ONE), comment(TWO), comment(ROOT)])
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, paths: [ROOT] }))).toBeUndefined()
  })

  test('has none if Python 3.8 wrote it, with zeros as the numbers of devices', async () => {
    const history = [comment(ONE), comment(TWO), comment(ROOT)]
    const { found } = await published('/nix/', history, '0000000\x000000000\x00')
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, paths: [ONE] }))).toBeUndefined()
  })

  test('in the repository of another image has none, and no layer is downloaded', async () => {
    const { server, client, pushed } = await published('/nix/', [comment(ONE), comment(TWO), comment(ROOT)])
    const before = server.requests.length
    const [log, other] = [logOf(client), { ...client.repository, path: 'other' }]
    const earlier = await readPreviousImages(client, [{ repository: client.repository, tag: 'latest' }], log)
    const found = await findPublished(client, earlier, [other], PLATFORM, log)
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, paths: [ONE] }))).toBeUndefined()
    expect(found.blobsOf(pushed[0]?.diffId as Digest)).toHaveLength(1)
    const layers = pushed.map(({ digest }) => digest)
    const requests = server.requests.slice(before)
    expect(requests.filter(({ reference }) => layers.includes(reference as Digest))).toEqual([])
  })

  test.each([
    ['its history has other comments', '/nix/', [{ comment: 'COPY . /' }, {}, {}]],
    ['its history has fewer entries than layers', '/nix/', [comment(ONE), comment(TWO)]],
    ['its layers begin with another folder', '/usr/', [comment(ONE), comment(TWO), comment(ROOT)]],
  ])('has none if %s', async (_, folder, history) => {
    const { found } = await published(folder, history)
    expect(found.diffIdOf(recipeDigest({ ...ATTRIBUTES, paths: [ONE] }))).toBeUndefined()
  })
})
