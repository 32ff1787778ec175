import { describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/errors.ts'
import { readImage } from '../../src/image/open-image.ts'
import { findSource } from '../../src/image/source.ts'
import type { Platform } from '../../src/oci/platform.ts'
import { checkImage } from '../../src/push/check.ts'
import {
  indexOf,
  LAYOUT_FORMS,
  type LayoutFile,
  type LayoutForm,
  layoutOf,
  type MadeLayout,
  makeLayout,
  withFiles,
} from '../support/layout.ts'
import { made, setUpFolder, store } from './layouts.ts'

setUpFolder()

describe('a layout of several images', () => {
  const arm = makeLayout({ architecture: 'arm64', layers: ['for arm'] })
  const AMD64 = { os: 'linux', architecture: 'amd64' }
  const ARM64 = { os: 'linux', architecture: 'arm64' }
  const readFor = async (files: ReadonlyMap<string, LayoutFile>, platform: Platform, form: LayoutForm = 'folder') =>
    readImage(await findSource(await store(files, form)), { platform })
  const withoutPlatform = ({ entry: { platform, ...entry } }: MadeLayout) => entry

  test.each(LAYOUT_FORMS)('is read as the one for the requested platform, as a %s', async (form) => {
    const files = layoutOf([made, arm])
    expect((await readFor(files, AMD64, form)).configDigest).toBe(made.configDigest)
    expect((await readFor(files, ARM64, form)).configDigest).toBe(arm.configDigest)
    expect((await checkImage(await findSource(await store(files, form)), ARM64)).configDigest).toBe(arm.configDigest)
  })

  test.each(['folder', 'tar', 'gzip'] as const)('is checked only for the requested platform, as a %s', async (form) => {
    const broken = { [made.layers[0]?.name ?? '']: Buffer.from('\u001f\u008b\u0008 and no more', 'latin1') }
    const files = new Map([...layoutOf([made, arm]), ...withFiles({ files: new Map() }, broken)])
    const source = await findSource(await store(files, form))
    await checkImage(source, ARM64)
    await expect(checkImage(source, AMD64)).rejects.toBeInstanceOf(ImageError)
  })

  test('may list them in index.json, or each in a nested index', async () => {
    const index = (layout: MadeLayout) => layoutOf([layout])
    const nested = new Map([...index(made), ...index(arm)])
    const entries = [made, arm].flatMap((layout) => JSON.parse(String(index(layout).get('index.json'))).manifests)
    for (const listed of [[made.entry, arm.entry], entries]) {
      const files = new Map([...nested, ['index.json', indexOf(listed)] as const])
      expect((await readFor(files, ARM64)).configDigest).toBe(arm.configDigest)
    }
  })

  test('may leave out their platforms, which are in their configs', async () => {
    for (const form of ['folder', 'tar'] as const) {
      const files = layoutOf([made, arm], withoutPlatform)
      expect((await readFor(files, AMD64, form)).configDigest).toBe(made.configDigest)
      expect((await readFor(files, ARM64, form)).configDigest).toBe(arm.configDigest)
    }
  })

  test('prefers an exact match of the platform', async () => {
    const v3 = makeLayout({ layers: ['for v3'], entry: { platform: { ...AMD64, variant: 'v3' } } })
    for (const layouts of [
      [v3, made],
      [made, v3],
    ])
      expect((await readFor(layoutOf(layouts), AMD64)).configDigest).toBe(made.configDigest)
    expect((await readFor(layoutOf([v3, arm]), AMD64)).configDigest).toBe(v3.configDigest)
  })

  test.each(LAYOUT_FORMS)('without one for the platform is an error that lists them, as a %s', async (form) => {
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

  test('with two for the platform is an error that lists them', async () => {
    const other = makeLayout({ layers: ['another'] })
    await expect(readFor(layoutOf([made, other, arm]), AMD64)).rejects.toThrow(
      new RegExp(
        `has 2 images for linux/amd64, and only one can be pushed\n {2}${made.manifestDigest} for linux/amd64\n {2}${other.manifestDigest} for linux/amd64\n {2}${arm.manifestDigest} for linux/arm64\nBuild`,
      ),
    )
  })
})
