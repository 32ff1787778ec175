import { describeBuild, sameBuild } from '../cache/build-info.ts'
import type { UnchangedImage } from '../cache/unchanged.ts'
import { type LayerFormat, layerFormat } from '../oci/manifest.ts'
import { type Digest, type Repository, sameRepository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { copyImages, putBlobEverywhere } from '../registry/copy.ts'
import { fetchImage, isImageComplete, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { type Labels, labelledConfig, rewriteManifest } from './manifest.ts'
import { putImageTag } from './tag.ts'

/**
 * Replaces the labels of a published image. The result has the same bytes as an image that is built and pushed with
 * these labels. No tag moves, and an image that has these labels stays the same.
 * @param format the compression that the build requests, undefined if Docker pushes
 * @throws RegistryError
 */
export async function relabel(
  registry: Registry,
  { image, info }: UnchangedImage,
  labels: Labels,
  format: LayerFormat | undefined,
): Promise<UnchangedImage> {
  const { repository, own } = image
  const config = labelledConfig(image.configBytes, labels)
  const formats = own.blobs.slice(1).map(({ mediaType }) => layerFormat(mediaType))
  // With Docker, neither compression nor labels can be chosen.
  const wanted = format === undefined ? info : describeBuild(info.storePath, labels, format, formats)
  if (config.digest === image.configDigest && sameBuild(wanted, info)) return { image, info }
  const manifest = rewriteManifest(own.manifest, config, wanted)
  await putBlobEverywhere(registry, [repository], config)
  await registry.putManifest(repository, manifest.digest, manifest.mediaType, manifest.bytes)
  return { image: await fetchImage(registry, repository, manifest.digest, { retryNotFound: true }), info: wanted }
}

/**
 * Copies a published image to every repository that lacks it, and sets its tag there.
 * @param tag empty to publish by digest alone
 * @param beforeTag runs before the tag moves. If it throws, the tag does not move
 * @returns how many bytes were sent
 * @throws RegistryError
 */
export async function publishUnchanged(
  registry: Registry,
  published: PublishedImage,
  repositories: readonly Repository[],
  tag: string,
  beforeTag: (digest: Digest) => Promise<void> = async () => undefined,
): Promise<number> {
  const { repository, digest, own, platform } = published
  const complete = await settleAll(
    repositories.map(async (to) => sameRepository(to, repository) || isImageComplete(registry, to, digest)),
  )
  const sent = await copyImages(
    registry,
    repositories.filter((_, at) => !complete[at]).map((to) => ({ image: published, to })),
  )
  await beforeTag(digest)
  await putImageTag(registry, repositories, tag, own.manifest, platform)
  return sent
}
