import { mkdtemp, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/errors.ts'
import { findSource } from '../../src/image/source.ts'
import { writeTar } from '../support/image.ts'
import { LAYOUT_FORMS, layoutTar, packWithXz, storeLayout, withFiles } from '../support/layout.ts'
import { folder, made, read, setUpFolder } from './layouts.ts'

setUpFolder()

describe('a folder that contains one image is read as the image', () => {
  test.each(LAYOUT_FORMS.filter((form) => form !== 'script'))(
    'a layout as a %s, with a text file beside it',
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
    ['a description of nix2container', 'image.json', '{"image-config":{},"layers":[]}'],
  ])('but %s counts only as the result of the build itself', async (_, name, text) => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await writeFile(join(outer, name), text, { mode: 0o755 })
    await writeFile(join(outer, 'README'), 'hello')
    const finding = findSource(outer)
    await expect(finding).rejects.toThrow(/is a folder that contains no image\n {2}it contains .*README/)
    await expect(finding).rejects.toThrow(
      new RegExp(`If ${name} is a script .* build it directly instead of a folder that contains it\\.$`),
    )
  })

  test('but not an image in a deeper folder', async () => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await storeLayout(outer, made.files, 'tar')
    await expect(findSource(outer)).rejects.toThrow(/is a folder that contains no image\n {2}it contains built-/)
  })

  test('but two images are an error that lists them', async () => {
    const outer = await mkdtemp(join(folder, 'outer-'))
    await Promise.all(['amd64.tar', 'arm64.tar'].map((name) => writeFile(join(outer, name), writeTar([{ name }]))))
    const finding = findSource(outer)
    await expect(finding).rejects.toBeInstanceOf(ImageError)
    await expect(finding).rejects.toThrow(
      `${outer} is a folder that contains 2 images\n  by their first bytes: amd64.tar, arm64.tar\nBuild each image by its own attribute.`,
    )
  })
})

test('a folder without the file "oci-layout", or without index.json, is not a layout', async () => {
  for (const name of ['oci-layout', 'index.json'])
    await expect(read(withFiles(made, { [name]: undefined }))).rejects.toThrow(
      /is a folder that contains no image\n {2}it contains blobs, /,
    )
})
