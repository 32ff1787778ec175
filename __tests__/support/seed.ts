import { digestOf } from './digest.ts'
import type { TestRegistry } from './registry.ts'

export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json'
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json'
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'

export interface SeedPlatform {
  readonly architecture: string
  readonly os?: string
  readonly variant?: string
}

export interface SeededImage {
  readonly digest: string
  readonly mediaType: string
  /** Of the manifest, in bytes. */
  readonly size: number
}

/** Optional properties of an image. */
export interface SeedDetails {
  readonly labels?: Readonly<Record<string, string>>
  /** Annotations of the manifest. */
  readonly annotations?: Readonly<Record<string, string>> | undefined
  /** Named in the history, like in a layered image of dockerTools. */
  readonly storePaths?: readonly string[] | undefined
  /** Docker's manifest type rather than OCI's. */
  readonly docker?: boolean
}

/** Pushes a small but complete image of one platform to a registry. The same arguments give the same digest. */
export async function seedImage(
  registry: TestRegistry,
  repository: string,
  { architecture, os = 'linux', variant }: SeedPlatform,
  content = architecture,
  { labels, annotations, storePaths, docker = false }: SeedDetails = {},
): Promise<SeededImage> {
  const mediaType = docker ? DOCKER_MANIFEST : OCI_MANIFEST
  const layer = Buffer.from(`the layer of ${content}`)
  const config = json({
    architecture,
    os,
    variant,
    config: { Labels: labels },
    rootfs: { type: 'layers', diff_ids: [digestOf(layer)] },
    history: storePaths && [{ comment: `store paths: [${storePaths.map((path) => `'${path}'`).join(', ')}]` }],
  })
  const manifest = json({
    schemaVersion: 2,
    mediaType,
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: await registry.seedBlob(repository, config),
      size: config.length,
    },
    layers: [
      {
        mediaType: 'application/vnd.oci.image.layer.v1.tar',
        digest: await registry.seedBlob(repository, layer),
        size: layer.length,
      },
    ],
    annotations,
  })
  const digest = registry.seedManifest(repository, manifest, mediaType)
  return { digest, mediaType, size: manifest.length }
}

/** An image's entry in an index. */
export interface SeededEntry extends SeededImage {
  readonly platform: SeedPlatform
  readonly annotations?: Readonly<Record<string, string>>
}

/** Pushes an index of existing images under a tag, and returns its digest. */
export function seedIndex(
  registry: TestRegistry,
  repository: string,
  entries: readonly SeededEntry[],
  tag?: string,
  annotations?: Readonly<Record<string, string>>,
): string {
  const bytes = json({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: entries, annotations })
  return registry.seedManifest(repository, bytes, OCI_INDEX, tag)
}

/**
 * Pushes BuildKit's attestations of an image, and returns their entry in BuildKit's index:
 * https://docs.docker.com/build/metadata/attestations/attestation-storage/
 */
export async function seedAttestation(
  registry: TestRegistry,
  repository: string,
  { digest }: SeededImage,
): Promise<SeededEntry> {
  const layer = json({ _type: 'https://in-toto.io/Statement/v0.1', subject: [{ digest }] })
  const layerDigest = await registry.seedBlob(repository, layer)
  const config = json({
    architecture: 'unknown',
    os: 'unknown',
    config: {},
    rootfs: { type: 'layers', diff_ids: [layerDigest] },
  })
  const configDigest = await registry.seedBlob(repository, config)
  const manifest = json({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: configDigest, size: config.length },
    layers: [{ mediaType: 'application/vnd.in-toto+json', digest: layerDigest, size: layer.length }],
  })
  return {
    mediaType: OCI_MANIFEST,
    digest: registry.seedManifest(repository, manifest, OCI_MANIFEST),
    size: manifest.length,
    platform: { architecture: 'unknown', os: 'unknown' },
    annotations: { 'vnd.docker.reference.digest': digest, 'vnd.docker.reference.type': 'attestation-manifest' },
  }
}

/** Pushes a signature of an image, and the list of its referrers. Returns the digest of the signature. */
export async function seedSignature(
  registry: TestRegistry,
  repository: string,
  { digest, mediaType, size }: SeededImage,
): Promise<string> {
  const artifactType = 'application/vnd.dev.sigstore.bundle.v0.3+json'
  const blob = async (bytes: Buffer, type: string) => ({
    mediaType: type,
    digest: await registry.seedBlob(repository, bytes),
    size: bytes.length,
  })
  const manifest = json({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    artifactType,
    config: await blob(Buffer.from('{}'), 'application/vnd.oci.empty.v1+json'),
    layers: [await blob(Buffer.from(`a signature of ${digest}`), artifactType)],
    subject: { mediaType, digest, size },
  })
  const signature = registry.seedManifest(repository, manifest, OCI_MANIFEST)
  const entry = { mediaType: OCI_MANIFEST, digest: signature, size: manifest.length, artifactType }
  const list = json({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] })
  registry.seedManifest(repository, list, OCI_INDEX, digest.replace(':', '-'))
  return signature
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
