import type { ReusableBlob } from '../cache/layers.ts'
import { createBlobStore } from '../compress/blob-store.ts'
import { type Compression, compressLayer, createBlockSemaphore, hashLayer, type Write } from '../compress/compress.ts'
import { peekCompression } from '../image/decompress.ts'
import type { ImageSource } from '../image/source.ts'
import type { LayerFile } from '../image/source-image.ts'
import { type Descriptor, type LayerFormat, layerFormat } from '../oci/manifest.ts'
import { type Digest, type Repository, sameRepository, shortDigest } from '../oci/reference.ts'
import { startMeter } from '../progress.ts'
import { createSemaphore, settleAll } from '../promises.ts'
import { putBlobEverywhere } from '../registry/copy.ts'
import type { Registry } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { observeLayer, type ProgramObserver } from '../sbom/store-paths.ts'
import { formatBytes, formatDuration } from '../text.ts'
import { decompressLayer, type LayerDigests, uploadFormat } from './check.ts'

/** A layer as the pushed manifest lists it. */
export interface CompressedLayer {
  readonly diffId: Digest
  readonly digest: Digest
  readonly format: LayerFormat
  /** Compressed, in bytes. */
  readonly size: number
  /** Whether all repositories had it already. */
  readonly reused: boolean
}

/** Returns the compressed size of layers, in bytes. */
export function totalSize(layers: readonly CompressedLayer[]): number {
  return layers.reduce((sum, { size }) => sum + size, 0)
}

/** A layer that has been read and is being uploaded. */
export interface LayerUpload {
  readonly diffId: Digest
  /** The store paths that the layer has files of, if it has been read. */
  readonly storePaths?: readonly string[]
  /** Resolves when the layer is in every repository. */
  readonly uploaded: Promise<CompressedLayer>
}

/** Uploads layers in the background, several at a time. */
export interface Uploads {
  /**
   * Compresses and uploads a layer. Resolves when its file has been read.
   * @param check throws if it is the wrong layer; then none of its bytes are sent
   */
  push(file: LayerFile, check?: (layer: LayerDigests) => void): Promise<LayerUpload>
  /** Mounts a layer that was published before in every repository that lacks it. */
  reuse(diffId: Digest, blob: ReusableBlob, file?: Pick<LayerFile, 'size'>): LayerUpload
  /** Records a layer that every repository has already. */
  skip(diffId: Digest, blob: Descriptor): LayerUpload
  /** Resolves when all uploads have succeeded or failed. */
  settled(): Promise<unknown>
}

export interface UploadSettings {
  readonly source: ImageSource
  /** The repositories to upload to. At least one. */
  readonly images: readonly Repository[]
  readonly compression: Compression
  /** For layers that are too large to keep in memory. */
  readonly tempFolder: string
  /** Receives the programs in the layers that are read. */
  readonly onProgram?: ProgramObserver | undefined
}

/** Receives what happens to the layers of an image. */
export interface UploadReport {
  /** @param line says what happened to a layer that every repository has now */
  readonly onLayer: (line: string) => void
  /** @param bytes the length of a part of a layer that was read */
  readonly onRead: (bytes: number) => void
}

/** How many layers are read, compressed or uploaded at the same time. */
const LAYERS_AT_ONCE = 12

