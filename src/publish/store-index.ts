import { MergeError } from '../errors.ts'
import type { Log } from '../log.ts'
import { DOCKER_MANIFEST } from '../oci/manifest.ts'
import { formatRepository, type Repository, sameRepository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { copyImages } from '../registry/copy.ts'
import { copyReferrers } from '../registry/copy-referrers.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { sanitizeLine } from '../text.ts'
import type { ComposedIndex } from './compose.ts'
import type { TagPlan } from './tag-plan.ts'
import type { Member } from './verify.ts'

/** A composed index, and what it is for. */
export interface IndexToStore {
  /** `composed`, or the equal index that is published already. */
  readonly index: StoredManifest
  readonly composed: ComposedIndex
  readonly plans: readonly TagPlan[]
  readonly members: readonly Member[]
}

/**
 * Stores an index by digest, after the images that its repositories lack.
 * @returns the index, or the Docker manifest list in its place if the registry refuses the index
 */
export async function storeIndex(
  registry: Registry,
  images: readonly Repository[],
  { index, composed: { dockerList }, plans, members }: IndexToStore,
  log: Log,
): Promise<StoredManifest> {
  const copies = members.flatMap(({ image, absentFrom }) => absentFrom.map((to) => ({ image, to })))
  await copyImages(registry, copies)
  await copyReferrers(
    registry,
    copies.map(({ image: { digest, repository: from }, to }) => ({ digest, from, to })),
  )
  const without = images.filter(
    (image) => !plans.some(({ tag, action }) => action === 'kept' && sameRepository(tag.repository, image)),
  )
  try {
    await putIndex(registry, without, index)
    await copyIndexReferrers(registry, without, index, plans)
    return index
  } catch (error) {
    const isDocker = members.some(({ image }) => image.mediaType === DOCKER_MANIFEST)
    if (!isDocker || !isTypeRefusal(error)) throw error
    if (dockerList === undefined || dockerList.lost.length > 0) throw refusedIndex(error, dockerList?.lost)
    log.info(`${error.host} refuses an OCI index that lists Docker manifests: publishing a Docker manifest list`)
    // All repositories get the same manifest, so that the image has one digest.
    await putIndex(registry, images, dockerList).catch((second: unknown) => {
      throw isTypeRefusal(second) ? refusedIndex(error) : second
    })
    return dockerList
  }
}

/** Copies the attestations of an index that is published already to the repositories that have just got it. */
async function copyIndexReferrers(
  registry: Registry,
  images: readonly Repository[],
  { digest }: StoredManifest,
  plans: readonly TagPlan[],
): Promise<void> {
  const from = plans.find(({ action }) => action === 'kept')?.tag.repository
  if (from === undefined) return
  await copyReferrers(
    registry,
    images.map((to) => ({ digest, from, to })),
  )
}

async function putIndex(registry: Registry, images: readonly Repository[], index: StoredManifest): Promise<void> {
  await settleAll(images.map((image) => registry.putManifest(image, index.digest, index.mediaType, index.bytes)))
  await settleAll(images.map((image) => assertStored(registry, image, index)))
}

/** Reports whether a registry refuses a manifest because of its media type or the media types in it. */
function isTypeRefusal(error: unknown): error is RegistryError {
  if (!(error instanceof RegistryError)) return false
  const { problem, status = 0, code = '' } = error
  return problem === 'unsupported-type' || (status >= 400 && status < 500 && code === 'MANIFEST_INVALID')
}

/** @param lost the annotations that a Docker manifest list would lose */
function refusedIndex(error: RegistryError, lost: readonly string[] = []): MergeError {
  const { message, detail } = error.parts
  return new MergeError({
    message: `${error.host} refuses an OCI index that lists Docker manifests`,
    detail: [message, detail].filter(Boolean).join('\n'),
    hint: [
      'No tag has moved. Push OCI manifests. In the build step, set:\n  push-with: registry',
      ...(lost.length === 0
        ? []
        : [
            `To publish a Docker manifest list, which has no annotations, give every image these labels: ${sanitizeLine(lost.join(', '))}`,
          ]),
    ].join('\n'),
  })
}

/** Checks that an index can be pulled before a tag moves to it. */
async function assertStored(registry: Registry, image: Repository, { digest }: StoredManifest): Promise<void> {
  if ((await registry.getManifest(image, digest, { retryNotFound: true })) !== undefined) return
  throw new MergeError({
    message: `${image.host} accepted the index ${formatRepository(image)}@${digest} but does not return it`,
    hint: 'No tag has moved. The registry is at fault. Run this job again.',
  })
}
