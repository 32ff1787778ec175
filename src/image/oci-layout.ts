import { join } from 'node:path'
import { contentOf, openRegularFile, type RegularFile, readWhole, resolveWithin } from '../fs/regular-file.ts'
import { type Digest, digestOf } from '../oci/digest.ts'
import { type Descriptor, isAttestation, parseConfig, parseManifest } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import { isIndexType, isManifestType, OCI_CONFIG, OCI_INDEX } from '../oci/media-type.ts'
import { fits, formatPlatform, type Platform, samePlatform } from '../oci/platform.ts'
import { readConfig } from './config.ts'
import { DOCUMENT_LIMIT, DOCUMENTS_LIMIT, documentCalled, isDocument } from './documents.ts'
import { ImageError } from './image-error.ts'
import { type Contents, damaged, listOf, type SourceImage, type SourceLayer, type TakeLayer } from './source-image.ts'

/**
 * The image of an OCI layout, by its index.json.
 * Source: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 * @param wanted the platform whose image is read if the layout has several images
 * @throws ImageError if the layout is damaged, or does not have exactly one image to choose
 */
export async function imageOfLayout(contents: Contents, path: string, wanted?: Platform): Promise<SourceImage> {
  const index = await documentCalled('index.json', contents, 'its index.json', path)
  const images = await listImages(contents, { bytes: index, mediaType: OCI_INDEX, name: 'its index.json' }, path)
  const descriptor = await chooseImage(images, contents, path, wanted)
  const bytes = await documentOf(contents, descriptor, path)
  const manifest = parse(bytes, descriptor.mediaType, `its manifest ${descriptor.digest}`, path)
  if (manifest.kind === 'index') throw damaged(path, `its manifest ${descriptor.digest} is an index`)
  const configBytes = await documentOf(contents, manifest.config, path)
  const config = readConfig(configBytes, manifest.config.digest, path)
  if (manifest.layers.length !== config.diffIds.length)
    throw damaged(path, `it has ${manifest.layers.length} layers, and its config lists ${config.diffIds.length}`)
  const layers: SourceLayer[] = []
  for (const blob of manifest.layers) layers.push({ name: await existing(contents, blob, path), blob })
  return {
    names: [],
    config,
    configDigest: manifest.config.digest,
    configBytes,
    layers,
    manifest: { bytes, mediaType: manifest.mediaType, annotations: manifest.annotations, alone: images.length === 1 },
  }
}

/**
 * Reads an OCI layout that is a folder.
 * @param root as for `openRegularFile`
 * @param wanted as for `imageOfLayout`
 * @throws ImageError
 */
export async function readLayoutFolder(
  path: string,
  root: string,
  take: TakeLayer = async () => undefined,
  wanted?: Platform,
): Promise<SourceImage> {
  const image = await imageOfLayout(contentsOfFolder(path, root), path, wanted)
  for (const { name, blob } of new Map(image.layers.map((layer) => [layer.name, layer])).values())
    await take({ name, size: blob?.size ?? 0, content: () => contentAt(join(path, name), root) })
  return image
}

async function* contentAt(path: string, root: string): AsyncGenerator<Buffer> {
  yield* contentOf(await openRegularFile(path, root), path)
}

/** Reads only the files that the image consists of: the folder may hold countless others. */
function contentsOfFolder(path: string, root: string): Contents {
  let read = 0
  async function open(name: string): Promise<RegularFile | undefined> {
    const place = await resolveWithin(join(path, name), root)
    return place === undefined ? undefined : openRegularFile(place, root)
  }
  return {
    async member(name) {
      const file = await open(name)
      await file?.handle.close()
      return file && { type: 'file', target: '', size: file.size }
    },
    async document(name) {
      const file = await open(name)
      try {
        // Layers begin with other bytes; of what is large nothing is a document.
        if (file === undefined || file.size > DOCUMENT_LIMIT) return undefined
        read += file.size
        if (read > DOCUMENTS_LIMIT) throw damaged(path, `it has more than ${DOCUMENTS_LIMIT} bytes of JSON`)
        const bytes = await readWhole(file, join(path, name))
        return isDocument(name, bytes) ? bytes : undefined
      } finally {
        await file?.handle.close()
      }
    },
  }
}

