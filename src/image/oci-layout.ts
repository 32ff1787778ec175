import { FormatError, ImageError } from '../errors.ts'
import {
  type Descriptor,
  isAttestation,
  isIndexType,
  isManifestType,
  OCI_CONFIG,
  OCI_INDEX,
  parseConfig,
  parseManifest,
} from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform, samePlatform } from '../oci/platform.ts'
import { type Digest, digestOf } from '../oci/reference.ts'
import { readImageConfig, requireDocument } from './documents.ts'
import { type Contents, damagedImage, formatNames, type SourceImage } from './source-image.ts'

/**
 * Returns the image of an OCI layout, from its index.json.
 * Source: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 * @param platform selects the image if the layout has several
 * @throws ImageError if the layout is damaged or does not have exactly one matching image
 */
export async function imageOfLayout(contents: Contents, path: string, platform?: Platform): Promise<SourceImage> {
  const index = await requireDocument('index.json', contents, 'its index.json', path)
  const images = await listImages(contents, { bytes: index, mediaType: OCI_INDEX, name: 'its index.json' }, path)
  const descriptor = await chooseImage(images, contents, path, platform)
  const bytes = await documentOf(contents, descriptor, path)
  const manifest = parseLayoutManifest(bytes, descriptor.mediaType, `its manifest ${descriptor.digest}`, path)
  if (manifest.kind === 'index') throw damagedImage(path, `its manifest ${descriptor.digest} is an index`)
  const configBytes = await documentOf(contents, manifest.config, path)
  const config = readImageConfig(configBytes, manifest.config.digest, path)
  if (manifest.layers.length !== config.diffIds.length)
    throw damagedImage(path, `it has ${manifest.layers.length} layers, and its config lists ${config.diffIds.length}`)
  for (const layer of manifest.layers) await requireLayer(contents, layer, path)
  return {
    names: [],
    config,
    configDigest: manifest.config.digest,
    configBytes,
    layerNames: manifest.layers.map(({ digest }) => blobName(digest)),
    manifest: {
      bytes,
      mediaType: manifest.mediaType,
      annotations: manifest.annotations,
      layers: manifest.layers,
      alone: images.length === 1,
    },
  }
}

/** How many manifests an index may list. Each may have to be read. */
const LISTED_LIMIT = 1000

interface Document {
  readonly bytes: Buffer
  readonly mediaType: string
  readonly name: string
}

/**
 * Lists the images of an index and of the indexes that it lists, without attestations and signatures.
 * @param seen the manifests listed so far: an image with two names is listed twice
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
    if (seen.size > LISTED_LIMIT) throw damagedImage(path, `it lists more than ${LISTED_LIMIT} manifests`)
    if (!isIndexDescriptor(one)) images.push(one)
    else {
      if (depth > 2) throw damagedImage(path, 'its indexes are nested too deeply')
      const bytes = await documentOf(contents, one, path)
      const inner = { bytes, mediaType: one.mediaType, name: `its index ${one.digest}` }
      images.push(...(await listImages(contents, inner, path, seen, depth + 1)))
    }
  }
  return images
}

function isIndexDescriptor({ mediaType }: Descriptor): boolean {
  return mediaType.includes('index') || mediaType.includes('manifest.list')
}

/** Returns the images, and the indexes of images, that an index lists. */
async function listedBy(
  { bytes, mediaType, name }: Document,
  contents: Contents,
  path: string,
): Promise<readonly Descriptor[]> {
  const index = parseLayoutManifest(bytes, mediaType, name, path)
  if (index.kind === 'manifest') throw damagedImage(path, `${name} is not an index`)
  if (index.manifests.length > LISTED_LIMIT)
    throw damagedImage(path, `${name} lists ${index.manifests.length} manifests; the limit is ${LISTED_LIMIT}`)
  const listed = index.manifests.filter((one) => !isAttestation(one))
  const distinct = [...new Map(listed.map((one) => [one.digest, one])).values()]
  // A manifest that is listed alone is meant to be an image.
  if (distinct.length === 1) return distinct
  const images: Descriptor[] = []
  for (const one of distinct) if (await mayBeImage(one, contents, path)) images.push(one)
  return images
}

