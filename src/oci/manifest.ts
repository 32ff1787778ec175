import * as v from 'valibot'
import { FormatError } from '../errors.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'
import { byPlatform, NO_PLATFORM, PLATFORM, type Platform } from './platform.ts'
import { DIGEST, type Digest, digestOf } from './reference.ts'

/** A reference to a blob or manifest: https://github.com/opencontainers/image-spec/blob/main/descriptor.md */
export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  readonly platform?: Platform | undefined
  readonly annotations?: Readonly<Record<string, string>> | undefined
  readonly artifactType?: string | undefined
}

/** The manifest of an image for one platform: https://github.com/opencontainers/image-spec/blob/main/manifest.md */
export interface Manifest {
  readonly kind: 'manifest'
  readonly mediaType: string
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
  readonly annotations: Readonly<Record<string, string>>
}

/** An index or a Docker manifest list: https://github.com/opencontainers/image-spec/blob/main/image-index.md */
export interface Index {
  readonly kind: 'index'
  readonly mediaType: string
  readonly manifests: readonly Descriptor[]
  readonly annotations: Readonly<Record<string, string>>
}

/** Returns whether the entry of an index is an attestation of BuildKit, which has the platform `unknown/unknown`. */
export function isAttestation({ platform }: Descriptor): boolean {
  return platform?.os === NO_PLATFORM.os
}

/** Reports whether an entry of an index is an attestation about an image in it. */
export function isAttestationOf(entry: Descriptor, image: Digest): boolean {
  return isAttestation(entry) && entry.annotations?.['vnd.docker.reference.digest'] === image
}

/**
 * Parses a manifest or an index.
 * @param mediaType the `Content-Type` of the response
 * @param name the name of the document in errors: `ghcr.io/owner/app@sha256:…`
 * @throws FormatError
 */
export function parseManifest(bytes: Uint8Array, mediaType: string, name: string): Manifest | Index {
  const type = mediaTypeOf(bytes, mediaType, name)
  if (isIndexType(type)) {
    const index = parseDocument(INDEX, bytes, name, 'image index')
    return {
      kind: 'index',
      mediaType: type,
      manifests: index.manifests.map(toDescriptor),
      annotations: index.annotations ?? {},
    }
  }
  const { config, layers, annotations } = parseDocument(MANIFEST, bytes, name, 'image manifest')
  return {
    kind: 'manifest',
    mediaType: type,
    config: toDescriptor(config),
    layers: layers.map(toDescriptor),
    annotations: annotations ?? {},
  }
}

/** The schema of annotations and labels. */
export const STRINGS = v.nullish(v.record(v.string(), v.string()))
const DESCRIPTOR = v.object({
  mediaType: v.string(),
  digest: DIGEST,
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  annotations: STRINGS,
  artifactType: v.optional(v.string()),
  platform: v.nullish(PLATFORM),
})
const MANIFEST = v.object({ config: DESCRIPTOR, layers: v.array(DESCRIPTOR), annotations: STRINGS })
const INDEX = v.object({ manifests: v.array(DESCRIPTOR), annotations: STRINGS })
const TYPED = v.object({
  mediaType: v.optional(v.string()),
  manifests: v.optional(v.unknown()),
  config: v.optional(v.unknown()),
  layers: v.optional(v.unknown()),
})

/** Removes null, which some builders write for optional fields. */
function toDescriptor({ annotations, platform, ...rest }: v.InferOutput<typeof DESCRIPTOR>): Descriptor {
  return { ...rest, ...(annotations && { annotations }), ...(platform && { platform }) }
}

/**
 * Returns the media type of a document: that of the response, or the document's own if the response is generic JSON.
 * Refuses documents whose type is ambiguous, because clients could interpret them differently (CVE-2021-41190).
 */
function mediaTypeOf(bytes: Uint8Array, contentType: string, name: string): string {
  const sent = contentType.split(';')[0]?.trim().toLowerCase() ?? ''
  const document = parseDocument(TYPED, bytes, name, 'image manifest')
  const own = document.mediaType
  const type = isManifestOrIndexType(sent) ? sent : own
  if (type === undefined || !isManifestOrIndexType(type))
    throw new FormatError({ message: `${name} is not an image: its media type is "${sanitizeLine(own ?? sent)}"` })
  if (own !== undefined && own !== type)
    throw new FormatError({
      message: `${name} contradicts itself: it was sent as "${sent}", but its mediaType is "${sanitizeLine(own)}"`,
    })
  const hasImage = document.config !== undefined || document.layers !== undefined
  if (isIndexType(type) ? hasImage : document.manifests !== undefined)
    throw new FormatError({ message: `${name} contradicts itself: it has the fields of both a manifest and an index` })
  return type
}

