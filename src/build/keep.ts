import { allOf } from '../all-of.ts'
import { digestOf } from '../oci/digest.ts'
import { type Repository, sameRepository } from '../oci/reference.ts'
import { copyImages, putEverywhere, putTag } from '../registry/copy.ts'
import { fetchImage, hasWhole, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { type Labels, labelledConfig } from './manifest.ts'

/**
 * Gives a published image other labels, as if it were built and pushed with them. Its layers are as they were, and no
 * tag moves. What has these labels already is the same image.
 * @throws RegistryError
 */
export async function relabel(registry: Registry, image: PublishedImage, labels: Labels): Promise<PublishedImage> {
  const config = labelledConfig(image.configBytes, labels)
  if (config.digest === image.configDigest) return image
  const { repository, own } = image
  const said: Readonly<Record<string, object>> = JSON.parse(own.manifest.bytes.toString('utf8'))
  const { digest, size } = config
  const bytes = Buffer.from(JSON.stringify({ ...said, config: { ...said.config, digest, size } }))
  const manifest = { ...own.manifest, bytes, digest: digestOf(bytes) }
  await putEverywhere(registry, [repository], config)
  await registry.putManifest(repository, manifest.digest, manifest.mediaType, bytes)
  return fetchImage(registry, repository, manifest.digest, { written: true })
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
  const { repository, digest, own } = published
  const whole = await Promise.all(
    repositories.map((to) => sameRepository(to, repository) || hasWhole(registry, to, digest)),
  )
  const sent = await copyImages(
    registry,
    repositories.filter((_, at) => !whole[at]).map((to) => ({ image: published, to })),
  )
  if (tag !== '') await allOf(repositories.map((to) => putTag(registry, to, tag, own.manifest)))
  return sent
}
