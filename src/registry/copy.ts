import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { messageOf } from '../errors.ts'
import type { Descriptor } from '../oci/document.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import { settleAll } from '../settle-all.ts'
import type { ManifestContent, PublishedImage } from './image.ts'
import type { Blob, Registry } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/**
 * How many blobs are on their way at once, over all images and repositories. Each may take two connections to one host,
 * one to read and one to write: where writers alone filled all that there are, none would ever get its bytes.
 */
const BLOBS_AT_ONCE = 16

/** An image, and the repository that lacks it. */
export interface Copy {
  readonly image: PublishedImage
  readonly to: Repository
}

/**
 * Copies images, and what BuildKit attests about them, to other repositories. Blobs are mounted within a registry and
 * streamed between two; those that are there already stay where they are. The manifests come last, by digest.
 * @returns how many bytes of blobs had to be sent
 * @throws RegistryError
 */
export async function copyImages(registry: Registry, copies: readonly Copy[]): Promise<number> {
  const blobs = copies.flatMap(({ image, to }) =>
    contentsOf(image).flatMap((content) => content.blobs.map((blob) => ({ blob, from: image.repository, to }))),
  )
  // What several images have is sent once.
  const waiting = [...new Map(blobs.map((one) => [`${formatRepository(one.to)}@${one.blob.digest}`, one])).values()]
  let sent = 0
  const copyNext = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const { blob, from, to } = next
      if (await putIfAbsent(registry, to, streamed(registry, blob, from), from)) sent += blob.size
    }
  }
  const copyRest = async (): Promise<void> => {
    try {
      await copyNext()
    } finally {
      // After a failure, no further blob is begun.
      waiting.length = 0
    }
  }
  await settleAll(Array.from({ length: BLOBS_AT_ONCE }, copyRest))
  await settleAll(copies.map((copy) => putManifests(registry, copy)))
  return sent
}

function contentsOf({ own, attestations }: PublishedImage): readonly ManifestContent[] {
  return [own, ...attestations]
}

async function putManifests(registry: Registry, { image, to }: Copy): Promise<void> {
  for (const { manifest } of contentsOf(image).toReversed())
    await registry.putManifest(to, manifest.digest, manifest.mediaType, manifest.bytes)
}

/** Reads a blob of another repository. Holds back its end until its size and digest are right. */
function streamed(registry: Registry, { digest, size }: Descriptor, from: Repository): Blob {
  const broken = (detail: string, cause?: unknown) =>
    new RegistryError({
      host: from.host,
      problem: cause === undefined ? 'doubtful' : 'other',
      message: `Can't read the blob ${formatRepository(from)}@${digest} to its end`,
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
      throw broken(messageOf(error), error)
    }
    if (read !== size) throw broken(`it has ${read < size ? read : 'more'} bytes, and its manifest says ${size}`)
    const actual = `sha256:${hash.digest('hex')}`
    if (actual !== digest) throw broken(`its digest should be ${digest}, but is ${actual}`)
  }
  return { digest, size, open: () => Readable.from(holdBack(content()), { objectMode: false }) }
}

/** Passes the last chunk on only once nothing more comes, so that an error leaves the content incomplete. */
async function* holdBack(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let last: Buffer | undefined
  for await (const chunk of chunks) {
    if (last !== undefined) yield last
    last = chunk
  }
  if (last !== undefined) yield last
}

/**
 * Stores a blob in repositories where it is not yet. Of several in one registry, the first is sent it, and the others
 * take it over from that one. Where one fails, what is under way in the others comes to its end first.
 * @returns whether it had to be sent anywhere
 */
export async function putEverywhere(
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
 * @param from another repository, that has it
 * @returns whether it had to be sent
 */
async function putIfAbsent(registry: Registry, to: Repository, blob: Blob, from?: Repository): Promise<boolean> {
  if (await registry.hasBlob(to, blob.digest)) return false
  return (await registry.putBlob(to, blob, from?.host === to.host ? from : undefined)) === 'uploaded'
}
