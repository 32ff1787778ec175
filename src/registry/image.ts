import {
  type Descriptor,
  type Index,
  isAttestation,
  isAttestationOf,
  isForeignLayer,
  type Manifest,
  OCI_MANIFEST,
  parseConfig,
  parseManifest,
} from '../oci/manifest.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { type Digest, digestOf, formatReference, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import type { ReadOptions, Registry, StoredManifest } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/** The manifest of one platform's image in a registry. */
export interface ImageManifest {
  readonly repository: Repository
  readonly digest: Digest
  readonly mediaType: string
  /** In bytes. */
  readonly size: number
  /** From the image's config. */
  readonly platform: Platform
}

/** One platform's image in a registry. */
export interface PublishedImage extends ImageManifest {
  readonly configDigest: Digest
  readonly configBytes: Buffer
  /** From the image's config. */
  readonly labels: Readonly<Record<string, string>>
  readonly own: ManifestContent
  /** BuildKit's attestations about the image. */
  readonly attestations: readonly ManifestContent[]
}

/** A manifest and its blobs. */
export interface ManifestContent {
  readonly manifest: StoredManifest
  /** The entry for an index. */
  readonly descriptor: Descriptor
  /** The annotations of the manifest. Docker's manifests have none. */
  readonly annotations: Readonly<Record<string, string>>
  /** The config, then the layers. Excludes foreign layers, which registries don't store. */
  readonly blobs: readonly Descriptor[]
}

/** The maximum size of a config, in bytes. The same as for a manifest. */
export const CONFIG_LIMIT = 4 * 1024 * 1024

/** The maximum number of attestation manifests per image. BuildKit creates one, which lists all statements. */
const ATTESTATIONS_LIMIT = 64
/** The maximum total size of the attestation manifests of an image, in bytes. */
const ATTESTATIONS_SIZE_LIMIT = 16 * 1024 * 1024

/**
 * Reads the manifest and config of an image, and verifies their digests. An index of one image is read as that image:
 * Docker's containerd image store pushes such indexes (https://github.com/moby/moby/issues/51532), and BuildKit adds the
 * image's attestations (https://docs.docker.com/build/metadata/attestations/attestation-storage/).
 * @returns undefined if the digest does not exist
 * @throws RegistryError if a manifest or the config that it refers to does not exist
 * @throws FormatError if it is not an image
 */
export async function findImage(
  registry: Registry,
  repository: Repository,
  digest: Digest,
  options?: ReadOptions,
): Promise<PublishedImage | undefined> {
  const outer = await registry.getManifest(repository, digest, options)
  if (outer === undefined) return undefined
  const parsed = parseManifest(outer.bytes, outer.mediaType, formatReference({ repository, digest }))
  if (parsed.kind === 'manifest')
    return describeImage(registry, repository, manifestContent(outer, parsed), [], options)
  const only = singleImage(parsed, repository, digest)
  const name = formatReference({ repository, digest })
  const attested = attestationsOf(parsed.manifests, only, name, repository)
  const [[own] = [], attestations = []] = await settleAll([
    readListed(registry, repository, [only], options, name),
    readListed(registry, repository, attested, options, name),
  ])
  if (own === undefined) throw new Error('one manifest was read for each that was listed')
  return describeImage(registry, repository, own, attestations, options)
}

/**
 * Returns an image with the attestations that an index lists for it.
 * @param manifests the entries of the index
 * @throws RegistryError if one of them does not exist
 */
export async function withAttestations(
  registry: Registry,
  image: PublishedImage,
  manifests: readonly Descriptor[],
  options?: ReadOptions,
): Promise<PublishedImage> {
  const { repository, digest, own } = image
  const name = formatReference({ repository, digest })
  const listed = attestationsOf(manifests, own.descriptor, name, repository)
  return { ...image, attestations: await readListed(registry, repository, listed, options, name) }
}

/** Like `findImage`. @throws RegistryError also if the digest does not exist */
export async function fetchImage(
  registry: Registry,
  repository: Repository,
  digest: Digest,
  options?: ReadOptions,
): Promise<PublishedImage> {
  const image = await findImage(registry, repository, digest, options)
  if (image === undefined) throw notInRegistry(repository, digest, formatReference({ repository, digest }))
  return image
}

/** Returns the blobs of an image that its repository lacks. */
export async function missingBlobs(
  registry: Registry,
  image: PublishedImage,
  options?: ReadOptions,
): Promise<readonly Digest[]> {
  const digests = new Set([image.own, ...image.attestations].flatMap(({ blobs }) => blobs.map(({ digest }) => digest)))
  // The config was read with the image.
  digests.delete(image.configDigest)
  const looked = await settleAll(
    [...digests].map(async (digest) => ({ digest, found: await registry.hasBlob(image.repository, digest, options) })),
  )
  return looked.filter(({ found }) => !found).map(({ digest }) => digest)
}

/** Reports whether a repository has an image and all of its blobs. */
export async function isImageComplete(registry: Registry, repository: Repository, digest: Digest): Promise<boolean> {
  try {
    const image = await findImage(registry, repository, digest)
    return image !== undefined && (await missingBlobs(registry, image)).length === 0
  } catch (error) {
    if (error instanceof RegistryError && error.problem === 'not-found') return false
    throw error
  }
}