/** An index of one image lists some; each of them may have to be read. */
const LISTED_LIMIT = 1000

interface Document {
  readonly bytes: Buffer
  readonly mediaType: string
  readonly name: string
}

/**
 * Lists the images that an index leads to, by other indexes as well, without attestations, signatures and the like.
 * @param seen what was listed before: an image with two names is listed twice
 */
async function listImages(
  contents: Contents,
  index: Document,
  path: string,
  seen = new Set<Digest>(),
  depth = 0,
): Promise<readonly Descriptor[]> {
  const images: Descriptor[] = []
  for (const one of await listedBy(index, contents, path)) {
    if (seen.has(one.digest)) continue
    seen.add(one.digest)
    if (seen.size > LISTED_LIMIT) throw damaged(path, `it lists more than ${LISTED_LIMIT} manifests`)
    if (!isListOfImages(one)) images.push(one)
    else {
      if (depth > 2) throw damaged(path, 'its indexes lead to one another')
      const bytes = await documentOf(contents, one, path)
      const inner = { bytes, mediaType: one.mediaType, name: `its index ${one.digest}` }
      images.push(...(await listImages(contents, inner, path, seen, depth + 1)))
    }
  }
  return images
}

function isListOfImages({ mediaType }: Descriptor): boolean {
  return mediaType.includes('index') || mediaType.includes('manifest.list')
}

/** What one index lists as images or as indexes of them. */
async function listedBy(
  { bytes, mediaType, name }: Document,
  contents: Contents,
  path: string,
): Promise<readonly Descriptor[]> {
  const index = parse(bytes, mediaType, name, path)
  if (index.kind === 'manifest') throw damaged(path, `${name} is no index`)
  if (index.manifests.length > LISTED_LIMIT)
    throw damaged(path, `${name} lists ${index.manifests.length} manifests, at most ${LISTED_LIMIT} are read`)
  const listed = index.manifests.filter((one) => !isAttestation(one))
  const distinct = [...new Map(listed.map((one) => [one.digest, one])).values()]
  // One alone is what was meant to be an image, whatever its manifest says.
  if (distinct.length === 1) return distinct
  const images: Descriptor[] = []
  for (const one of distinct) if (await mayBeImage(one, contents, path)) images.push(one)
  return images
}

/**
 * Chooses the image for a platform. An image that is alone is chosen whatever its platform: who asked for it checks that.
 * @throws ImageError if none or several of them fit
 */
async function chooseImage(
  images: readonly Descriptor[],
  contents: Contents,
  path: string,
  wanted: Platform | undefined,
): Promise<Descriptor> {
  const [only, ...more] = images
  if (only === undefined) throw damaged(path, 'its index.json lists no image')
  if (more.length === 0) return only
  const placed = await placeImages(images, contents)
  const fitting = wanted === undefined ? placed : placed.filter(({ platform }) => platform && fits(platform, wanted))
  // An image for amd64/v3 fits amd64 as well, but not as well as one for amd64.
  const exact = fitting.filter(({ platform }) => platform && wanted && samePlatform(platform, wanted))
  const chosen = exact.length === 1 ? exact[0] : fitting.length === 1 ? fitting[0] : undefined
  if (chosen !== undefined) return chosen.image
  const suffix = wanted === undefined ? '' : ` for ${formatPlatform(wanted)}`
  if (fitting.length === 0)
    throw new ImageError({
      message: `${path} has no image${suffix}`,
      detail: formatImages(placed),
      hint: 'Nothing was pushed. Add the image for that platform to what Nix builds, or build only for the systems that are listed.',
    })
  throw new ImageError({
    message: `${path} has ${fitting.length} images${suffix}, and only one can be pushed`,
    detail: formatImages(placed),
    hint: 'Build each image by its own attribute.',
  })
}

interface PlacedImage {
  readonly image: Descriptor
  /** Absent if neither the index nor the image's config says. */
  readonly platform: Platform | undefined
}

