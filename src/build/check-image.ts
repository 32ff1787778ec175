import { type ImageSource, readImage } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import { checkBlob, checkDiffId, noTar, type ReadLayer, readLayer } from './layer.ts'

/**
 * Reads an image and holds each layer against the config, without pushing anything.
 * @throws ImageError where it is damaged or no image
 */
export async function checkImage(source: ImageSource): Promise<SourceImage> {
  const read = new Map<string, ReadLayer>()
  const image = await readImage(source, {
    take: async (member) => void read.set(member.name, await readLayer(member, source)),
  })
  for (const [at, { name }] of image.layers.entries()) {
    const layer = read.get(name)
    if (layer === undefined) throw noTar(name, source)
    checkDiffId(image, at, layer.diffId, source)
    checkBlob(image, at, layer, source)
  }
  return image
}
