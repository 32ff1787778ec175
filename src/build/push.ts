import { createHash } from 'node:crypto'
import { availableParallelism } from 'node:os'
import {
  type Compressing,
  type Compression,
  compressLayer,
  hashLayer,
  type UncompressedLayer,
  type Write,
} from '../blob/compress.ts'
import { createSlots } from '../blob/slots.ts'
import { createBlobStore, type StoredBlob } from '../blob/store.ts'
import { oneLine } from '../failure.ts'
import { decompress } from '../image/decompress.ts'
import { ImageError } from '../image/image-error.ts'
import { type ProbedLayer, probeLayer } from '../image/layer.ts'
import { type ImageSource, isSeekable, readImage } from '../image/source.ts'
import type { LayerMember, SourceImage, SourceLayer, TakeLayer } from '../image/source-image.ts'
import type { Log } from '../log.ts'
import { type Digest, digestOf } from '../oci/digest.ts'
import type { Descriptor } from '../oci/document.ts'
import { layerFormat, layerType, OCI_CONFIG, OCI_MANIFEST } from '../oci/media-type.ts'
import type { Repository } from '../oci/reference.ts'
import { allOf, putEverywhere } from '../registry/copy.ts'
import type { Blob, Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { printBytes } from '../units.ts'
import { labelledConfig } from './labels.ts'
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
  readonly check: (archive: SourceImage) => void
}

/** One layer, as the manifest lists it. */
export interface PushedLayer {
  readonly diffId: Digest
  readonly digest: Digest
  readonly format: 'gzip' | 'zstd'
  /** Compressed, in bytes. */
  readonly size: number
  /** Whether it was in every repository already. */
  readonly reused: boolean
}

