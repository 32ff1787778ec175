import { createHash } from 'node:crypto'
import type { TestRegistry } from './registry.ts'

export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'

export interface SeedPlatform {
  readonly architecture: string
  readonly os?: string
  readonly variant?: string
}

export interface SeededImage {
  readonly digest: string
  readonly mediaType: string
  /** Of the manifest. */
  readonly size: number
}

/** Puts a small but whole image of one platform into a registry. The same arguments give the same digest. */
export async function seedImage(
  registry: TestRegistry,
  repository: string,
  { architecture, os = 'linux', variant }: SeedPlatform,
  content = architecture,
): Promise<SeededImage> {
  const layer = Buffer.from(`the layer of ${content}`)
  const config = json({
    architecture,
    os,
    variant,
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${createHash('sha256').update(layer).digest('hex')}`] },
  })
  const manifest = json({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
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
  })
  const digest = registry.seedManifest(repository, manifest, OCI_MANIFEST)
  return { digest, mediaType: OCI_MANIFEST, size: manifest.length }
}

/** Puts an index of images that are there under a tag, and returns its digest. */
export function seedIndex(
  registry: TestRegistry,
  repository: string,
  entries: readonly (SeededImage & { readonly platform: SeedPlatform })[],
  tag?: string,
): string {
  const bytes = json({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: entries })
  return registry.seedManifest(repository, bytes, OCI_INDEX, tag)
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
