import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/errors.ts'
import { isSeekable, openImage, readImage } from '../../src/image/open-image.ts'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { readLayerFiles, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import {
  LAYOUT_FORMS,
  type LayoutFile,
  type LayoutForm,
  makeLayout,
  withArtifact,
  withFiles,
} from '../support/layout.ts'
import { big, expectRead, folder, indexFirst, made, read, setUpFolder, store } from './layouts.ts'

setUpFolder()

describe('an OCI layout', () => {
  test.each(LAYOUT_FORMS)('as a %s is read with its own manifest', async (form) => {
    await expectRead(made, made.files, form)
    await expectRead(made, indexFirst(made), form)
  })

  test.each(LAYOUT_FORMS)('as a %s passes the check of an image that is not pushed', async (form) => {
    const image = await checkImage(await findSource(await store(made.files, form)))
    expect(image.configDigest).toBe(made.configDigest)
  })

  test.each(LAYOUT_FORMS)('as a %s yields each layer with all its bytes', async (form) => {
    const files = new Map(await readLayerFiles(openImage(await findSource(await store(made.files, form)))))
    for (const { name, blob } of made.layers) expect(files.get(name)?.equals(blob)).toBe(true)
  })

  test.each(['folder', 'tar', 'zstd'] as const)('as a %s may have layers larger than a chunk', async (form) => {
    const large = makeLayout({ layers: [writeTar([{ name: 'noise', content: noise(2_500_000) }])] })
    const files = new Map(await readLayerFiles(openImage(await findSource(await store(large.files, form)))))
    for (const { name, blob } of large.layers) expect(files.get(name)?.equals(blob)).toBe(true)
  })

  test('is seekable only as a folder and as a plain tar', async () => {
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
      'a cosign signature, by its layers',
      'signed'.padEnd(1024),
      { layer: { mediaType: 'application/vnd.dev.cosign.simplesigning.v1+json' } },
    ],
    ['an SBOM, by its own media type', '{"files":[]}', { entry: { mediaType: 'application/spdx+json' } }],
  ])('may have %s beside its image', async (_, content, changes) => {
    for (const form of ['folder', 'tar', 'gzip'] as const) {
      const files = withArtifact(made, content, changes)
      await expectRead(made, files, form)
      await checkImage(await findSource(await store(files, form)))
    }
  })

  test('with a second image is refused, even if that image has the `artifactType` of an image config', async () => {
    const artifactType = 'application/vnd.oci.image.config.v1+json'
    const reading = read(withArtifact(made, 'layer', { entry: { artifactType } }))
    await expect(reading).rejects.toThrow(/has 2 images, and only one can be pushed/)
  })

  test('may contain layers that are not part of its image', async () => {
    const files = withFiles(made, { [makeLayout({ layers: ['another'] }).layers[0]?.name ?? '']: noise(1000) })
    await expectRead(made, files)
  })

  test('may have a layer twice', async () => {
    const twice = makeLayout({ layers: ['same', big, 'same'] })
    await expectRead(twice)
    const source = await findSource(await store(twice.files, 'folder'))
    expect(await readLayerFiles(openImage(source))).toHaveLength(2)
  })

  test('may have no layer', async () => {
    const empty = makeLayout({ layers: [] })
    for (const form of LAYOUT_FORMS) await expectRead(empty, empty.files, form)
  })

  test('may have symbolic links to its blobs', async () => {
    const blobs = await mkdtemp(join(folder, 'blobs-elsewhere-'))
    const linked = new Map<string, LayoutFile>()
    for (const [name, file] of made.files) {
      const linkName = join(blobs, name.replaceAll('/', '-'))
      if (Buffer.isBuffer(file)) await writeFile(linkName, file)
      linked.set(name, { linkName })
    }
    // The folder serves as the Nix store, in which a path may link to others.
    const source = await findSource(await store(linked, 'folder'), folder)
    expect((await readImage(source)).configDigest).toBe(made.configDigest)
    await checkImage(source)
  })
})

describe('a layout whose documents can’t be read says why:', () => {
  const spaces = Buffer.alloc(5_000_000, ' ')
  const config = `blobs/sha256/${made.configDigest.slice(7)}`
  test.each<[string, string, Buffer, RegExp]>([
    ['index.json is empty', 'index.json', Buffer.alloc(0), /its index\.json is empty$/],
    ['index.json is too large', 'index.json', spaces, /its index\.json is too large \(5\.0 MB, at most 4\.2 MB\)$/],
    ['index.json is text', 'index.json', Buffer.from('hello'), /its index\.json is not a valid .* it is not JSON$/],
    ['its config is empty', config, Buffer.alloc(0), /sha256:\w+ is empty$/],
    ['its config is too large', config, spaces, /sha256:\w+ is too large \(5\.0 MB, at most 4\.2 MB\)$/],
    ['its config is text', config, Buffer.from('hello'), /sha256:\w+ is not JSON$/],
  ])('%s', async (_, name, content, message) => {
    for (const form of ['folder', 'tar'] as const) {
      const reading = read(withFiles(made, { [name]: content }), form)
      await expect(reading).rejects.toThrow(message)
      await expect(reading).rejects.toBeInstanceOf(ImageError)
    }
  })

  test('but documents may begin with white space', async () => {
    const index = Buffer.concat([Buffer.from('\n'), made.files.get('index.json') as Buffer])
    for (const form of ['folder', 'tar'] as const)
      await expectRead(made, withFiles(made, { 'index.json': index }), form)
  })
})
