import type { Writable } from 'node:stream'
import { loginStep } from '../actions/advice.ts'
import { estimateCompressed } from '../compress/estimate.ts'
import { keepsLayersUncompressed, loadedImage, loadImage, PUSH_STRAIGHT, pushTag, tagImage } from '../docker/docker.ts'
import { MORE_SPACE } from '../fs/disk.ts'
import { ImageError } from '../image/image-error.ts'
import { type ImageSource, readImage } from '../image/source.ts'
import type { SourceImage, TakeLayer } from '../image/source-image.ts'
import type { Log } from '../log.ts'
import type { Tools } from '../modes/mode.ts'
import type { Digest } from '../oci/digest.ts'
import type { Platform } from '../oci/platform.ts'
import { formatReference, type Repository } from '../oci/reference.ts'
import { fetchImage, type PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { formatBytes } from '../units.ts'
import type { Pushed, Pushing } from './pushing.ts'
import { checkReplaced } from './tag.ts'

/**
 * Pushes an image by Docker: load, tag, push, and a look at the registry for what has come of it.
 * @param tag Docker can push nothing without one
 */
export async function pushWithDocker({ source, images, tag, platform, check }: Pushing, tools: Tools): Promise<Pushed> {
  tools.log.info(`Docker loads ${source.path}`)
  const sizes = (await keepsLayersUncompressed()) ? createSizes() : undefined
  let size = 0
  const take: TakeLayer = async (layer) => {
    size += layer.size
    await sizes?.take(layer)
  }
  const archive = await load(source, take)
  check(archive)
  if (archive.manifest?.alone === false)
    throw new ImageError({
      message: `${source.path} has images for several platforms, and Docker can't push one of them alone`,
      hint: PUSH_STRAIGHT,
    })
  sizes?.warn(archive, tools.log)
  const name = await loadedImage(archive.configDigest, archive.names)
  const pushed: PublishedImage[] = []
  for (const image of images) pushed.push(await push(name, { image, tag, platform, archive, size }, tools))
  return { images: pushed }
}

/** Has Docker load the image, and says what helps where its own words tell. */
async function load(source: ImageSource, take: TakeLayer): Promise<SourceImage> {
  let isLayout = false
  // Docker gets the image's bytes while they are read here, so that a script that streams them runs once.
  const feed = async (stdin: Writable) => {
    const archive = await readImage(source, { copy: stdin, take })
    isLayout = archive.manifest !== undefined
    return archive
  }
  return loadImage(feed, (detail) => adviceOn(detail, isLayout))
}

/** What helps, by Docker's words on why it can't load an image. */
function adviceOn(detail: string, isLayout: boolean): string | undefined {
  if (/no space left on device/i.test(detail))
    return `The disk that Docker keeps images on is full. ${PUSH_STRAIGHT} Or make room: docker image prune --all removes the images that no container uses. ${MORE_SPACE}`
  // containerd's image store takes layouts, and Docker's own does not. Older versions take it for an archive of the oldest
  // form, in which files are missing.
  if (isLayout && /no such file or directory|does not contain a manifest\.json/i.test(detail))
    return `It is an OCI layout, which this Docker does not load. ${PUSH_STRAIGHT}`
  return undefined
}

interface Sizes {
  readonly take: TakeLayer
  warn(archive: SourceImage, log: Log): void
}

/** Learns what layers come to, with and without compression, while they go by. */
function createSizes(): Sizes {
  const sizes = new Map<string, { readonly plain: number; readonly compressed: number }>()
  return {
    async take({ name, size, content }) {
      sizes.set(name, { plain: size, compressed: await estimateCompressed(content()) })
    },
    warn({ layers }, log) {
      const known = layers.flatMap(({ name }) => sizes.get(name) ?? [])
      const plain = formatBytes(known.reduce((sum, one) => sum + one.plain, 0))
      const compressed = formatBytes(known.reduce((sum, one) => sum + one.compressed, 0))
      log.warning(
        `This Docker keeps images in containerd's store, and pushes layers as Nix made them: ${plain} in place of about ${compressed}. Leave \`push-with: docker\` out, and they are compressed.`,
      )
    },
  }
}

interface ImagePush {
  readonly image: Repository
  readonly tag: string
  readonly platform: Platform
  readonly archive: SourceImage
  /** Of all layers, in bytes. */
  readonly size: number
}

async function push(
  name: string,
  { image, tag, platform, archive, size }: ImagePush,
  { registry, log }: Tools,
): Promise<PublishedImage> {
  const reference = formatReference({ repository: image, tag })
  const place = { repository: image, tag }
  const there = await registry.getManifest(image, tag)
  if (there !== undefined) await checkReplaced(registry, there, place, platform)
  const same = there && (await findSame(image, there.digest, archive, registry))
  if (same !== undefined) {
    log.info(`${reference} is this image already: ${same.digest}`)
    return same
  }
  await tagImage(name, reference)
  const loginHelp = `Log in before this step:\n${loginStep(image.host)}`
  const digest = await log.foreignGroup(`Push ${reference}`, () =>
    pushTag({ reference, size, loginHelp, existing: there?.digest }, log),
  )
  const published = await fetchImage(registry, image, digest, { written: true })
  // The daemon may have been told of another image by that name in the meantime, by another job for example.
  if (published.configDigest !== archive.configDigest)
    throw new RegistryError({
      host: image.host,
      problem: 'other',
      message: `${reference} is not the image that Nix built`,
      detail: `its config is ${published.configDigest}, and should be ${archive.configDigest}`,
      hint: 'Another job may have used the same Docker daemon at the same time. Run this job again; no tag that users pull has moved.',
    })
  log.info(`${reference} is ${published.digest}`)
  return published
}

/** A tag may be immutable: then even the same image can't be pushed to it again, and need not be. */
async function findSame(
  image: Repository,
  digest: Digest,
  { configDigest }: SourceImage,
  registry: Registry,
): Promise<PublishedImage | undefined> {
  const published = await fetchImage(registry, image, digest).catch(() => undefined)
  return published?.configDigest === configDigest ? published : undefined
}