export interface PushedImage {
  readonly archive: SourceImage
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
export async function checkImage(source: ImageSource): Promise<SourceImage> {
  const read = new Map<string, ReadLayer>()
  const archive = await readImage(source, {
    take: async (member) => void read.set(member.name, await readLayer(member, source)),
  })
  for (const [at, { name }] of archive.layers.entries()) {
    const layer = read.get(name)
    if (layer === undefined) throw noTar(name, source)
    checkDiffId(archive, at, layer.diffId, source)
    checkBlob(archive, at, layer, source)
  }
  return archive
}

/** A layer as it is in the archive. */
interface ReadLayer {
  readonly diffId: Digest
  readonly digest: Digest
  readonly format: LayerFormat
}

async function readLayer({ content }: LayerMember, source: ImageSource): Promise<ReadLayer> {
  const hash = createHash('sha256')
  const probed = await probeLayer(content())
  const { diffId } = await hashLayer(plain(probed, source, async (chunk) => void hash.update(chunk)))
  const digest: Digest = probed.compression === undefined ? diffId : `sha256:${hash.digest('hex')}`
  return { diffId, digest, format: keptFormat(probed) }
}

function noTar(name: string, { path }: ImageSource): ImageError {
  return new ImageError({ what: `${path} is damaged: its layer ${name} is no tar` })
}

/**
 * The bytes of the tar that a layer is, whatever it is compressed with.
 * @param write gets them as they are, where they are compressed
 */
function plain(
  { compression, content }: ProbedLayer,
  { path }: ImageSource,
  write: Write = async () => undefined,
): AsyncIterable<Buffer> {
  return compression === undefined ? content : decompress(compression, copyTo(write, content), path)
}

type LayerFormat = PushedLayer['format'] | undefined

/** How a layer is compressed that goes up as it is; registries take no xz. */
function keptFormat({ compression }: ProbedLayer): LayerFormat {
  return compression === 'xz' ? undefined : compression
}

/** Holds what goes up as it is against the manifest that lists it. */
function checkBlob(
  { layers }: SourceImage,
  at: number,
  { digest, format }: { readonly digest: Digest; readonly format: LayerFormat },
  { path }: ImageSource,
): void {
  const { name, blob } = layers[at] ?? {}
  const listed = blob && layerFormat(blob.mediaType)
  if (blob === undefined || listed === undefined) return
  if (format !== listed)
    throw new ImageError({
      what: `${path} is damaged: its layer ${name} is ${format ?? 'not compressed so'}, and its manifest says ${listed}`,
      help: 'Nothing was published. Build it anew: nix build --rebuild',
    })
  if (digest !== blob.digest)
    throw new ImageError({
      what: `${path} is damaged: its layer ${name} has another content than its name says`,
      words: `its digest is ${digest}`,
      help: 'Nothing was published. Build it anew: nix build --rebuild',
    })
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
): Promise<{ readonly archive: SourceImage; readonly layers: readonly PushedLayer[] }> {
  const { source, images, published, compression } = call
  const uploads = startUploads(call, registry, log)
  const taken = new Map<string, Taken>()
  const reusable = (diffId: Digest | undefined) => {
    const fits = ({ mediaType }: KnownBlob) => layerFormat(mediaType) === compression.format
    return diffId && reusableIn(published, diffId, images, fits)
  }

  async function push(member: LayerMember): Promise<void> {
    taken.set(member.name, await uploads.push(member))
  }

  /** That the registry has a blob does not make it the layer that the config lists: a failed attempt may have left it. */
  async function leave(archive: SourceImage, at: number, member: LayerMember, blob: Descriptor): Promise<void> {
    const read = await readLayer(member, source)
    checkBlob(archive, at, read, source)
    taken.set(member.name, { diffId: read.diffId, layer: uploads.leave(read.diffId, blob) })
  }

  /** Of what can be read as often as needed, all is known before the first layer: published ones are passed over. */
  function takeKnown(archive: SourceImage): TakeLayer {
    const publishedAs = (kept: Descriptor, diffId: Digest) =>
      reusableIn(published, diffId, images, ({ digest }) => digest === kept.digest)
    const asked = archive.layers.filter((layer, at) => {
      const [kept, diffId] = [keptBlob(layer), archive.config.diffIds[at]]
      return kept && diffId && publishedAs(kept, diffId) === undefined
    })
    const there = lookForKept(asked, images, registry)
    return async (member) => {
      const at = archive.layers.findIndex(({ name }) => name === member.name)
      const diffId = archive.config.diffIds[at]
      if (diffId === undefined) return
      const kept = keptBlob(archive.layers[at])
      const blob = kept ? publishedAs(kept, diffId) : reusable(diffId)
      if (blob !== undefined) taken.set(member.name, { diffId, layer: uploads.reuse(diffId, blob, member) })
      else if (kept && (await there.get(kept.digest))) await leave(archive, at, member, kept)
      else await push(member)
    }
  }

  /** Of what comes by once, names are a hint: Nix calls most layers by their diff IDs. */
  async function takeUnknown(member: LayerMember): Promise<void> {
    if (reusable(diffIdInName(member.name)) === undefined) return push(member)
    const { diffId } = await hashLayer(member.content())
    const blob = reusable(diffId)
    taken.set(member.name, { diffId, ...(blob && { layer: uploads.reuse(diffId, blob, member) }) })
  }

  async function read(): Promise<SourceImage> {
    if (isSeekable(source)) {
      const archive = await readImage(source)
      call.check(archive)
      return readImage(source, { take: takeKnown(archive) })
    }
    const archive = await readImage(source, { take: takeUnknown })
    call.check(archive)
    // A name that was that of a published layer, but not its own, leaves a layer that was read and not pushed.
    const missed = archive.layers.filter(({ name }) => taken.get(name)?.layer === undefined)
    const isMissed = (member: LayerMember) => missed.some(({ name }) => name === member.name)
    if (missed.length > 0)
      await readImage(source, { take: async (member) => (isMissed(member) ? push(member) : undefined) })
    return archive
  }

  try {
    const archive = await read()
    const layers = archive.layers.map(({ name }, at) => layerOf(archive, at, taken.get(name), source))
    return { archive, layers: await Promise.all(layers) }
  } finally {
    await uploads.settled()
  }
}

/** A layer of an OCI layout that is compressed already, and goes up as it is. */
function keptBlob(layer: SourceLayer | undefined): Descriptor | undefined {
  return layer?.blob && layerFormat(layer.blob.mediaType) !== undefined ? layer.blob : undefined
}

/** Which of the blobs that go up as they are, every repository has already. */
function lookForKept(
  layers: readonly SourceLayer[],
  images: readonly Repository[],
  registry: Registry,
): ReadonlyMap<Digest, Promise<boolean>> {
  const kept = new Set(layers.flatMap((layer) => keptBlob(layer)?.digest ?? []))
  return new Map(
    [...kept].map((digest) => {
      const looks = Promise.all(images.map((image) => registry.hasBlob(image, digest)))
      const everywhere = looks.then((found) => !found.includes(false))
      // Whoever does not get to this layer need not know.
      everywhere.catch(() => undefined)
      return [digest, everywhere]
    }),
  )
}

async function layerOf(
  archive: SourceImage,
  at: number,
  taken: Taken | undefined,
  source: ImageSource,
): Promise<PushedLayer> {
  const { name = '' } = archive.layers[at] ?? {}
  if (taken?.layer === undefined) throw noTar(name, source)
  checkDiffId(archive, at, taken.diffId ?? archive.config.diffIds[at], source)
  const layer = await taken.layer
  checkBlob(archive, at, layer, source)
  return layer
}

/** `<64 hexadecimal digits>/layer.tar`, as Nix's layered images have it. */
function diffIdInName(name: string): Digest | undefined {
  const [, hex] = /^([0-9a-f]{64})\/layer\.tar$/.exec(name) ?? []
  return hex === undefined ? undefined : `sha256:${hex}`
}

function checkDiffId(
  { config, layers }: SourceImage,
  at: number,
  diffId: Digest | undefined,
  source: ImageSource,
): void {
  const expected = config.diffIds[at]
  if (diffId === expected) return
  throw new ImageError({
    what: `${source.path} is damaged: its layer ${layers[at]?.name} is not the one that its config lists`,
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
  /** Tells of a layer that every registry has already. */
  leave(diffId: Digest, blob: Descriptor): Promise<PushedLayer>
  /** Resolves when nothing is under way any more, however it ended. */
  settled(): Promise<unknown>
}

function startUploads({ source, images, compression, tempFolder }: PushCall, registry: Registry, log: Log): Uploads {
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

  /** Compresses what is not compressed; the rest stays as it is. */
  async function pack(
    content: AsyncIterable<Buffer>,
    write: Write,
  ): Promise<Compressing & Pick<PushedLayer, 'format'>> {
    const probed = await probeLayer(content)
    const format = keptFormat(probed)
    if (format === undefined)
      return { ...(await compressLayer(plain(probed, source), compression, blocks, write)), format: compression.format }
    const layer = await hashLayer(plain(probed, source, write))
    return { layer, written: Promise.resolve(), format }
  }

  async function upload(blob: StoredBlob, { diffId, size }: UncompressedLayer): Promise<Omit<PushedLayer, 'format'>> {
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
        const { layer, written, format } = await pack(member.content(), writer.write)
        const uploaded = async () => {
          try {
            await written
            return { ...(await upload(writer.finish(), layer)), format }
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
          return reusedLayer(diffId, blob)
        }),
      )
    },
    async leave(diffId, blob) {
      log.info(`${shorten(diffId)}: ${printBytes(blob.size)}, is there already`)
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

/** Each chunk is gone with the next: who gets it later needs a copy. */
async function* copyTo(write: Write, content: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of content) {
    const own = Buffer.from(chunk)
    await write(own)
    yield own
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
  { images, tag, labels }: PushCall,
  archive: SourceImage,
  layers: readonly PushedLayer[],
  published: Published,
  registry: Registry,
): Promise<Pick<PushedImage, 'manifest' | 'configDigest'>> {
  const config = labelledConfig(archive.configBytes, labels)
  const manifest = ownManifest(archive, config, layers) ?? composeManifest(archive, config, layers)
  const { bytes, digest, mediaType } = manifest
  const without = images.filter((image) => !published.has(image, config.digest))
  await putEverywhere(registry, without, config)
  await allOf(
    images.map(async (image) => {
      if (!published.has(image, digest)) await registry.putManifest(image, digest, mediaType, bytes)
    }),
  )
  // Tags only when every registry has everything.
  if (tag !== undefined) await allOf(images.map((image) => putTag(registry, image, tag, manifest)))
  return { manifest, configDigest: config.digest }
}

/** The manifest that the image came with, where it is still true. */
function ownManifest(
  { manifest, configDigest, layers: own }: SourceImage,
  config: Blob,
  layers: readonly PushedLayer[],
): StoredManifest | undefined {
  const same =
    configDigest === config.digest &&
    // By the type as well: what is called a plain tar, and is not, went up as what it is.
    own.every((layer, at) => keptBlob(layer)?.digest === layers[at]?.digest)
  return manifest !== undefined && same ? { ...manifest, digest: digestOf(manifest.bytes) } : undefined
}

/** A manifest as it would have come with the image, with all that is said of it and of the layers that are still those. */
function composeManifest(
  { manifest, layers: own }: SourceImage,
  config: Blob,
  layers: readonly PushedLayer[],
): StoredManifest {
  const said = (annotations: Descriptor['annotations'] = {}) =>
    Object.keys(annotations).length > 0 ? { annotations } : undefined
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: { mediaType: OCI_CONFIG, digest: config.digest, size: config.size },
      layers: layers.map(({ digest, size, format }, at) => {
        const kept = keptBlob(own[at])
        return { mediaType: layerType(format), digest, size, ...(kept?.digest === digest && said(kept.annotations)) }
      }),
      ...said(manifest?.annotations),
    }),
  )
  return { bytes, digest: digestOf(bytes), mediaType: OCI_MANIFEST }
}

/** A tag may be immutable: then even the same image can't be pushed to it again, and need not be. */
export async function putTag(
  registry: Registry,
  image: Repository,
  tag: string,
  manifest: StoredManifest,
): Promise<void> {
  const there = await registry.getManifest(image, tag)
  if (there?.digest === manifest.digest) return
  await registry.putManifest(image, tag, manifest.mediaType, manifest.bytes)
}

function shorten(digest: Digest): string {
  return digest.slice('sha256:'.length, 'sha256:'.length + 12)
}
