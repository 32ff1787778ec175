import { availableParallelism } from 'node:os'
import { Readable } from 'node:stream'
import { type Compression, compressLayer, hashLayer } from '../blob/compress.ts'
import { createSlots } from '../blob/slots.ts'
import { createBlobStore, type StoredBlob } from '../blob/store.ts'
import { oneLine } from '../failure.ts'
import type { DockerArchive, LayerMember } from '../image/docker-archive.ts'
import { ImageError } from '../image/image-error.ts'
import { type ImageSource, isSeekable, readImage } from '../image/source.ts'
import type { Log } from '../log.ts'
import { type Digest, digestOf } from '../oci/digest.ts'
import { layerType, OCI_CONFIG, OCI_MANIFEST } from '../oci/media-type.ts'
import type { Repository } from '../oci/reference.ts'
import { allOf, putEverywhere } from '../registry/copy.ts'
import type { Blob, Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { printBytes } from '../units.ts'
import { type KnownBlob, NOTHING_PUBLISHED, type Published, reusableIn } from './reuse.ts'

export interface PushCall {
  readonly source: ImageSource
  /** Where it goes: one manifest, the same digest, for all. At least one. */
  readonly images: readonly Repository[]
  /** Absent: by digest alone. */
  readonly tag?: string | undefined
  readonly compression: Compression
  readonly published: Published
  /** Added to the image's config. None leave its bytes as Nix made them. */
  readonly labels: Readonly<Record<string, string>>
  /** For layers that are too large to wait in memory. */
  readonly tempFolder: string
  /** Looks at the image before anything of it can be pulled; throws where it must not be. */
  readonly check: (archive: DockerArchive) => void
}

/** One layer, as the manifest lists it. */
export interface PushedLayer {
  readonly diffId: Digest
  readonly digest: Digest
  /** Compressed, in bytes. */
  readonly size: number
  /** Whether it was in every repository already. */
  readonly reused: boolean
}

export interface PushedImage {
  readonly archive: DockerArchive
  readonly manifest: StoredManifest
  readonly configDigest: Digest
  readonly layers: readonly PushedLayer[]
  readonly milliseconds: number
}

/**
 * Puts an image into registries straight from what Nix built. Layers published before stay where they are; the others
 * are compressed and uploaded while the rest is still being read. The manifest comes last.
 * @throws ImageError where the image is damaged, RegistryError where a registry refuses: no tag has moved then
 */
export async function pushImage(call: PushCall, registry: Registry, log: Log): Promise<PushedImage> {
  const started = performance.now()
  const attempt = async (published: Published) => {
    const { archive, layers } = await pushLayers({ ...call, published }, registry, log)
    return { archive, layers, ...(await pushManifest(call, archive, layers, published, registry)) }
  }
  const pushed = await attempt(call.published).catch((error: unknown) => {
    // A layer that a published image lists may be gone all the same, by a clean-up that went wrong.
    if (!(error instanceof RegistryError) || !/BLOB_UNKNOWN/.test(error.code ?? '')) throw error
    log.info(`${oneLine(error.message)}; all layers are looked at anew`)
    return attempt(NOTHING_PUBLISHED)
  })
  return { ...pushed, milliseconds: performance.now() - started }
}

/** Compressed, in bytes. */
export function bytesOf(layers: readonly PushedLayer[]): number {
  return layers.reduce((sum, { size }) => sum + size, 0)
}

/** Reads an image and holds each layer against the config, without pushing anything. */
export async function checkImage(source: ImageSource): Promise<DockerArchive> {
  const diffIds = new Map<string, Digest>()
  const archive = await readImage(source, {
    take: async (member) => void diffIds.set(member.name, (await hashLayer(member.content())).diffId),
  })
  for (const [at, member] of archive.layers.entries()) checkDiffId(archive, at, diffIds.get(member), source)
  return archive
}

/** What became of a member of the archive. */
interface Taken {
  /** Absent where the bytes were not read: the config's word is taken for what a published image's says as well. */
  readonly diffId?: Digest
  /** Absent where it was read but is yet to be pushed. */
  readonly layer?: Promise<PushedLayer>
}

async function pushLayers(
  call: PushCall,
  registry: Registry,
  log: Log,
): Promise<{ readonly archive: DockerArchive; readonly layers: readonly PushedLayer[] }> {
  const { source, images, published, compression } = call
  const uploads = startUploads(call, registry, log)
  const taken = new Map<string, Taken>()
  const reusable = (diffId: Digest | undefined) => diffId && reusableIn(published, diffId, images, compression.format)

  async function push(member: LayerMember): Promise<void> {
    taken.set(member.name, await uploads.push(member))
  }

  /** Of what can be read as often as needed, all is known before the first layer: published ones are passed over. */
  function takeKnown(archive: DockerArchive): (member: LayerMember) => Promise<void> {
    return async (member) => {
      const diffId = archive.config.diffIds[archive.layers.indexOf(member.name)]
      if (diffId === undefined) return
      const blob = reusable(diffId)
      if (blob === undefined) await push(member)
      else taken.set(member.name, { layer: uploads.reuse(diffId, blob, member) })
    }
  }

  /** Of what comes by once, names are a hint: Nix calls most layers by their diff IDs. */
  async function takeUnknown(member: LayerMember): Promise<void> {
    if (reusable(diffIdInName(member.name)) === undefined) return push(member)
    const { diffId } = await hashLayer(member.content())
    const blob = reusable(diffId)
    taken.set(member.name, { diffId, ...(blob && { layer: uploads.reuse(diffId, blob, member) }) })
  }

  async function read(): Promise<DockerArchive> {
    if (isSeekable(source)) {
      const archive = await readImage(source)
      call.check(archive)
      return readImage(source, { take: takeKnown(archive) })
    }
    const archive = await readImage(source, { take: takeUnknown })
    call.check(archive)
    // A name that was that of a published layer, but not its own, leaves a layer that was read and not pushed.
    const missed = archive.layers.filter((member) => taken.get(member)?.layer === undefined)
    if (missed.length > 0)
      await readImage(source, { take: async (member) => (missed.includes(member.name) ? push(member) : undefined) })
    return archive
  }

  try {
    const archive = await read()
    const layers = archive.layers.map((member, at) => layerOf(archive, at, taken.get(member), source))
    return { archive, layers: await Promise.all(layers) }
  } finally {
    await uploads.settled()
  }
}

function layerOf(
  archive: DockerArchive,
  at: number,
  taken: Taken | undefined,
  source: ImageSource,
): Promise<PushedLayer> {
  if (taken?.layer === undefined)
    throw new ImageError({ what: `${source.path} is damaged: its layer ${archive.layers[at]} is no tar` })
  checkDiffId(archive, at, taken.diffId ?? archive.config.diffIds[at], source)
  return taken.layer
}

/** `<64 hexadecimal digits>/layer.tar`, as Nix's layered images have it. */
function diffIdInName(name: string): Digest | undefined {
  const [, hex] = /^([0-9a-f]{64})\/layer\.tar$/.exec(name) ?? []
  return hex === undefined ? undefined : `sha256:${hex}`
}

function checkDiffId(
  { config, layers }: DockerArchive,
  at: number,
  diffId: Digest | undefined,
  source: ImageSource,
): void {
  const expected = config.diffIds[at]
  if (diffId === expected) return
  throw new ImageError({
    what: `${source.path} is damaged: its layer ${layers[at]} is not the one that its config lists`,
    words: `its diff ID is ${diffId}, and should be ${expected}`,
    help: 'Nothing was published. Build it anew: nix build --rebuild',
  })
}

/** How many layers are between being read and being in the registry, and so how many blobs wait or go up at once. */
const LAYERS_AT_ONCE = 12

interface Uploads {
  /** Resolves when the member has been read; its layer when it is in every registry. */
  push(member: LayerMember): Promise<Required<Taken>>
  /** Makes every registry have a layer that was published before. */
  reuse(diffId: Digest, blob: KnownBlob, member: LayerMember): Promise<PushedLayer>
  /** Resolves when nothing is under way any more, however it ended. */
  settled(): Promise<unknown>
}

function startUploads({ images, compression, tempFolder }: PushCall, registry: Registry, log: Log): Uploads {
  const places = createSlots(LAYERS_AT_ONCE)
  // Some more blocks than there are cores, so that a core that is done need not wait for the next to be read; of many
  // cores only those that one thread can keep busy.
  const blocks = createSlots(Math.min(availableParallelism(), 8) + 3)
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

  async function upload(blob: StoredBlob, diffId: Digest, size: number): Promise<PushedLayer> {
    const started = performance.now()
    const reused = !(await putEverywhere(registry, images, blob))
    const seconds = (performance.now() - started) / 1000
    const speed = `${printBytes(blob.size / seconds)}/s`
    const how = reused ? 'is there already' : `pushed in ${seconds.toFixed(1)} s (${speed})`
    log.info(`${shorten(diffId)}: ${printBytes(size)} → ${printBytes(blob.size)}, ${how}`)
    return { diffId, digest: blob.digest, size: blob.size, reused }
  }

  return {
    async push(member) {
      await places.take()
      const writer = store.create()
      try {
        if (failure !== undefined) throw failure
        const { layer, written } = await compressLayer(member.content(), compression, blocks, writer.write)
        const uploaded = async () => {
          try {
            await written
            return await upload(writer.finish(), layer.diffId, layer.size)
          } finally {
            places.give()
            await writer.release()
          }
        }
        return { diffId: layer.diffId, layer: watch(uploaded()) }
      } catch (error) {
        places.give()
        await writer.release()
        throw error
      }
    },
    reuse(diffId, blob, { size }) {
      const mounted = allOf(images.map((image) => mountIfElsewhere(registry, image, blob)))
      return watch(
        mounted.then(() => {
          log.info(`${shorten(diffId)}: ${printBytes(size)}, reused (${printBytes(blob.size)})`)
          return { diffId, digest: blob.digest, size: blob.size, reused: true }
        }),
      )
    },
    settled: () => Promise.allSettled(pending),
  }
}

async function mountIfElsewhere(registry: Registry, image: Repository, blob: KnownBlob): Promise<void> {
  if (blob.repositories.some(({ path, host }) => path === image.path && host === image.host)) return
  if (await registry.hasBlob(image, blob.digest)) return
  const from = blob.repositories.find(({ host }) => host === image.host)
  if (from !== undefined && (await registry.mountBlob(image, blob.digest, from))) return
  // Its bytes are at hand in the archive alone, and that has been read past: as for a layer that is gone.
  throw new RegistryError({
    host: image.host,
    problem: 'other',
    code: 'BLOB_UNKNOWN',
    what: `${image.host} does not let ${image.path} take over ${blob.digest} from ${from?.path}`,
  })
}

async function pushManifest(
  { images, tag, compression, labels }: PushCall,
  archive: DockerArchive,
  layers: readonly PushedLayer[],
  published: Published,
  registry: Registry,
): Promise<Pick<PushedImage, 'manifest' | 'configDigest'>> {
  const config = configBlob(archive, labels)
  const mediaType = layerType(compression.format)
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: { mediaType: OCI_CONFIG, digest: config.digest, size: config.size },
      layers: layers.map(({ digest, size }) => ({ mediaType, digest, size })),
    }),
  )
  const manifest = { bytes, digest: digestOf(bytes), mediaType: OCI_MANIFEST }
  const without = images.filter((image) => !published.has(image, config.digest))
  await putEverywhere(registry, without, config)
  await allOf(
    images.map(async (image) => {
      if (!published.has(image, manifest.digest))
        await registry.putManifest(image, manifest.digest, OCI_MANIFEST, bytes)
    }),
  )
  // Tags only when every registry has everything.
  if (tag !== undefined) await allOf(images.map((image) => putTag(registry, image, tag, manifest)))
  return { manifest, configDigest: config.digest }
}

/** A tag may be immutable: then even the same image can't be pushed to it again, and need not be. */
async function putTag(registry: Registry, image: Repository, tag: string, manifest: StoredManifest): Promise<void> {
  const there = await registry.getManifest(image, tag)
  if (there?.digest === manifest.digest) return
  await registry.putManifest(image, tag, manifest.mediaType, manifest.bytes)
}

function configBlob({ configBytes }: DockerArchive, labels: Readonly<Record<string, string>>): Blob {
  const bytes = Object.keys(labels).length === 0 ? configBytes : withLabels(configBytes, labels)
  return { digest: digestOf(bytes), size: bytes.length, open: () => Readable.from([bytes], { objectMode: false }) }
}

function withLabels(configBytes: Buffer, labels: Readonly<Record<string, string>>): Buffer {
  const image = JSON.parse(configBytes.toString('utf8'))
  const config = { ...image.config, Labels: { ...image.config?.Labels, ...labels } }
  return Buffer.from(JSON.stringify({ ...image, config }))
}

function shorten(digest: Digest): string {
  return digest.slice('sha256:'.length, 'sha256:'.length + 12)
}
