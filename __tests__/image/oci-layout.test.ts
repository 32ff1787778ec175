import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/image/image-error.ts'
import { findSource, isSeekable, readImage } from '../../src/image/source.ts'
import type { Platform } from '../../src/oci/platform.ts'
import { checkImage } from '../../src/push/check-image.ts'
import { writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import {
  indexOf,
  LAYOUT_FORMS,
  type LayoutFile,
  type LayoutForm,
  layoutOf,
  layoutTar,
  type MadeLayout,
  makeLayout,
  packWithXz,
  storeLayout,
  withArtifact,
  withFiles,
} from '../support/layout.ts'

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'oci-layout-'))
})

afterAll(async () => {
  await rm(folder, { recursive: true })
})

function store(files: ReadonlyMap<string, LayoutFile>, form: LayoutForm): Promise<string> {
  return storeLayout(folder, files, form)
}

async function read(files: ReadonlyMap<string, LayoutFile>, form: LayoutForm = 'folder') {
  return readImage(await findSource(await store(files, form)))
}

const big = writeTar([{ name: 'noise', content: noise(2_500_000) }])
const made = makeLayout({ layers: ['lower', big, 'upper'], packings: ['gzip', 'zstd', 'plain'] })

/** index.json in front of what it leads to. */
function indexFirst(layout: MadeLayout): ReadonlyMap<string, LayoutFile> {
  return new Map([...layout.files].sort(([first], [second]) => second.localeCompare(first)))
}

async function expectRead(layout: MadeLayout, files = layout.files, form: LayoutForm = 'folder'): Promise<void> {
  const image = await read(files, form)
  expect(image.names).toEqual([])
  expect(image.configDigest).toBe(layout.configDigest)
  expect(image.configBytes.equals(layout.config)).toBe(true)
  expect(image.config.diffIds).toEqual(layout.layers.map(({ diffId }) => diffId))
  expect(image.manifest?.bytes.equals(layout.manifest)).toBe(true)
  expect(image.layers.map(({ name, blob }) => [name, blob?.digest, blob?.size])).toEqual(
    layout.layers.map(({ name, digest, blob }) => [name, digest, blob.length]),
  )
}

