import { isDigest, type Repository } from '../oci/reference.ts'
import type { Registry } from './registry.ts'

/** A write to a registry: `started` before the request, `done` when the registry has confirmed it. */
export interface RegistryWrite {
  readonly state: 'started' | 'done'
  readonly repository: Repository
  /** `blob` includes mounted blobs, `image` everything that is pushed by digest: images, indexes and attestations. */
  readonly kind: 'blob' | 'image' | 'tag'
  /** The digest or the tag. */
  readonly reference: string
  /** The manifest that a tag is pointed to. Absent if the tag is deleted, or Docker pushes it. */
  readonly bytes?: Uint8Array
  /** Whether the tag was deleted. Reported only once it is. */
  readonly deleted?: true
}

/** A tag that lists the referrers of a digest, in registries that don't list them. It is not a tag of an image. */
const REFERRERS_TAG = /^sha256-[0-9a-f]{64}$/

/** Returns a registry client that reports every write. Uploads that only check access are not writes. */
export function observeWrites(registry: Registry, report: (write: RegistryWrite) => void): Registry {
  async function observe<Result>(
    write: Omit<RegistryWrite, 'state'>,
    work: () => Promise<Result>,
    isDone: (result: Result) => boolean = () => true,
  ): Promise<Result> {
    report({ ...write, state: 'started' })
    const result = await work()
    if (isDone(result)) report({ ...write, state: 'done' })
    return result
  }
  return {
    ...registry,
    putManifest(repository, reference, mediaType, bytes, etag) {
      const kind = isDigest(reference) || REFERRERS_TAG.test(reference) ? 'image' : 'tag'
      return observe({ repository, kind, reference, bytes }, () =>
        registry.putManifest(repository, reference, mediaType, bytes, etag),
      )
    },
    async deleteTag(repository, tag) {
      const deleted = await registry.deleteTag(repository, tag)
      if (deleted) report({ repository, kind: 'tag', reference: tag, deleted: true, state: 'done' })
      return deleted
    },
    mountBlob: (repository, digest, from) =>
      observe(
        { repository, kind: 'blob', reference: digest },
        () => registry.mountBlob(repository, digest, from),
        (mounted) => mounted,
      ),
    putBlob: (repository, blob, from) =>
      observe({ repository, kind: 'blob', reference: blob.digest }, () => registry.putBlob(repository, blob, from)),
  }
}
