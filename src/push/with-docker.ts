import type { Writable } from 'node:stream'
import { deflateRawSync } from 'node:zlib'
import { loginStep, MORE_SPACE, UNIQUE_TAG } from '../advice.ts'
import { keepsLayersUncompressed, loadedImage, loadImage, PUSH_WITHOUT_DOCKER, tagImage } from '../docker/docker.ts'
import { pushTag } from '../docker/push.ts'
import { ImageError } from '../errors.ts'
import { openImage } from '../image/open-image.ts'
import type { LayerFile, SourceImage } from '../image/source-image.ts'
import { type JobLog, type Log, withProgress } from '../log.ts'
import { type Digest, formatReference, type Repository } from '../oci/reference.ts'
import { fetchImage, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import type { RegistryWrite } from '../registry/writes.ts'
import { formatBytes } from '../text.ts'
import type { PushedImage } from './image.ts'
import type { PushRequest } from './layers.ts'
import { checkReplaced } from './tag.ts'

/** A push with Docker. */
export interface DockerPush extends PushRequest {
  /** Receives the write of each tag. */
  readonly onWrite: (write: RegistryWrite) => void
}

/**
 * Loads an image into Docker, tags it, pushes it to each repository, and reads the result from the registry.
 * @param request with a tag, without which Docker can't push
 */
export async function pushWithDocker(request: DockerPush, registry: Registry, log: JobLog): Promise<PushedImage> {
  const { source, images, check } = request
  log.info(`Docker loads ${source.path}`)
  const sizes = (await keepsLayersUncompressed()) ? createSizes() : undefined
  const load = () => loadIntoDocker(request, sizes)
  const { image, size } = await withProgress(log, 'loading the image into Docker', load)
  check(image)
  if (image.manifest?.alone === false)
    throw new ImageError({
      message: `${source.path} has images for several platforms, and Docker can't push only one of them`,
      hint: PUSH_WITHOUT_DOCKER,
    })
  sizes?.warn(image, log)
  const name = await loadedImage(image.configDigest, image.names)
  const pushed: PublishedImage[] = []
  for (const repository of images) pushed.push(await pushTo(repository, name, { request, image, size }, registry, log))
  return { images: pushed }
}

interface LoadedImage {
  readonly image: SourceImage
  /** Of all layers, in bytes. */
  readonly size: number
}

async function loadIntoDocker({ source, platform }: PushRequest, sizes: Sizes | undefined): Promise<LoadedImage> {
  let isLayout = false
  // Docker receives a copy of what is read here, so that a script that streams the image runs once.
  const feed = async (copy: Writable): Promise<LoadedImage> => {
    const opened = openImage(source, { platform, copy })
    let size = 0
    for await (const file of opened.layers) {
      size += file.size
      await sizes?.add(file)
    }
    const image = await opened.image()
    isLayout = image.manifest !== undefined
    return { image, size }
  }
  return loadImage(feed, (detail) => adviceOnLoading(detail, isLayout))
}

/** Returns a hint for an error of `docker load`. */
function adviceOnLoading(detail: string, isLayout: boolean): string | undefined {
  if (/no space left on device/i.test(detail))
    return `The disk on which Docker stores images is full. ${PUSH_WITHOUT_DOCKER} Or free space: docker image prune --all removes the images that no container uses. ${MORE_SPACE}`
  // Only containerd's image store loads OCI layouts. Older versions of Docker read one as an incomplete legacy archive.
  if (isLayout && /no such file or directory|does not contain a manifest\.json/i.test(detail))
    return `It is an OCI layout, which this version of Docker can't load. ${PUSH_WITHOUT_DOCKER}`
  return undefined
}

/** Estimates how large layers are with and without compression. */
interface Sizes {
  add(file: LayerFile): Promise<void>
  warn(image: SourceImage, log: Log): void
}

function createSizes(): Sizes {
  const sizes = new Map<string, { readonly stored: number; readonly compressed: number }>()
  return {
    async add({ name, size, content }) {
      sizes.set(name, { stored: size, compressed: await estimateCompressed(content()) })
    },
    warn({ layerNames }, log) {
      const known = layerNames.flatMap((name) => sizes.get(name) ?? [])
      const stored = formatBytes(known.reduce((sum, one) => sum + one.stored, 0))
      const compressed = formatBytes(known.reduce((sum, one) => sum + one.compressed, 0))
      log.warning(
        `This Docker uses containerd's image store, which pushes layers uncompressed: ${stored} instead of about ${compressed}. Remove \`push-with: docker\` to push them compressed.`,
      )
    },
  }
}

const IMMUTABLE_TAG = `The tag may be immutable. Push by digest only, without Docker:
  push-with: registry
  tag: ""
Or ${UNIQUE_TAG}`

async function pushTo(
  repository: Repository,
  name: string,
  { request: { tag, platform, onWrite }, image, size }: LoadedImage & { readonly request: DockerPush },
  registry: Registry,
  log: JobLog,
): Promise<PublishedImage> {
  const place = { repository, tag }
  const reference = formatReference(place)
  const existing = await registry.getManifest(repository, tag)
  if (existing !== undefined) await checkReplaced(registry, existing, place, platform)
  const same = existing && (await findSameImage(repository, existing.digest, image, registry))
  if (same !== undefined) {
    log.info(`${reference} is this image already: ${same.digest}`)
    return same
  }
  await tagImage(name, reference)
  const hints = { denied: `Log in before this step:\n${loginStep(repository.host)}`, immutable: IMMUTABLE_TAG }
  const write = { repository, kind: 'tag', reference: tag } as const
  onWrite({ ...write, state: 'started' })
  const digest = await log.groupToolOutput(`Push ${reference}`, () =>
    pushTag({ reference, size, hints, existing: existing?.digest }, log),
  )
  onWrite({ ...write, state: 'done' })
  const published = await fetchImage(registry, repository, digest, { retryNotFound: true })
  // Another job may have tagged another image with this name in the meantime.
  if (published.configDigest !== image.configDigest)
    throw new RegistryError({
      host: repository.host,
      problem: 'other',
      message: `${reference} is not the image that Nix built`,
      detail: `its config is ${published.configDigest} instead of ${image.configDigest}`,
      hint: 'Another job may have used the same Docker daemon at the same time. Run this job again; no tag that users pull has moved.',
    })
  log.info(`Pushed ${reference}: ${published.digest}`)
  return published
}

/** Finds the image that the tag points to: an immutable tag does not accept even the same image again. */
async function findSameImage(
  repository: Repository,
  digest: Digest,
  { configDigest }: SourceImage,
  registry: Registry,
): Promise<PublishedImage | undefined> {
  const published = await fetchImage(registry, repository, digest).catch(() => undefined)
  return published?.configDigest === configDigest ? published : undefined
}

/** The first 64 KiB of each MiB are compressed. */
const PERIOD = 1024 * 1024
const SAMPLE = 64 * 1024

/** Estimates the size of a layer in gzip, in bytes, from the compression ratio of samples. */
export async function estimateCompressed(content: AsyncIterable<Buffer>): Promise<number> {
  let size = 0
  let sampled = 0
  let compressed = 0
  for await (const chunk of content) {
    // A chunk may contain several samples, or part of one.
    for (let at = 0; at < chunk.length; ) {
      const inPeriod = (size + at) % PERIOD
      const wanted = inPeriod < SAMPLE ? SAMPLE - inPeriod : 0
      const sample = chunk.subarray(at, at + wanted)
      if (sample.length > 0) {
        sampled += sample.length
        compressed += deflateRawSync(sample, { level: 4 }).length
      }
      at += wanted > 0 ? sample.length : PERIOD - inPeriod
    }
    size += chunk.length
  }
  return sampled === 0 ? 0 : Math.round((compressed / sampled) * size)
}