describe('an OCI layout', () => {
  test.each(LAYOUT_FORMS)('as a %s is read, with the manifest that it came with', async (form) => {
    await expectRead(made, made.files, form)
    await expectRead(made, indexFirst(made), form)
  })

  test.each(LAYOUT_FORMS)('as a %s passes the check of an image that is not pushed', async (form) => {
    const image = await checkImage(await findSource(await store(made.files, form)))
    expect(image.configDigest).toBe(made.configDigest)
  })

  test.each(LAYOUT_FORMS)('as a %s gives each layer with all of its bytes to whoever takes them', async (form) => {
    const taken = new Map<string, Buffer>()
    await readImage(await findSource(await store(made.files, form)), {
      take: async ({ name, size, content }) => {
        const chunks: Buffer[] = []
        for await (const chunk of content()) chunks.push(Buffer.from(chunk))
        expect(Buffer.concat(chunks)).toHaveLength(size)
        taken.set(name, Buffer.concat(chunks))
      },
    })
    for (const { name, blob } of made.layers) expect(taken.get(name)?.equals(blob)).toBe(true)
  })

  test('can be read again at no cost as a folder and as a plain tar', async () => {
    const seekable: LayoutForm[] = []
    for (const form of LAYOUT_FORMS)
      if (isSeekable(await findSource(await store(made.files, form)))) seekable.push(form)
    expect(seekable).toEqual(['folder', 'tar'])
  })

  test.each(['folder', 'tar'] as const)('as a %s may have indexes between index.json and the image', async (form) => {
    for (const nested of [1, 2, 3]) {
      const layout = makeLayout({ nested })
      await expectRead(layout, layout.files, form)
    }
  })

  test.each(['folder', 'tar'] as const)('as a %s may have an attestation beside its image', async (form) => {
    const layout = makeLayout({ attested: true, nested: 1 })
    await expectRead(layout, layout.files, form)
  })

  test.each<[string, string, Parameters<typeof withArtifact>[2]]>([
    [
      'a signature, by its type',
      'signed',
      { entry: { artifactType: 'application/vnd.dev.sigstore.bundle.v0.3+json' } },
    ],
    ['an SBOM, by its config', '{"files":[]}', { config: { mediaType: 'application/vnd.oci.empty.v1+json' } }],
    [
      'a signature of cosign, by its layers',
      'signed'.padEnd(1024),
      { layer: { mediaType: 'application/vnd.dev.cosign.simplesigning.v1+json' } },
    ],
    ['an SBOM, by what it is', '{"files":[]}', { entry: { mediaType: 'application/spdx+json' } }],
  ])('may have %s beside its image', async (_, content, changes) => {
    for (const form of ['folder', 'tar', 'gzip'] as const) {
      const files = withArtifact(made, content, changes)
      await expectRead(made, files, form)
      await checkImage(await findSource(await store(files, form)))
    }
  })

  test('with a second image is none, though that has an `artifactType`: an image’s config', async () => {
    const artifactType = 'application/vnd.oci.image.config.v1+json'
    const reading = read(withArtifact(made, 'layer', { entry: { artifactType } }))
    await expect(reading).rejects.toThrow(/has 2 images, and only one can be pushed/)
  })

  test('may hold layers that are no part of its image', async () => {
    const files = withFiles(made, { [makeLayout({ layers: ['another'] }).layers[0]?.name ?? '']: noise(1000) })
    await expectRead(made, files)
  })

  test('may have a layer twice', async () => {
    const twice = makeLayout({ layers: ['same', big, 'same'] })
    await expectRead(twice)
    const names: string[] = []
    const source = await findSource(await store(twice.files, 'folder'))
    await readImage(source, { take: async ({ name }) => void names.push(name) })
    expect(names).toHaveLength(2)
  })

  test('may have no layer', async () => {
    const empty = makeLayout({ layers: [] })
    for (const form of LAYOUT_FORMS) await expectRead(empty, empty.files, form)
  })

  test('whose folder has symbolic links to its blobs, as in a store of them, is the same image', async () => {
    const blobs = await mkdtemp(join(folder, 'blobs-elsewhere-'))
    const linked = new Map<string, LayoutFile>()
    for (const [name, file] of made.files) {
      const linkName = join(blobs, name.replaceAll('/', '-'))
      if (Buffer.isBuffer(file)) await writeFile(linkName, file)
      linked.set(name, { linkName })
    }
    // The folder stands for the Nix store, in which each path may link to others.
    const source = await findSource(await store(linked, 'folder'), folder)
    expect((await readImage(source)).configDigest).toBe(made.configDigest)
    await checkImage(source)
  })
})