/** Returns the error of an image, or a part of one, that does not exist in its repository. */
export function notInRegistry(repository: Repository, digest: Digest, message: string): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'not-found',
    // Only an article is capitalized; a host name keeps its case.
    message: `${message.replace(/^the /, 'The ')} is not in the registry`,
    detail: `${repository.host} has no ${digest} in ${repository.path}`,
    hint: 'It is not visible yet, was deleted (clean-up jobs often delete images without tags), or was pushed to another repository. Run the job again. If that does not help, push the image again.',
  })
}

/** Reads manifests one by one, so that wrong sizes in the index can't exhaust the memory. */
async function readListed(
  registry: Registry,
  repository: Repository,
  descriptors: readonly Descriptor[],
  options: ReadOptions | undefined,
  name: string,
): Promise<readonly ManifestContent[]> {
  const contents: ManifestContent[] = []
  let size = 0
  for (const descriptor of descriptors) {
    const { digest } = descriptor
    const stored = await registry.getManifest(repository, digest, options)
    if (stored === undefined) throw notInRegistry(repository, digest, formatReference({ repository, digest }))
    const manifest = parseManifest(stored.bytes, stored.mediaType, formatReference({ repository, digest }))
    if (manifest.kind === 'index') throw notSingleImage(repository, digest, 'it is an index of an index')
    size += stored.bytes.length
    if (size > ATTESTATIONS_SIZE_LIMIT) throw attestationsError(repository, name, TOO_LARGE)
    contents.push(manifestContent(stored, manifest, descriptor))
  }
  return contents
}

function manifestContent(manifest: StoredManifest, parsed: Manifest, listed?: Descriptor): ManifestContent {
  const { mediaType, config, layers } = parsed
  const { platform, annotations: ofEntry } = listed ?? {}
  const descriptor = {
    mediaType,
    digest: manifest.digest,
    size: manifest.bytes.length,
    ...(platform && { platform }),
    ...(ofEntry && { annotations: ofEntry }),
  }
  const annotations = mediaType === OCI_MANIFEST ? parsed.annotations : {}
  const blobs = [config, ...layers.filter((layer) => !isForeignLayer(layer.mediaType))]
  return { manifest, descriptor, annotations, blobs }
}

async function describeImage(
  registry: Registry,
  repository: Repository,
  own: ManifestContent,
  attestations: readonly ManifestContent[],
  options?: ReadOptions,
): Promise<PublishedImage> {
  const { digest, mediaType, size } = own.descriptor
  const [config] = own.blobs
  const name = `the config of ${formatReference({ repository, digest })}`
  const bytes = config && (await registry.getBlob(repository, config.digest, CONFIG_LIMIT, options))
  if (bytes === undefined) throw notInRegistry(repository, config?.digest ?? digest, name)
  const { os, architecture, variant, labels } = parseConfig(bytes, name)
  const platform = { os, architecture, ...(variant !== undefined && { variant }) }
  const details = { platform, labels, configDigest: digestOf(bytes), configBytes: bytes }
  return { repository, digest, mediaType, size, ...details, own, attestations }
}

function singleImage(index: Index, repository: Repository, digest: Digest): Descriptor {
  const images = index.manifests.filter((one) => !isAttestation(one))
  const [only, ...more] = images
  if (only !== undefined && more.length === 0) return only
  const platforms = images.map(({ platform }) => (platform ? formatPlatform(platform) : 'no platform'))
  throw notSingleImage(repository, digest, `it is an index of ${platforms.join(', ') || 'no images'}`)
}

/** Returns the distinct attestations of an image. @throws RegistryError if there are too many, or if they are too large */
function attestationsOf(
  manifests: readonly Descriptor[],
  { digest: image }: Descriptor,
  name: string,
  repository: Repository,
): readonly Descriptor[] {
  const listed = manifests.filter((one) => isAttestationOf(one, image))
  const distinct = [...new Map(listed.map((one) => [one.digest, one])).values()]
  if (distinct.length > ATTESTATIONS_LIMIT)
    throw attestationsError(
      repository,
      name,
      `it has ${distinct.length} attestations, and at most ${ATTESTATIONS_LIMIT} are supported`,
    )
  if (distinct.reduce((sum, { size }) => sum + size, 0) > ATTESTATIONS_SIZE_LIMIT)
    throw attestationsError(repository, name, TOO_LARGE)
  return distinct
}

const TOO_LARGE = `its attestations are larger than ${ATTESTATIONS_SIZE_LIMIT / 1024 / 1024} MiB in total`

function attestationsError({ host }: Repository, name: string, why: string): RegistryError {
  return new RegistryError({
    host,
    problem: 'other',
    message: `Can't read ${name}: ${why}`,
    hint: 'Push the image again with fewer attestations. For docker/build-push-action, set `provenance: false` and `sbom: false`.',
  })
}

function notSingleImage(repository: Repository, digest: Digest, detail: string): RegistryError {
  const message = `${formatReference({ repository, digest })} is not the image of one platform`
  return new RegistryError({ host: repository.host, problem: 'other', message, detail })
}
