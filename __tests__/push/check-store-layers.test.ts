import { expect, test } from '@jest/globals'
import { NotDescribed } from '../../src/image/layered-image.ts'
import { findSource, type ImageSource, type StoreLayer } from '../../src/image/source.ts'
import type { SourceImage } from '../../src/image/source-image.ts'
import type { Digest } from '../../src/oci/reference.ts'
import { checkImage } from '../../src/push/check.ts'
import { digestOf } from '../support/digest.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { setUpFolder, store } from './pushing.ts'

setUpFolder()

const TARS = Array.from({ length: 9 }, (_, at) => writeTar([{ name: 'file', content: `layer ${at}` }]))

/** Returns layers of an image in the Nix store, and what was read of them. */
function storeLayers(expected: readonly (Digest | undefined)[] = []) {
  const reads: string[] = []
  let active = 0
  let most = 0
  const layers = TARS.map((tar, at): StoreLayer => {
    const name = `${at + 1}`
    const diffId = expected[at]
    async function* content() {
      reads.push(name)
      most = Math.max(most, ++active)
      await new Promise((resolve) => setImmediate(resolve))
      yield tar
      active--
    }
    return { name, content, ...(diffId && { diffId }) }
  })
  return { layers, reads, most: () => most }
}

/** An image whose config has the diff IDs that its layers were found to have. */
function sourceOf(layers: readonly StoreLayer[], base?: ImageSource): ImageSource {
  const image = (diffIds: readonly Digest[], below?: SourceImage) =>
    ({ config: { diffIds: [...(below?.config.diffIds ?? []), ...diffIds] } }) as unknown as SourceImage
  return { path: '/nix/store/app.json', root: '/nix/store', format: 'layered', layered: { layers, base, image } }
}

test('layers in the Nix store are checked four at a time, and each is read once', async () => {
  const { layers, reads, most } = storeLayers()
  const { config } = await checkImage(sourceOf(layers))
  expect(config.diffIds).toEqual(TARS.map(digestOf))
  expect(reads.toSorted()).toEqual(layers.map(({ name }) => name))
  expect(most()).toBe(4)
})

test('the layers of the base image come first', async () => {
  const base = makeArchive({ layers: ['lower', 'upper'] })
  const { config } = await checkImage(sourceOf(storeLayers().layers, await findSource(await store(base.bytes))))
  expect(config.diffIds).toEqual([...base.layers.map(({ diffId }) => diffId), ...TARS.map(digestOf)])
})

test('a layer with another diff ID than its description gives is an error', async () => {
  const expected = [undefined, digestOf(TARS[1] as Buffer) as Digest, digestOf(TARS[1] as Buffer) as Digest]
  const checking = checkImage(sourceOf(storeLayers(expected).layers))
  await expect(checking).rejects.toThrow(NotDescribed)
  await expect(checking).rejects.toThrow(`its layer 3 has the diff ID ${digestOf(TARS[2] as Buffer)}`)
})

test('a damaged base image is an error', async () => {
  const { bytes } = makeArchive({ layers: ['lower', 'upper'] })
  const base = await findSource(await store(bytes.subarray(0, 1024)))
  await expect(checkImage(sourceOf(storeLayers().layers, base))).rejects.toThrow(NotDescribed)
})