describe('a folder with one image in it stands for the image', () => {
  test.each(LAYOUT_FORMS.filter((form) => form !== 'script'))(
    'a layout as a %s, with a text beside it',
    async (form) => {
      const outer = await mkdtemp(join(folder, 'outer-'))
      const path = await storeLayout(outer, made.files, form)
      const top = join(path, '..')
      await writeFile(join(top, 'README'), 'An image.')
      const source = await findSource(top)
      expect(source.path).toBe(path)
      expect(source).toEqual(await findSource(path, dirname(top)))
    },
  )

  test.each<[string, (text: Buffer) => Buffer | Promise<Buffer>]>([
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
    ['xz', packWithXz],
  ])('a tar, with pages of a manual and an SBOM beside it that are compressed with %s', async (_, pack) => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await writeFile(join(outer, 'image.tar'), await pack(layoutTar(made.files)))
    await writeFile(join(outer, 'app.1'), await pack(Buffer.from('.TH APP 1\n')))
    await writeFile(join(outer, 'sbom.json'), await pack(Buffer.from(JSON.stringify({ files: [...'0123456789'] }))))
    expect((await findSource(outer)).path).toBe(join(outer, 'image.tar'))
  })

  test.each([
    ['a script', 'activate', '#!/bin/sh\n'],
    ['what nix2container describes', 'image.json', '{"image-config":{},"layers":[]}'],
  ])('but %s counts only as the result itself: it may be something else', async (_, name, text) => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await writeFile(join(outer, name), text, { mode: 0o755 })
    await writeFile(join(outer, 'README'), 'hello')
    const finding = findSource(outer)
    await expect(finding).rejects.toThrow(/is a folder with no image in it\n {2}it holds .*README/)
    await expect(finding).rejects.toThrow(
      new RegExp(`count only as the result itself: if ${name} is one, build that, not a folder around it\\.$`),
    )
  })

  test('but not one that is deeper inside', async () => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await storeLayout(outer, made.files, 'tar')
    await expect(findSource(outer)).rejects.toThrow(/is a folder with no image in it\n {2}it holds built-/)
  })

  test('and one with two is an error that lists them', async () => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await Promise.all(['amd64.tar', 'arm64.tar'].map((name) => writeFile(join(outer, name), writeTar([{ name }]))))
    const finding = findSource(outer)
    await expect(finding).rejects.toBeInstanceOf(ImageError)
    await expect(finding).rejects.toThrow(
      `${outer} is a folder with 2 images in it\n  by their first bytes: amd64.tar, arm64.tar\nBuild each of them by its own attribute.`,
    )
  })
})

describe('a layout whose documents can’t be read says why:', () => {
  const spaces = Buffer.alloc(5_000_000, ' ')
  const config = `blobs/sha256/${made.configDigest.slice(7)}`
  test.each<[string, string, Buffer, RegExp]>([
    ['index.json is empty', 'index.json', Buffer.alloc(0), /its index\.json is empty$/],
    ['index.json is too large', 'index.json', spaces, /its index\.json is too large \(5\.0 MB, at most 4\.2 MB\)$/],
    ['index.json is a text', 'index.json', Buffer.from('hello'), /its index\.json is not a valid .* it is not JSON$/],
    ['its config is empty', config, Buffer.alloc(0), /sha256:\w+ is empty$/],
    ['its config is too large', config, spaces, /sha256:\w+ is too large \(5\.0 MB, at most 4\.2 MB\)$/],
    ['its config is a text', config, Buffer.from('hello'), /sha256:\w+ is not JSON$/],
  ])('%s', async (_, name, content, message) => {
    for (const form of ['folder', 'tar'] as const) {
      const reading = read(withFiles(made, { [name]: content }), form)
      await expect(reading).rejects.toThrow(message)
      await expect(reading).rejects.toBeInstanceOf(ImageError)
    }
  })

  test('but not those that begin with white space', async () => {
    const index = Buffer.concat([Buffer.from('\n'), made.files.get('index.json') as Buffer])
    for (const form of ['folder', 'tar'] as const)
      await expectRead(made, withFiles(made, { 'index.json': index }), form)
  })
})