/** Finds the platforms that the index leaves out in the images' configs. Many images may name one config: it is read once. */
async function placeImages(images: readonly Descriptor[], contents: Contents): Promise<readonly PlacedImage[]> {
  const placed: PlacedImage[] = []
  const known = new Map<Digest, Platform | undefined>()
  for (const image of images) {
    const config = image.platform === undefined ? await configOf(image, contents) : undefined
    if (config !== undefined && !known.has(config)) known.set(config, await configPlatform(config, contents))
    placed.push({ image, platform: image.platform ?? (config && known.get(config)) })
  }
  return placed
}

/** Returns nothing if the layout does not have the image's manifest, or that is not one. */
async function configOf({ digest, mediaType }: Descriptor, contents: Contents): Promise<Digest | undefined> {
  const bytes = await contents.document(nameOf(digest))
  const manifest = bytes && ifValid(() => parseManifest(bytes, mediaType, digest))
  return manifest?.kind === 'manifest' ? manifest.config.digest : undefined
}

/** Returns nothing if the layout does not have the config, or that is not one. */
async function configPlatform(config: Digest, contents: Contents): Promise<Platform | undefined> {
  const bytes = await contents.document(nameOf(config))
  return bytes && ifValid(() => parseConfig(bytes, config))
}

function ifValid<Value>(read: () => Value): Value | undefined {
  try {
    return read()
  } catch (error) {
    if (error instanceof FormatError) return undefined
    throw error
  }
}

function formatImages(images: readonly PlacedImage[]): string {
  return listOf(
    images.map(({ image, platform }) => `${image.digest}${platform ? ` for ${formatPlatform(platform)}` : ''}`),
    '\n',
  )
}

/**
 * Whether an index may list an image by this. Signatures and SBOMs are listed beside theirs: with an `artifactType`, by a
 * manifest whose config or layers are none of an image, or by what is no manifest.
 * Source: https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
 */
async function mayBeImage(
  { artifactType, digest, mediaType }: Descriptor,
  contents: Contents,
  path: string,
): Promise<boolean> {
  if (artifactType !== undefined && !IMAGE_CONFIGS.has(artifactType)) return false
  if (!isManifestType(mediaType) && !isIndexType(mediaType)) return false
  const bytes = await contents.document(nameOf(digest))
  if (bytes === undefined) return true
  const manifest = parse(bytes, mediaType, `its manifest ${digest}`, path)
  if (manifest.kind === 'index') return true
  const { config, layers } = manifest
  return IMAGE_CONFIGS.has(config.mediaType) && (layers.length === 0 || layers.some((one) => isLayer(one.mediaType)))
}

const IMAGE_CONFIGS: ReadonlySet<string> = new Set([OCI_CONFIG, 'application/vnd.docker.container.image.v1+json'])

/** Whatever it is compressed or encrypted with. */
function isLayer(mediaType: string): boolean {
  return /^application\/vnd\.(oci\.image\.layer|docker\.image\.rootfs)\./.test(mediaType)
}

function parse(bytes: Buffer, mediaType: string, name: string, path: string): ReturnType<typeof parseManifest> {
  try {
    return parseManifest(bytes, mediaType, name)
  } catch (error) {
    if (error instanceof FormatError) throw damaged(path, error.parts.message, error)
    throw error
  }
}

async function documentOf(contents: Contents, { digest, size }: Descriptor, path: string): Promise<Buffer> {
  const bytes = await documentCalled(nameOf(digest), contents, digest, path)
  if (bytes.length !== size) throw damaged(path, `${digest} has ${bytes.length} bytes, and what lists it says ${size}`)
  if (digestOf(bytes) !== digest) throw damaged(path, `${digest} has another content than its name says`)
  return bytes
}

async function existing(contents: Contents, { digest, size }: Descriptor, path: string): Promise<string> {
  const name = nameOf(digest)
  const member = await contents.member(name)
  if (member?.type !== 'file') throw damaged(path, `its layer ${digest} is missing`)
  if (member.size !== size)
    throw damaged(path, `its layer ${digest} has ${member.size} bytes, and its manifest says ${size}`)
  return name
}

function nameOf(digest: Digest): string {
  return `blobs/${digest.replace(':', '/')}`
}

/** Whether a file is a blob by its name: which image of the layout it belongs to, if any, is up to the manifests. */
export function isBlobName(name: string): boolean {
  return name.startsWith('blobs/sha256/')
}
