import { rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { readArchive } from '../../../src/image/archive.ts'
import { streamReader } from '../../../src/image/byte-reader.ts'
import { readLayoutFolder } from '../../../src/image/layout-folder.ts'
import { openImageReader } from '../../../src/image/source-image.ts'
import {
  type LayoutFile,
  type LayoutOptions,
  layoutOf,
  layoutTar,
  type MadeLayout,
  makeLayout,
  storeLayout,
} from '../../support/layout.ts'
import { chunksOf, type Json, mutateBytes, mutateJson } from '../mutate.ts'
import { fewOf, type Random } from '../random.ts'
import { checkSame, defineTarget, outcomeOf } from '../target.ts'
import { checkImage, readHalf } from './archives.ts'

/** OCI layouts. A valid layout must be the same image as a folder and as a tar. */
export const layouts = defineTarget('layout', makeFiles, async ({ names, contents, chunks }, folder) => {
  const files = new Map(names.map((name, at) => [name, contents[at] ?? Buffer.alloc(0)] as const))
  const inTar = await outcomeOf(() =>
    readHalf(openImageReader(readArchive(streamReader(Readable.from(chunks)), '/nix/store/image', WANTED))),
  )
  if ('result' in inTar) checkImage(inTar.result)
  const path = await storeLayout(folder, files, 'folder')
  try {
    const inFolder = await outcomeOf(() => readHalf(openImageReader(readLayoutFolder(path, path, WANTED))))
    if (!('result' in inFolder)) return
    checkImage(inFolder.result)
    if ('result' in inTar) checkSame(inFolder.result, inTar.result, 'A folder gives another image than its tar')
  } finally {
    await rm(path, { recursive: true, force: true })
  }
})

const WANTED = { os: 'linux', architecture: 'arm64' }

/** Links in a layout, which may point anywhere. */
export const layoutLinks = defineTarget(
  'layout-links',
  (random) => ({
    at: random.upTo(7),
    linkName: random.pick([
      '..',
      '.',
      '/',
      '/etc/passwd',
      '/proc/self/environ',
      '/dev/zero',
      '/dev/stdin',
      'index.json',
      'loop',
      '../index.json',
      '../../index.json',
      'x'.repeat(255),
      `${'./'.repeat(1000)}index.json`,
      'blobs',
      'oci-layout',
    ]),
    nested: random.upTo(2),
  }),
  async ({ at, linkName, nested }, folder) => {
    const files: [string, LayoutFile][] = [...makeLayout({ nested }).files]
    const name = files[at % files.length]?.[0] ?? 'index.json'
    const path = await storeLayout(folder, new Map([...files, [name, { linkName }]]), 'folder')
    try {
      checkImage(await readHalf(openImageReader(readLayoutFolder(path, path))))
    } finally {
      await rm(path, { recursive: true, force: true })
    }
  },
)

function makeFiles(random: Random) {
  const options: LayoutOptions = {
    layers: Array.from({ length: fewOf(random, 5) }, () => random.pick(['lower', 'upper', 'same'])),
    packings: Array.from({ length: 5 }, () => random.pick(['gzip', 'zstd', 'plain'] as const)),
    nested: fewOf(random, 5),
    attested: random.oneIn(3),
  }
  const base = makeLayout(options)
  const tokens = [base.configDigest, base.manifestDigest, ...MEDIA_TYPES, ...base.layers.map(({ digest }) => digest)]
  // To keep digests valid, changes documents before their digests are computed.
  const changed = makeLayout({
    ...options,
    ...(random.oneIn(2) && { manifest: changedFields(random, JSON.parse(base.manifest.toString()), tokens) }),
    ...(random.oneIn(2) && { entry: changedFields(random, JSON.parse(JSON.stringify(base.entry)), tokens) }),
    ...(random.oneIn(3) && { config: changedFields(random, JSON.parse(base.config.toString()), tokens) }),
  })
  const limits = { most: random.oneIn(50) ? 1_500_000 : 20_000 }
  const whole = random.oneIn(3) ? layoutOf([changed, ...othersOf(random)]) : changed.files
  const files = [...whole].flatMap(([name, file]): readonly (readonly [string, Buffer])[] => {
    const bytes = Buffer.isBuffer(file) ? file : Buffer.alloc(0)
    if (name === 'index.json' && random.oneIn(3))
      return [[name, Buffer.from(mutateJson(random, JSON.parse(bytes.toString()), tokens, limits))]]
    if (random.oneIn(20)) return []
    return [[name, random.oneIn(20) ? mutateBytes(random, bytes) : bytes]]
  })
  const tar = layoutTar(new Map(files))
  return {
    names: files.map(([name]) => name),
    contents: files.map(([, bytes]) => bytes),
    chunks: chunksOf(random, random.oneIn(4) ? mutateBytes(random, tar) : tar),
  }
}

/** Additional images, with and without their platforms. */
function othersOf(random: Random): readonly MadeLayout[] {
  return Array.from({ length: 1 + fewOf(random, 3) }, () => {
    const architecture = random.pick(['amd64', 'arm64', 'arm'])
    return makeLayout({ architecture, layers: ['other'], ...(random.oneIn(2) && { entry: { platform: undefined } }) })
  })
}

export const MEDIA_TYPES: readonly string[] = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.layer.v1.tar+gzip',
  'application/json',
]

function changedFields(random: Random, value: Json, tokens: readonly string[]): Readonly<Record<string, unknown>> {
  // Limited, because makeLayout indents it: the length of nested documents grows with the square of their depth.
  const text = mutateJson(random, value, tokens, { most: 1000 })
  try {
    const changed: unknown = JSON.parse(text)
    // Only index.json contains documents whose nesting is too deep for JSON.stringify.
    JSON.stringify(changed)
    return typeof changed === 'object' && changed !== null && !Array.isArray(changed) ? { ...changed } : {}
  } catch {
    return {}
  }
}
