import type { Digest } from '../oci/digest.ts'
import { type Descriptor, type Index, type Manifest, parseConfig, parseManifest } from '../oci/document.ts'
import { type Platform, printPlatform } from '../oci/platform.ts'
import { printRepository, type Repository } from '../oci/reference.ts'
import type { Registry, StoredManifest } from './registry.ts'
import { RegistryError } from './registry-error.ts'

/** One platform's image as a registry holds it. */
export interface PublishedImage {
  readonly repository: Repository
  /** Of the manifest. */
  readonly digest: Digest
  readonly mediaType: string
  /** Of the manifest, in bytes. */
  readonly size: number
  /** As the image's config has it. */
  readonly platform: Platform
  readonly configDigest: Digest
}

const CONFIG_LIMIT = 16 * 1024 * 1024

/**
 * Reads an image's manifest and config, each held against its digest. An index of one image stands for that image:
 * Docker's containerd image store pushes those (https://github.com/moby/moby/issues/51532).
 * @throws RegistryError where it is not there
 * @throws FormatError where it is no image
 */
export async function fetchImage(registry: Registry, repository: Repository, digest: Digest): Promise<PublishedImage> {
  const outer = await demandManifest(registry, repository, digest)
  const parsed = parseManifest(outer.bytes, outer.mediaType, nameOf(repository, digest))
  if (parsed.kind === 'manifest') return describe(registry, repository, outer, parsed)
  const only = onlyImage(parsed, repository, digest)
  const inner = await demandManifest(registry, repository, only.digest)
  const manifest = parseManifest(inner.bytes, inner.mediaType, nameOf(repository, only.digest))
  if (manifest.kind === 'manifest') return describe(registry, repository, inner, manifest)
  throw notOneImage(repository, digest, 'it is an index of an index')
}

async function describe(
  registry: Registry,
  repository: Repository,
  { bytes, digest }: StoredManifest,
  { mediaType, config }: Manifest,
): Promise<PublishedImage> {
  const configBytes = await registry.getBlob(repository, config.digest, CONFIG_LIMIT)
  if (configBytes === undefined) throw absent(repository, config.digest, `the config of ${nameOf(repository, digest)}`)
  const { os, architecture, variant } = parseConfig(configBytes, `the config of ${nameOf(repository, digest)}`)
  const platform = { os, architecture, ...(variant !== undefined && { variant }) }
  return { repository, digest, mediaType, size: bytes.length, platform, configDigest: config.digest }
}

function onlyImage(index: Index, repository: Repository, digest: Digest): Descriptor {
  // BuildKit lists attestations beside the images that they are about, as a platform of their own.
  const images = index.manifests.filter(({ platform }) => platform?.os !== 'unknown')
  const [only, ...more] = images
  if (only !== undefined && more.length === 0) return only
  const platforms = images.map(({ platform }) => (platform ? printPlatform(platform) : 'no platform'))
  throw notOneImage(repository, digest, `it is an index of ${platforms.join(', ') || 'nothing'}`)
}

async function demandManifest(registry: Registry, repository: Repository, digest: Digest): Promise<StoredManifest> {
  const manifest = await registry.getManifest(repository, digest)
  if (manifest === undefined) throw absent(repository, digest, nameOf(repository, digest))
  return manifest
}

function absent(repository: Repository, digest: Digest, what: string): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'not-found',
    what: `${what[0]?.toUpperCase()}${what.slice(1)} is not in the registry`,
    words: `${repository.host} has no ${digest} in ${repository.path}`,
    help: 'Either it was pushed to another repository, or something has deleted it since: clean-up jobs often take images without tags.',
  })
}

function notOneImage(repository: Repository, digest: Digest, words: string): RegistryError {
  const what = `${nameOf(repository, digest)} is not the image of one platform`
  return new RegistryError({ host: repository.host, problem: 'other', what, words })
}

function nameOf(repository: Repository, digest: Digest): string {
  return `${printRepository(repository)}@${digest}`
}
