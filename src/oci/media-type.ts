/** The media types of manifests and indexes. Those of Docker have the same fields as those of OCI. */
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json'
export const DOCKER_INDEX = 'application/vnd.docker.distribution.manifest.list.v2+json'

/** The `Accept` header for all types of manifests and indexes. */
export const MANIFEST_TYPES: readonly string[] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX]

/** Returns whether a media type is that of an OCI index or a Docker manifest list. */
export function isIndexType(mediaType: string): boolean {
  return mediaType === OCI_INDEX || mediaType === DOCKER_INDEX
}

/** Returns whether a media type is that of an OCI or Docker image manifest. */
export function isManifestType(mediaType: string): boolean {
  return mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST
}

export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json'

const LAYER_FORMATS = ['gzip', 'zstd'] as const

/** The compression of a layer. */
export type LayerFormat = (typeof LAYER_FORMATS)[number]

/** Returns whether a value is a layer compression. */
export function isLayerFormat(text: unknown): text is LayerFormat {
  return LAYER_FORMATS.some((format) => format === text)
}

/** Returns the OCI media type of a compressed layer. */
export function layerType(format: LayerFormat): string {
  return `application/vnd.oci.image.layer.v1.tar+${format}`
}

/** Returns the compression of a layer by its media type, including that of Docker. */
export function layerFormat(mediaType: string): LayerFormat | undefined {
  if (mediaType === 'application/vnd.docker.image.rootfs.diff.tar.gzip') return 'gzip'
  return LAYER_FORMATS.find((format) => mediaType === layerType(format))
}

/** Returns whether a layer may be stored outside of registries, as those of Windows were. The manifest has its URLs. */
export function isForeignLayer(mediaType: string): boolean {
  return mediaType.includes('.nondistributable.') || mediaType.includes('.foreign.')
}
