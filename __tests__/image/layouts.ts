import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect } from '@jest/globals'
import { readImage } from '../../src/image/open-image.ts'
import { findSource } from '../../src/image/source.ts'
import { writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { type LayoutFile, type LayoutForm, type MadeLayout, makeLayout, storeLayout } from '../support/layout.ts'

export let folder: string

/** Creates a folder for the tests of a file. */
export function setUpFolder(): void {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'oci-layout-'))
  })

  afterAll(async () => {
    await rm(folder, { recursive: true })
  })
}

export function store(files: ReadonlyMap<string, LayoutFile>, form: LayoutForm): Promise<string> {
  return storeLayout(folder, files, form)
}

export async function read(files: ReadonlyMap<string, LayoutFile>, form: LayoutForm = 'folder') {
  return readImage(await findSource(await store(files, form)))
}

export const big = writeTar([{ name: 'noise', content: noise(200_000) }])
export const made = makeLayout({ layers: ['lower', big, 'upper'], packings: ['gzip', 'zstd', 'plain'] })

/** Orders the files so that index.json comes before the blobs. */
export function indexFirst(layout: MadeLayout): ReadonlyMap<string, LayoutFile> {
  return new Map([...layout.files].sort(([first], [second]) => second.localeCompare(first)))
}

export async function expectRead(layout: MadeLayout, files = layout.files, form: LayoutForm = 'folder'): Promise<void> {
  const image = await read(files, form)
  expect(image.names).toEqual([])
  expect(image.configDigest).toBe(layout.configDigest)
  expect(image.configBytes.equals(layout.config)).toBe(true)
  expect(image.config.diffIds).toEqual(layout.layers.map(({ diffId }) => diffId))
  expect(image.manifest?.bytes.equals(layout.manifest)).toBe(true)
  expect(image.manifest?.layers.map(({ digest, size }, at) => [image.layerNames[at], digest, size])).toEqual(
    layout.layers.map(({ name, digest, blob }) => [name, digest, blob.length]),
  )
}
