import { type Digest, digestOf } from '../oci/digest.ts'
import {
  type Descriptor,
  type Index,
  isAttestation,
  type Manifest,
  parseConfig,
  parseManifest,
} from '../oci/document.ts'
import { isForeignLayer, OCI_MANIFEST } from '../oci/media-type.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import { settleAll } from '../settle-all.ts'
import type { Look, Registry, StoredManifest } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/** The manifest of one platform's image in a registry. */
export interface ImageManifest {
  readonly repository: Repository
  readonly digest: Digest
  readonly mediaType: string
  /** In bytes. */
  readonly size: number
  /** As the image's config has it. */
  readonly platform: Platform
}

/** One platform's image as a registry holds it. */
export interface PublishedImage extends ImageManifest {
  readonly configDigest: Digest
  readonly configBytes: Buffer
  /** Of the image's config. */
  readonly labels: Readonly<Record<string, string>>
  readonly own: ManifestContent
  /** What BuildKit attests about it. */
  readonly attestations: readonly ManifestContent[]
}

/** A manifest with the blobs that it names. */
export interface ManifestContent {
  readonly manifest: StoredManifest
  /** As an index lists it. */
  readonly descriptor: Descriptor
  /** Its own annotations. Docker's manifests have none. */
  readonly annotations: Readonly<Record<string, string>>
  /** The config first. Without layers that lie elsewhere by right. */
  readonly blobs: readonly Descriptor[]
}

/** The largest config that is read, in bytes: as large as a manifest. */
export const CONFIG_LIMIT = 4 * 1024 * 1024

/** The most attestations of one image that are read: BuildKit makes one, which lists all statements. */
const ATTESTATIONS_LIMIT = 64
/** The most bytes that the manifests of all attestations of one image may have together. */
const ATTESTATIONS_SIZE_LIMIT = 16 * 1024 * 1024

/**
 * Reads an image's manifest and config, each held against its digest. An index of one image stands for that image:
 * Docker's containerd image store pushes those (https://github.com/moby/moby/issues/51532), and BuildKit one with the
 * image's attestations (https://docs.docker.com/build/metadata/attestations/attestation-storage/).
 * @returns nothing where the registry does not have the digest
 * @throws RegistryError where something that it names is not there
 * @throws FormatError where it is no image
 */
export async function findImage(
  registry: Registry,
  repository: Repository,
  digest: Digest,
  look?: Look,
): Promise<PublishedImage | undefined> {
  const outer = await registry.getManifest(repository, digest, look)
  if (outer === undefined) return undefined
  const parsed = parseManifest(outer.bytes, outer.mediaType, nameOf(repository, digest))
  if (parsed.kind === 'manifest') return describe(registry, repository, contentOf(outer, parsed), [], look)
  const only = onlyImage(parsed, repository, digest)
  const name = nameOf(repository, digest)
  const attested = attestationsOf(parsed, only, name, repository)
  const [[own] = [], attestations = []] = await settleAll([
    readListed(registry, repository, [only], look, name),
    readListed(registry, repository, attested, look, name),
  ])
  if (own === undefined) throw new Error('one manifest was read for each that was listed')
  return describe(registry, repository, own, attestations, look)
}

/** As `findImage`. @throws RegistryError also where the registry does not have the digest */
export async function fetchImage(
  registry: Registry,
  repository: Repository,
  digest: Digest,
  look?: Look,
): Promise<PublishedImage> {
  const image = await findImage(registry, repository, digest, look)
  if (image === undefined) throw absent(repository, digest, nameOf(repository, digest))
  return image
}

/** Returns the blobs that an image's manifests name, but its repository lacks. */
export async function missingBlobs(registry: Registry, image: PublishedImage, look?: Look): Promise<readonly Digest[]> {
  const digests = new Set([image.own, ...image.attestations].flatMap(({ blobs }) => blobs.map(({ digest }) => digest)))
  // It was read when the image was.
  digests.delete(image.configDigest)
  const looked = await settleAll(
    [...digests].map(async (digest) => ({ digest, found: await registry.hasBlob(image.repository, digest, look) })),
  )
  return looked.filter(({ found }) => !found).map(({ digest }) => digest)
}

/** Whether a repository has an image with all that belongs to it; one that is there in part is to be copied anew. */
export async function hasWhole(registry: Registry, repository: Repository, digest: Digest): Promise<boolean> {
  try {
    const image = await findImage(registry, repository, digest)
    return image !== undefined && (await missingBlobs(registry, image)).length === 0
  } catch (error) {
    if (error instanceof RegistryError && error.problem === 'not-found') return false
    throw error
  }
}

