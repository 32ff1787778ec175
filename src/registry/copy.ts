import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { messageOf } from '../errors.ts'
import type { Descriptor } from '../oci/manifest.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import type { ManifestContent, PublishedImage } from './image.ts'
import type { Blob, Registry } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/**
 * The maximum number of blobs that are copied at the same time. Each may use two connections to one host, one to read and
 * one to write. If writers used all connections, no reader could provide their bytes.
 */
const CONCURRENT_BLOBS = 16

/** An image, and the repository to copy it to. */
export interface Copy {
  readonly image: PublishedImage
  readonly to: Repository
}

/**
 * Copies images and their BuildKit attestations to other repositories. Mounts blobs within a registry, and streams them
 * between registries. Skips blobs that exist. Pushes the manifests last, by digest.
 * @returns the number of bytes that were uploaded
 * @throws RegistryError
 */
export async function copyImages(registry: Registry, copies: readonly Copy[]): Promise<number> {
  const blobs = copies.flatMap(({ image, to }) =>
    contentsOf(image).flatMap((content) => content.blobs.map((blob) => ({ blob, from: image.repository, to }))),
  )
  // A blob that several images share is copied once.
  const waiting = [...new Map(blobs.map((one) => [`${formatRepository(one.to)}@${one.blob.digest}`, one])).values()]
  let sent = 0
  const copyNext = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const { blob, from, to } = next
      if (await copyBlob(registry, blob, from, to)) sent += blob.size
    }
  }
  const copyRest = async (): Promise<void> => {
    try {
      await copyNext()
    } finally {
      // After a failure, no further blobs are copied.
      waiting.length = 0
    }
  }
  await settleAll(Array.from({ length: CONCURRENT_BLOBS }, copyRest))
  await settleAll(copies.map((copy) => putManifests(registry, copy)))
  return sent
}

/** Copies a blob to a repository that lacks it. @returns whether it was uploaded, and not mounted */
export function copyBlob(registry: Registry, blob: Descriptor, from: Repository, to: Repository): Promise<boolean> {
  return putIfAbsent(registry, to, streamedBlob(registry, blob, from), from)
}

function contentsOf({ own, attestations }: PublishedImage): readonly ManifestContent[] {
  return [own, ...attestations]
}

async function putManifests(registry: Registry, { image, to }: Copy): Promise<void> {
  for (const { manifest } of contentsOf(image).toReversed())
    await registry.putManifest(to, manifest.digest, manifest.mediaType, manifest.bytes)
}

/** Streams a blob of another repository. Withholds its last chunk until its size and digest have been verified. */
function streamedBlob(registry: Registry, { digest, size }: Descriptor, from: Repository): Blob {
  const failure = (detail: string, cause?: unknown) =>
    new RegistryError({
      host: from.host,
      problem: cause === undefined ? 'doubtful' : 'other',
      message: `Can't read all of the blob ${formatRepository(from)}@${digest}`,
      detail,
      ...(cause !== undefined && { hint: 'Run the job again later.' }),
      cause,
    })
  async function* content(): AsyncGenerator<Buffer> {
    let read = 0
    const hash = createHash('sha256')
    const body = await registry.openBlob(from, digest)
    try {
      for await (const chunk of body) {
        read += chunk.length
        if (read > size) break
        hash.update(chunk)
        yield chunk
      }
    } catch (error) {
      throw failure(messageOf(error), error)
    }
    if (read !== size) throw failure(`it has ${read < size ? read : 'more'} bytes, but its manifest says ${size}`)
    const actual = `sha256:${hash.digest('hex')}`
    if (actual !== digest) throw failure(`its digest should be ${digest}, but is ${actual}`)
  }
  return { digest, size, open: () => Readable.from(holdBack(content()), { objectMode: false }) }
}

/** Yields the last chunk only after the end of the input, so that an error leaves the output incomplete. */
async function* holdBack(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let last: Buffer | undefined
  for await (const chunk of chunks) {
    if (last !== undefined) yield last
    last = chunk
  }
  if (last !== undefined) yield last
}

/**
 * Stores a blob in all repositories that lack it. In each registry, uploads it to the first repository and mounts it from
 * there in the others. After a failure, waits for the other registries before rejecting.
 * @returns whether it was uploaded
 */
export async function putBlobEverywhere(
  registry: Registry,
  repositories: readonly Repository[],
  blob: Blob,
): Promise<boolean> {
  const registries = [...Map.groupBy(repositories, ({ host }) => host).values()]
  const sent = await settleAll(
    registries.map(async ([first, ...others]) => {
      if (first === undefined) return []
      const before = await putIfAbsent(registry, first, blob)
      return [before, ...(await settleAll(others.map((other) => putIfAbsent(registry, other, blob, first))))]
    }),
  )
  return sent.flat().includes(true)
}

/**
 * Stores a blob in a repository that lacks it.
 * @param from another repository that has it
 * @returns whether it was uploaded
 */
async function putIfAbsent(registry: Registry, to: Repository, blob: Blob, from?: Repository): Promise<boolean> {
  if (await registry.hasBlob(to, blob.digest)) return false
  return (await registry.putBlob(to, blob, from?.host === to.host ? from : undefined)) === 'uploaded'
}
