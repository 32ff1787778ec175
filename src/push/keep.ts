import { describeBuild, sameBuild } from '../cache/build-info.ts'
import type { UnchangedImage } from '../cache/unchanged.ts'
import { type LayerFormat, layerFormat } from '../oci/media-type.ts'
import { type Repository, sameRepository } from '../oci/reference.ts'
import { copyImages, putEverywhere } from '../registry/copy.ts'
import { fetchImage, hasWhole, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { putTags } from '../registry/tags.ts'
import { settleAll } from '../settle-all.ts'
import { type Labels, labelledConfig, rewriteManifest } from './manifest.ts'
import { checkReplaced } from './tag.ts'

/**
 * Gives a published image other labels. The result has the same bytes as if it were built and pushed with them, no tag
 * moves, and an image that has these labels already stays the same.
 * @param asked the compression that this build is asked for; undefined if Docker pushes
 * @throws RegistryError
 */
export async function relabel(
  registry: Registry,
  { image, info }: UnchangedImage,
  labels: Labels,
  asked: LayerFormat | undefined,
): Promise<UnchangedImage> {
  const { repository, own } = image
  const config = labelledConfig(image.configBytes, labels)
  const formats = own.blobs.slice(1).map(({ mediaType }) => layerFormat(mediaType))
  // Docker is asked for no compression, and adds no labels.
  const wanted = asked === undefined ? info : describeBuild(info.storePath, labels, asked, formats)
  if (config.digest === image.configDigest && sameBuild(wanted, info)) return { image, info }
  const manifest = rewriteManifest(own.manifest, config, wanted)
  await putEverywhere(registry, [repository], config)
  await registry.putManifest(repository, manifest.digest, manifest.mediaType, manifest.bytes)
  return { image: await fetchImage(registry, repository, manifest.digest, { written: true }), info: wanted }
}

/**
 * Makes every repository have an image that was published before, with its tag.
 * @param tag empty: by digest alone
 * @returns how many bytes had to be sent
 * @throws RegistryError
 */
export async function publishUnchanged(
  registry: Registry,
  published: PublishedImage,
  repositories: readonly Repository[],
  tag: string,
): Promise<number> {
  const { repository, digest, own, platform } = published
  const whole = await settleAll(
    repositories.map(async (to) => sameRepository(to, repository) || hasWhole(registry, to, digest)),
  )
  const sent = await copyImages(
    registry,
    repositories.filter((_, at) => !whole[at]).map((to) => ({ image: published, to })),
  )
  if (tag !== '')
    await putTags(registry, repositories, tag, own.manifest, (stored, place) =>
      checkReplaced(registry, stored, place, platform),
    )
  return sent
}
