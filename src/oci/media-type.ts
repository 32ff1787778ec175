/** The media types of manifests and indexes: the OCI ones and Docker's, which have the same fields. */
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json'
export const DOCKER_INDEX = 'application/vnd.docker.distribution.manifest.list.v2+json'

/** What a client that understands everything above sends as `Accept`. */
export const MANIFEST_TYPES: readonly string[] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX]

/** Of an index, OCI's or Docker's. */
export function isIndexType(mediaType: string): boolean {
  return mediaType === OCI_INDEX || mediaType === DOCKER_INDEX
}

/** Of the manifest of one image, OCI's or Docker's. */
export function isManifestType(mediaType: string): boolean {
  return mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST
}

export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json'

const LAYER_FORMATS = ['gzip', 'zstd'] as const

/** How layers in registries are compressed. */
export type LayerFormat = (typeof LAYER_FORMATS)[number]

/** Whether a text is such a format. */
export function isLayerFormat(text: unknown): text is LayerFormat {
  return LAYER_FORMATS.some((format) => format === text)
}

/** The media type of a layer compressed in this way. */
export function layerType(format: LayerFormat): string {
  return `application/vnd.oci.image.layer.v1.tar+${format}`
}

/** The format of a layer by its media type, Docker's included; nothing for one that is not compressed so. */
export function layerFormat(mediaType: string): LayerFormat | undefined {
  if (mediaType === 'application/vnd.docker.image.rootfs.diff.tar.gzip') return 'gzip'
  return LAYER_FORMATS.find((format) => mediaType === layerType(format))
}

/** Whether a layer may be kept out of registries, as those of Windows were: its manifest says where else it lies. */
export function isForeignLayer(mediaType: string): boolean {
  return mediaType.includes('.nondistributable.') || mediaType.includes('.foreign.')
}
