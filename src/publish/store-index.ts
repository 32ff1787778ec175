import { sanitizeLine } from '../errors.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import type { Tools } from '../modes/mode.ts'
import { DOCKER_MANIFEST } from '../oci/media-type.ts'
import { formatRepository, type Repository, sameRepository } from '../oci/reference.ts'
import { copyImages } from '../registry/copy.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { settleAll } from '../settle-all.ts'
import type { ComposedIndex } from './compose.ts'
import { MergeError } from './merge-error.ts'
import type { TagPlan } from './tag-plan.ts'
import type { Member } from './verify.ts'

/**
 * Puts the images and the index, by digest, where they are not yet.
 * @returns the index, or the Docker manifest list in its place
 */
export async function storeIndex(
  index: StoredManifest,
  { dockerList }: ComposedIndex,
  plans: readonly TagPlan[],
  members: readonly Member[],
  { images }: MergeInputs,
  { registry, log }: Tools,
): Promise<StoredManifest> {
  await copyImages(
    registry,
    members.flatMap(({ image, absentFrom }) => absentFrom.map((to) => ({ image, to }))),
  )
  const without = images.filter(
    (image) => !plans.some(({ tag, action }) => action === 'kept' && sameRepository(tag.repository, image)),
  )
  try {
    await putIndex(registry, without, index)
    return index
  } catch (error) {
    const isDocker = members.some(({ image }) => image.mediaType === DOCKER_MANIFEST)
    if (!isDocker || !isTypeRefusal(error)) throw error
    if (dockerList === undefined || dockerList.lost.length > 0) throw refusedIndex(error, dockerList?.lost)
    log.info(`${error.host} refuses an OCI index that lists Docker manifests: publishing a Docker manifest list`)
    // All repositories get the same, so that there is one digest.
    await putIndex(registry, images, dockerList).catch((second: unknown) => {
      throw isTypeRefusal(second) ? refusedIndex(error) : second
    })
    return dockerList
  }
}

async function putIndex(registry: Registry, images: readonly Repository[], index: StoredManifest): Promise<void> {
  await settleAll(images.map((image) => registry.putManifest(image, index.digest, index.mediaType, index.bytes)))
  await settleAll(images.map((image) => readBack(registry, image, index)))
}

/** Reports whether a registry refuses a manifest because of its media type, or of those that it lists. */
function isTypeRefusal(error: unknown): error is RegistryError {
  if (!(error instanceof RegistryError)) return false
  const { problem, status = 0, code = '' } = error
  return problem === 'unsupported-type' || (status >= 400 && status < 500 && code === 'MANIFEST_INVALID')
}

/** @param lost the annotations that keep the merge from publishing a Docker manifest list */
function refusedIndex(error: RegistryError, lost: readonly string[] = []): MergeError {
  const { message, detail } = error.parts
  return new MergeError({
    message: `${error.host} refuses an OCI index that lists Docker manifests`,
    detail: [message, detail].filter(Boolean).join('\n'),
    hint: [
      'No tag has moved. Let the action push OCI manifests. In the build step, set:\n  push-with: registry',
      ...(lost.length === 0
        ? []
        : [
            `A Docker manifest list has no annotations. It is published only if every image has these as labels: ${sanitizeLine(lost.join(', '))}`,
          ]),
    ].join('\n'),
  })
}

/** So that no tag is moved to something that can't be pulled. */
async function readBack(registry: Registry, image: Repository, { digest }: StoredManifest): Promise<void> {
  if ((await registry.getManifest(image, digest, { written: true })) !== undefined) return
  throw new MergeError({
    message: `${image.host} took the index ${formatRepository(image)}@${digest}, but does not have it`,
    hint: 'No tag has moved. Run the job again: this is a fault of the registry.',
  })
}
