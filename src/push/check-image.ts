import { isBlobName } from '../image/oci-layout.ts'
import { type ImageSource, readImage } from '../image/source.ts'
import type { LayerMember, SourceImage } from '../image/source-image.ts'
import { checkBlob, checkDiffId, noTar, type ReadLayer, readLayer } from './layer.ts'

/**
 * Reads an image and holds each layer against the config, without pushing anything.
 * @throws ImageError where it is damaged or no image
 */
export async function checkImage(source: ImageSource): Promise<SourceImage> {
  const read = new Map<string, ReadLayer>()
  const take = async (member: LayerMember): Promise<void> => void read.set(member.name, await readLayer(member, source))
  // Blobs of an OCI layout may belong to images for other platforms. The manifest says which, often after them.
  const image = await readImage(source, {
    take: async (member) => (isBlobName(member.name) ? undefined : take(member)),
  })
  const unread = new Set(image.layers.flatMap(({ name }) => (read.has(name) ? [] : [name])))
  if (unread.size > 0)
    await readImage(source, { take: async (member) => (unread.has(member.name) ? take(member) : undefined) })
  for (const [at, { name }] of image.layers.entries()) {
    const layer = read.get(name)
    if (layer === undefined) throw noTar(name, source)
    checkDiffId(image, at, layer.diffId, source)
    checkBlob(image, at, layer, source)
  }
  return image
}