/** Starts without any uploads. The caller waits for `settled` before it ends: until then, temporary files are in use. */
export function startUploads(
  { source, images, compression, tempFolder, onProgram }: UploadSettings,
  registry: Registry,
  { onLayer, onRead }: UploadReport,
): Uploads {
  const slots = createSemaphore(LAYERS_AT_ONCE)
  const blocks = createBlockSemaphore(compression)
  const store = createBlobStore(tempFolder)
  const pending: Promise<unknown>[] = []
  const meter = startMeter('Push', 'layers')
  let uploaded = 0
  let failure: unknown

  function track<Result>(work: Promise<Result>): Promise<Result> {
    pending.push(work)
    meter.update(uploaded, pending.length)
    work.then(
      () => meter.update(++uploaded, pending.length),
      (error: unknown) => {
        failure ??= error
      },
    )
    return work
  }

  /** Reads a layer and writes it compressed. A compressed layer is written unchanged. */
  async function pack(file: LayerFile, write: Write) {
    const { compression: compressed, content } = await peekCompression(observeLength(file.content(), onRead))
    const format = uploadFormat(compressed)
    const stored = decompressLayer(compressed, content, source, format === undefined ? undefined : write)
    const { tar, storePaths } = observeLayer(stored, onProgram)
    const packed =
      format === undefined
        ? await compressLayer(tar, compression, blocks, write)
        : { layer: await hashLayer(tar), written: Promise.resolve() }
    return { ...packed, format, storePaths: storePaths() }
  }

  async function push(file: LayerFile, check?: (layer: LayerDigests) => void): Promise<LayerUpload> {
    await slots.acquire()
    const writer = store.create()
    const release = async () => {
      slots.release()
      await writer.release()
    }
    try {
      if (failure !== undefined) throw failure
      const { layer, written, format, storePaths } = await pack(file, writer.write)
      const { diffId } = layer
      const upload = async (): Promise<CompressedLayer> => {
        try {
          await written
          const blob = writer.finish()
          check?.({ diffId, digest: blob.digest, format })
          const started = performance.now()
          const reused = !(await putBlobEverywhere(registry, images, blob))
          const result = reused ? 'already exists' : `pushed in ${formatUpload(blob.size, performance.now() - started)}`
          onLayer(`${shortDigest(diffId)}: ${formatBytes(layer.size)} → ${formatBytes(blob.size)}, ${result}`)
          return { diffId, digest: blob.digest, format: format ?? compression.format, size: blob.size, reused }
        } finally {
          await release()
        }
      }
      return { diffId, storePaths, uploaded: track(upload()) }
    } catch (error) {
      await release()
      throw error
    }
  }

  return {
    push,
    reuse(diffId, blob, file) {
      const mount = async (): Promise<CompressedLayer> => {
        await settleAll(images.map((image) => mountIfMissing(registry, image, blob)))
        const size = file === undefined ? '' : `${formatBytes(file.size)}, `
        onLayer(`${shortDigest(diffId)}: ${size}reused (${formatBytes(blob.size)})`)
        return reusedLayer(diffId, blob)
      }
      return { diffId, uploaded: track(mount()) }
    },
    skip(diffId, blob) {
      onLayer(`${shortDigest(diffId)}: ${formatBytes(blob.size)}, already exists`)
      return { diffId, uploaded: Promise.resolve(reusedLayer(diffId, blob)) }
    },
    settled: () => Promise.allSettled(pending).finally(meter.end),
  }
}

function reusedLayer(diffId: Digest, { digest, size, mediaType }: Descriptor): CompressedLayer {
  const format = layerFormat(mediaType)
  if (format === undefined) throw new Error(`a layer of the type ${mediaType} can't be reused`)
  return { diffId, digest, size, format, reused: true }
}

async function mountIfMissing(registry: Registry, image: Repository, blob: ReusableBlob): Promise<void> {
  if (blob.repositories.some((one) => sameRepository(one, image))) return
  if (await registry.hasBlob(image, blob.digest)) return
  const from = blob.repositories.find(({ host }) => host === image.host)
  if (from !== undefined && (await registry.mountBlob(image, blob.digest, from))) return
  // The archive has been read past the layer. The error makes the push start again, as for a layer that was deleted.
  throw new RegistryError({
    host: image.host,
    problem: 'other',
    code: 'BLOB_UNKNOWN',
    message: `${image.host} does not mount ${blob.digest} from ${from?.path} in ${image.path}`,
  })
}

async function* observeLength(content: AsyncIterable<Buffer>, onRead: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const chunk of content) {
    onRead(chunk.length)
    yield chunk
  }
}

/** The speed of small uploads says only how fast the registry answers. */
const MEASURABLE = 1_000_000

function formatUpload(size: number, milliseconds: number): string {
  const speed = size < MEASURABLE ? '' : ` (${formatBytes(size / (milliseconds / 1000))}/s)`
  return `${formatDuration(milliseconds)}${speed}`
}