function isManifestOrIndexType(mediaType: string): boolean {
  return isIndexType(mediaType) || isManifestType(mediaType)
}

/** Parses a JSON document. @throws FormatError */
export function parseDocument<Schema extends v.GenericSchema>(
  schema: Schema,
  bytes: Uint8Array,
  name: string,
  kind: string,
): v.InferOutput<Schema> {
  const read = readJson(schema, bytes)
  if (read.ok) return read.value
  const problem = read.place === undefined ? read.problem : `${read.place}: ${read.problem}`
  throw new FormatError({ message: `${name} is not a valid ${kind}: ${sanitizeLine(problem)}` })
}

/** The entry of a platform's manifest in an index. */
export interface IndexEntry extends Descriptor {
  readonly platform: Platform
}

/**
 * Returns the bytes of an OCI image index. Sorts entries by platform and annotations by key, so that the bytes do not
 * depend on their order.
 */
export function composeIndex(
  entries: readonly IndexEntry[],
  annotations: Readonly<Record<string, string>> = {},
): Uint8Array {
  const index = {
    schemaVersion: 2,
    mediaType: OCI_INDEX,
    manifests: entries.toSorted(byPlatform).map(serializeEntry),
    ...serializeAnnotations(annotations),
  }
  return new TextEncoder().encode(JSON.stringify(index, undefined, 2))
}

/**
 * Returns the bytes of a Docker manifest list, which has no annotations. Sorts entries by platform.
 * Source: https://distribution.github.io/distribution/spec/manifest-v2-2/#manifest-list
 */
export function composeDockerList(entries: readonly IndexEntry[]): Uint8Array {
  const manifests = entries.toSorted(byPlatform).map((entry) => serializeEntry({ ...entry, annotations: {} }))
  return new TextEncoder().encode(
    JSON.stringify({ schemaVersion: 2, mediaType: DOCKER_INDEX, manifests }, undefined, 2),
  )
}

function serializeEntry({ mediaType, digest, size, platform, annotations = {} }: IndexEntry): object {
  const { os, architecture, variant } = platform
  return {
    mediaType,
    digest,
    size,
    platform: { architecture, os, ...(variant && { variant }) },
    ...serializeAnnotations(annotations),
  }
}

function serializeAnnotations(annotations: Readonly<Record<string, string>>): object {
  const keys = Object.keys(annotations).sort()
  return keys.length === 0 ? {} : { annotations: Object.fromEntries(keys.map((key) => [key, annotations[key]])) }
}

/** The fields of an image config that this action reads: https://github.com/opencontainers/image-spec/blob/main/config.md */
export interface ImageConfig extends Platform {
  readonly diffIds: readonly Digest[]
  readonly labels: Readonly<Record<string, string>>
  /** The comments in the history of the layers, one per layer if the tool that made the image wrote them. */
  readonly comments: readonly (string | undefined)[]
  /** When the image was created. */
  readonly created: string | undefined
}

/**
 * Parses an image config.
 * @param name the name of the document in errors
 * @throws FormatError
 */
export function parseConfig(bytes: Uint8Array, name: string): ImageConfig {
  const config = parseDocument(CONFIG, bytes, name, 'image config')
  return {
    os: config.os,
    architecture: config.architecture,
    ...(config.variant && { variant: config.variant }),
    diffIds: config.rootfs.diff_ids,
    labels: config.config?.Labels ?? {},
    created: config.created ?? undefined,
    comments: (config.history ?? []).filter((one) => !one.empty_layer).map(({ comment }) => comment),
  }
}

const CONFIG = v.object({
  ...PLATFORM.entries,
  config: v.nullish(v.object({ Labels: STRINGS })),
  created: v.fallback(v.nullish(v.string()), undefined),
  rootfs: v.object({ diff_ids: v.array(DIGEST) }),
  // Informational, so a malformed one is ignored.
  history: v.fallback(
    v.nullish(v.array(v.object({ comment: v.optional(v.string()), empty_layer: v.optional(v.boolean()) }))),
    [],
  ),
})

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

/** https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidance-for-an-empty-descriptor */
export const EMPTY_CONFIG = Buffer.from('{}')

/** The config of manifests that are not images, such as attestations. */
export const EMPTY_CONFIG_DESCRIPTOR = {
  mediaType: 'application/vnd.oci.empty.v1+json',
  digest: digestOf(EMPTY_CONFIG),
  size: EMPTY_CONFIG.length,
  data: EMPTY_CONFIG.toString('base64'),
} as const
