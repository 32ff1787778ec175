import { availableParallelism } from 'node:os'
import type { ReusableBlob } from '../cache/layers.ts'
import { createBlobStore } from '../compress/blob-store.ts'
import {
  type Compressing,
  type Compression,
  compressLayer,
  hashLayer,
  type UncompressedLayer,
  type Write,
} from '../compress/compress.ts'
import { createSemaphore } from '../compress/semaphore.ts'
import { probe } from '../image/probe.ts'
import type { LayerMember } from '../image/source-image.ts'
import type { Log } from '../log.ts'
import type { Digest } from '../oci/digest.ts'
import type { Descriptor } from '../oci/document.ts'
import { type LayerFormat, layerFormat } from '../oci/media-type.ts'
import { type Repository, sameRepository } from '../oci/reference.ts'
import { putEverywhere } from '../registry/copy.ts'
import type { Blob, Registry } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { settleAll } from '../settle-all.ts'
import { formatBytes } from '../units.ts'
import { keptFormat, plain, type ReadLayer } from './layer.ts'
import type { PushedLayer, Pushing } from './pushing.ts'

/** What became of a layer of the image that was read. */
export interface Taken {
  /** Of what was not read, as the config has it: a published image's says the same. */
  readonly diffId: Digest
  /** Absent where it was read but is yet to be pushed. */
  readonly layer?: Promise<PushedLayer>
}

/** What is to be uploaded, and where to. */
export interface UploadCall extends Pick<Pushing, 'source' | 'images'> {
  readonly compression: Compression
  /** For layers that are too large to wait in memory. */
  readonly tempFolder: string
}

/** How many layers are between being read and being in the registry, and so how many blobs wait or go up at once. */
const LAYERS_AT_ONCE = 12

/** Layers on their way into the registries, many at once. */
export interface Uploads {
  /**
   * Resolves when the member has been read; its layer when it is in every registry.
   * @param check throws if the layer is not the one that it should be: then none of its bytes are sent
   */
  push(member: LayerMember, check: (layer: ReadLayer) => void): Promise<Required<Taken>>
  /** Makes every registry have a layer that was published before. */
  reuse(diffId: Digest, blob: ReusableBlob, member: LayerMember): Promise<PushedLayer>
  /** Tells of a layer that every registry has already. */
  leave(diffId: Digest, blob: Descriptor): Promise<PushedLayer>
  /** Resolves when nothing is under way any more, however it ended. */
  settled(): Promise<unknown>
}

/** Whoever starts them waits for `settled` in the end: temporary files are in use until then. */
export function startUploads(
  { source, images, compression, tempFolder }: UploadCall,
  registry: Registry,
  log: Log,
): Uploads {
  const places = createSemaphore(LAYERS_AT_ONCE)
  // Some more blocks than there are cores, so that a core that is done need not wait for the next to be read; of many
  // cores only those that one thread can keep busy.
  const blocks = createSemaphore(Math.min(availableParallelism(), 8) + 3)
  const store = createBlobStore(tempFolder)
  const pending: Promise<unknown>[] = []
  let failure: unknown

  function watch<Result>(work: Promise<Result>): Promise<Result> {
    work.catch((error: unknown) => {
      failure ??= error
    })
    pending.push(work)
    return work
  }

  /** Compresses what is not compressed; the rest stays as it is. */
  async function pack(
    content: AsyncIterable<Buffer>,
    write: Write,
  ): Promise<Compressing & { readonly kept: LayerFormat | undefined }> {
    const probed = await probe(content)
    const kept = keptFormat(probed)
    if (kept === undefined) return { ...(await compressLayer(plain(probed, source), compression, blocks, write)), kept }
    const layer = await hashLayer(plain(probed, source, write))
    return { layer, written: Promise.resolve(), kept }
  }

  async function upload(blob: Blob, { diffId, size }: UncompressedLayer): Promise<Omit<PushedLayer, 'format'>> {
    const started = performance.now()
    const reused = !(await putEverywhere(registry, images, blob))
    const seconds = (performance.now() - started) / 1000
    const speed = `${formatBytes(blob.size / seconds)}/s`
    const how = reused ? 'is there already' : `pushed in ${seconds.toFixed(1)} s (${speed})`
    log.info(`${shorten(diffId)}: ${formatBytes(size)} → ${formatBytes(blob.size)}, ${how}`)
    return { diffId, digest: blob.digest, size: blob.size, reused }
  }

  return {
    async push(member, check) {
      await places.acquire()
      const writer = store.create()
      try {
        if (failure !== undefined) throw failure
        const { layer, written, kept } = await pack(member.content(), writer.write)
        const uploaded = async () => {
          try {
            await written
            const blob = writer.finish()
            check({ diffId: layer.diffId, digest: blob.digest, format: kept })
            return { ...(await upload(blob, layer)), format: kept ?? compression.format }
          } finally {
            places.release()
            await writer.release()
          }
        }
        return { diffId: layer.diffId, layer: watch(uploaded()) }
      } catch (error) {
        places.release()
        await writer.release()
        throw error
      }
    },
    reuse(diffId, blob, { size }) {
      const mounted = settleAll(images.map((image) => mountIfElsewhere(registry, image, blob)))
      return watch(
        mounted.then(() => {
          log.info(`${shorten(diffId)}: ${formatBytes(size)}, reused (${formatBytes(blob.size)})`)
          return reusedLayer(diffId, blob)
        }),
      )
    },
    async leave(diffId, blob) {
      log.info(`${shorten(diffId)}: ${formatBytes(blob.size)}, is there already`)
      return reusedLayer(diffId, blob)
    },
    settled: () => Promise.allSettled(pending),
  }
}

function reusedLayer(diffId: Digest, { digest, size, mediaType }: Descriptor): PushedLayer {
  const format = layerFormat(mediaType)
  if (format === undefined) throw new Error(`a layer of the type ${mediaType} is not reused`)
  return { diffId, digest, size, format, reused: true }
}

async function mountIfElsewhere(registry: Registry, image: Repository, blob: ReusableBlob): Promise<void> {
  if (blob.repositories.some((one) => sameRepository(one, image))) return
  if (await registry.hasBlob(image, blob.digest)) return
  const from = blob.repositories.find(({ host }) => host === image.host)
  if (from !== undefined && (await registry.mountBlob(image, blob.digest, from))) return
  // Its bytes are at hand in the archive alone, and that has been read past: as for a layer that is gone.
  throw new RegistryError({
    host: image.host,
    problem: 'other',
    code: 'BLOB_UNKNOWN',
    message: `${image.host} does not let ${image.path} take over ${blob.digest} from ${from?.path}`,
  })
}

function shorten(digest: Digest): string {
  return digest.slice('sha256:'.length, 'sha256:'.length + 12)
}