/** The error of an image that nothing in its repository answers for. */
export function absent(repository: Repository, digest: Digest, message: string): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'not-found',
    // A host name keeps its case.
    message: `${message.replace(/^the /, 'The ')} is not in the registry`,
    detail: `${repository.host} has no ${digest} in ${repository.path}`,
    hint: 'It is not visible yet, was deleted (clean-up jobs often delete images without tags), or was pushed to another repository. Run the job again. If that does not help, push the image again.',
  })
}

/** Reads manifests one after the other, so that those with wrong sizes in the index don't fill the memory. */
async function readListed(
  registry: Registry,
  repository: Repository,
  descriptors: readonly Descriptor[],
  look: Look | undefined,
  name: string,
): Promise<readonly ManifestContent[]> {
  const contents: ManifestContent[] = []
  let size = 0
  for (const descriptor of descriptors) {
    const { digest } = descriptor
    const stored = await registry.getManifest(repository, digest, look)
    if (stored === undefined) throw absent(repository, digest, nameOf(repository, digest))
    const manifest = parseManifest(stored.bytes, stored.mediaType, nameOf(repository, digest))
    if (manifest.kind === 'index') throw notOneImage(repository, digest, 'it is an index of an index')
    size += stored.bytes.length
    if (size > ATTESTATIONS_SIZE_LIMIT) throw tooMuchAttested(repository, name, TOO_LARGE)
    contents.push(contentOf(stored, manifest, descriptor))
  }
  return contents
}

function contentOf(manifest: StoredManifest, parsed: Manifest, listed?: Descriptor): ManifestContent {
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

async function describe(
  registry: Registry,
  repository: Repository,
  own: ManifestContent,
  attestations: readonly ManifestContent[],
  look?: Look,
): Promise<PublishedImage> {
  const { digest, mediaType, size } = own.descriptor
  const [config] = own.blobs
  const name = `the config of ${nameOf(repository, digest)}`
  const bytes = config && (await registry.getBlob(repository, config.digest, CONFIG_LIMIT, look))
  if (bytes === undefined) throw absent(repository, config?.digest ?? digest, name)
  const { os, architecture, variant, labels } = parseConfig(bytes, name)
  const platform = { os, architecture, ...(variant !== undefined && { variant }) }
  const told = { platform, labels, configDigest: digestOf(bytes), configBytes: bytes }
  return { repository, digest, mediaType, size, ...told, own, attestations }
}

function onlyImage(index: Index, repository: Repository, digest: Digest): Descriptor {
  const images = index.manifests.filter((one) => !isAttestation(one))
  const [only, ...more] = images
  if (only !== undefined && more.length === 0) return only
  const platforms = images.map(({ platform }) => (platform ? formatPlatform(platform) : 'no platform'))
  throw notOneImage(repository, digest, `it is an index of ${platforms.join(', ') || 'nothing'}`)
}

/** The attestations of an image, each once. @throws RegistryError if they are too many or too large to read */
function attestationsOf(
  index: Index,
  { digest: image }: Descriptor,
  name: string,
  repository: Repository,
): readonly Descriptor[] {
  const listed = index.manifests.filter((one) => isAttestation(one) && refersTo(one, image))
  const distinct = [...new Map(listed.map((one) => [one.digest, one])).values()]
  if (distinct.length > ATTESTATIONS_LIMIT)
    throw tooMuchAttested(repository, name, `${distinct.length}, and at most ${ATTESTATIONS_LIMIT} are read`)
  if (distinct.reduce((sum, { size }) => sum + size, 0) > ATTESTATIONS_SIZE_LIMIT)
    throw tooMuchAttested(repository, name, TOO_LARGE)
  return distinct
}

const TOO_LARGE = `larger than ${ATTESTATIONS_SIZE_LIMIT / 1024 / 1024} MiB together`

function tooMuchAttested({ host }: Repository, name: string, why: string): RegistryError {
  return new RegistryError({
    host,
    problem: 'other',
    message: `Can't read ${name}: its attestations are ${why}`,
    hint: 'Push the image again with fewer attestations. For docker/build-push-action, set `provenance: false` and `sbom: false`.',
  })
}

function refersTo({ annotations }: Descriptor, digest: Digest): boolean {
  return annotations?.['vnd.docker.reference.digest'] === digest
}

function notOneImage(repository: Repository, digest: Digest, detail: string): RegistryError {
  const message = `${nameOf(repository, digest)} is not the image of one platform`
  return new RegistryError({ host: repository.host, problem: 'other', message, detail })
}

function nameOf(repository: Repository, digest: Digest): string {
  return `${formatRepository(repository)}@${digest}`
}