/**
 * Chooses the image for a platform. A single image is chosen whatever its platform, which the caller checks.
 * @throws ImageError if none or several match
 */
async function chooseImage(
  images: readonly Descriptor[],
  contents: Contents,
  path: string,
  wanted: Platform | undefined,
): Promise<Descriptor> {
  const [only, ...more] = images
  if (only === undefined) throw damagedImage(path, 'its index.json lists no image')
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

/** Reads the platforms that the index leaves out from the images' configs. A config that several images share is read once. */
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

/** Returns undefined if the image's manifest is missing or invalid. */
async function configOf({ digest, mediaType }: Descriptor, contents: Contents): Promise<Digest | undefined> {
  const bytes = await contents.document(blobName(digest))
  const manifest = bytes && ifValid(() => parseManifest(bytes, mediaType, digest))
  return manifest?.kind === 'manifest' ? manifest.config.digest : undefined
}

/** Returns undefined if the config is missing or invalid. */
async function configPlatform(config: Digest, contents: Contents): Promise<Platform | undefined> {
  const bytes = await contents.document(blobName(config))
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
  return formatNames(
    images.map(({ image, platform }) => `${image.digest}${platform ? ` for ${formatPlatform(platform)}` : ''}`),
    '\n',
  )
}

/**
 * Reports whether a descriptor may be of an image. Signatures and SBOMs that are listed beside an image have an
 * `artifactType`, a manifest whose config and layers have other media types, or another media type themselves.
 * Source: https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
 */
async function mayBeImage(
  { artifactType, digest, mediaType }: Descriptor,
  contents: Contents,
  path: string,
): Promise<boolean> {
  if (artifactType !== undefined && !IMAGE_CONFIGS.has(artifactType)) return false
  if (!isManifestType(mediaType) && !isIndexType(mediaType)) return false
  const bytes = await contents.document(blobName(digest))
  if (bytes === undefined) return true
  const manifest = parseLayoutManifest(bytes, mediaType, `its manifest ${digest}`, path)
  if (manifest.kind === 'index') return true
  const { config, layers } = manifest
  return IMAGE_CONFIGS.has(config.mediaType) && (layers.length === 0 || layers.some((one) => isLayer(one.mediaType)))
}

const IMAGE_CONFIGS: ReadonlySet<string> = new Set([OCI_CONFIG, 'application/vnd.docker.container.image.v1+json'])

/** Matches layers of all compressions and encryptions. */
function isLayer(mediaType: string): boolean {
  return /^application\/vnd\.(oci\.image\.layer|docker\.image\.rootfs)\./.test(mediaType)
}

function parseLayoutManifest(
  bytes: Buffer,
  mediaType: string,
  name: string,
  path: string,
): ReturnType<typeof parseManifest> {
  try {
    return parseManifest(bytes, mediaType, name)
  } catch (error) {
    if (error instanceof FormatError) throw damagedImage(path, error.parts.message, error)
    throw error
  }
}

async function documentOf(contents: Contents, { digest, size }: Descriptor, path: string): Promise<Buffer> {
  const bytes = await requireDocument(blobName(digest), contents, digest, path)
  if (bytes.length !== size) throw damagedImage(path, `${digest} has ${bytes.length} bytes instead of ${size}`)
  if (digestOf(bytes) !== digest) throw damagedImage(path, `the content of ${digest} does not match its digest`)
  return bytes
}

async function requireLayer(contents: Contents, { digest, size }: Descriptor, path: string): Promise<void> {
  const member = await contents.member(blobName(digest))
  if (member?.type !== 'file') throw damagedImage(path, `its layer ${digest} is missing`)
  if (member.size !== size)
    throw damagedImage(path, `its layer ${digest} has ${member.size} bytes, and its manifest says ${size}`)
}

function blobName(digest: Digest): string {
  return `blobs/${digest.replace(':', '/')}`
}

/** Reports whether a file is a blob of an OCI layout. Its manifests say which image the blob belongs to, if any. */
export function isBlobName(name: string): boolean {
  return name.startsWith('blobs/sha256/')
}