describe('a layout of several images', () => {
  const arm = makeLayout({ architecture: 'arm64', layers: ['for arm'] })
  const AMD64 = { os: 'linux', architecture: 'amd64' }
  const ARM64 = { os: 'linux', architecture: 'arm64' }
  const readFor = async (files: ReadonlyMap<string, LayoutFile>, platform: Platform, form: LayoutForm = 'folder') =>
    readImage({ ...(await findSource(await store(files, form))), platform })
  const withoutPlatform = ({ entry: { platform, ...entry } }: MadeLayout) => entry

  test.each(LAYOUT_FORMS)('has the one for the wanted platform read, as a %s', async (form) => {
    const files = layoutOf([made, arm])
    expect((await readFor(files, AMD64, form)).configDigest).toBe(made.configDigest)
    expect((await readFor(files, ARM64, form)).configDigest).toBe(arm.configDigest)
    expect((await checkImage({ ...(await findSource(await store(files, form))), platform: ARM64 })).configDigest).toBe(
      arm.configDigest,
    )
  })

  test.each(['folder', 'tar', 'gzip'] as const)(
    'is checked for the wanted platform, whatever is wrong with the other layers, as a %s',
    async (form) => {
      const broken = { [made.layers[0]?.name ?? '']: Buffer.from('\u001f\u008b\u0008 and no more', 'latin1') }
      const files = new Map([...layoutOf([made, arm]), ...withFiles({ files: new Map() }, broken)])
      const source = await findSource(await store(files, form))
      await checkImage({ ...source, platform: ARM64 })
      await expect(checkImage({ ...source, platform: AMD64 })).rejects.toBeInstanceOf(ImageError)
    },
  )

  test('may list them in index.json, or by an index of its own for each', async () => {
    const index = (layout: MadeLayout) => layoutOf([layout])
    const nested = new Map([...index(made), ...index(arm)])
    const entries = [made, arm].flatMap((layout) => JSON.parse(String(index(layout).get('index.json'))).manifests)
    for (const listed of [[made.entry, arm.entry], entries]) {
      const files = new Map([...nested, ['index.json', indexOf(listed)] as const])
      expect((await readFor(files, ARM64)).configDigest).toBe(arm.configDigest)
    }
  })

  test('need not name their platforms: their configs do', async () => {
    for (const form of ['folder', 'tar'] as const) {
      const files = layoutOf([made, arm], withoutPlatform)
      expect((await readFor(files, AMD64, form)).configDigest).toBe(made.configDigest)
      expect((await readFor(files, ARM64, form)).configDigest).toBe(arm.configDigest)
    }
  })

  test('prefers the one for exactly that platform', async () => {
    const v3 = makeLayout({ layers: ['for v3'], entry: { platform: { ...AMD64, variant: 'v3' } } })
    for (const layouts of [
      [v3, made],
      [made, v3],
    ])
      expect((await readFor(layoutOf(layouts), AMD64)).configDigest).toBe(made.configDigest)
    expect((await readFor(layoutOf([v3, arm]), AMD64)).configDigest).toBe(v3.configDigest)
  })

  test.each(LAYOUT_FORMS)('of which none is for that platform is an error that lists them, as a %s', async (form) => {
    const reading = readFor(
      layoutOf([made, arm], form === 'tar' ? withoutPlatform : undefined),
      { ...ARM64, architecture: 's390x' },
      form,
    )
    await expect(reading).rejects.toBeInstanceOf(ImageError)
    await expect(reading).rejects.toThrow(
      new RegExp(
        `has no image for linux/s390x\n {2}${made.manifestDigest} for linux/amd64\n {2}${arm.manifestDigest} for linux/arm64\nNothing was pushed\\.`,
      ),
    )
  })

  test('of which two are for that platform is an error that lists them', async () => {
    const other = makeLayout({ layers: ['another'] })
    await expect(readFor(layoutOf([made, other, arm]), AMD64)).rejects.toThrow(
      new RegExp(
        `has 2 images for linux/amd64, and only one can be pushed\n {2}${made.manifestDigest} for linux/amd64\n {2}${other.manifestDigest} for linux/amd64\n {2}${arm.manifestDigest} for linux/arm64\nBuild`,
      ),
    )
  })
})

test('a folder without the file "oci-layout", or without index.json, is no layout', async () => {
  for (const name of ['oci-layout', 'index.json'])
    await expect(read(withFiles(made, { [name]: undefined }))).rejects.toThrow(
      /is a folder with no image in it\n {2}it holds blobs, /,
    )
})
