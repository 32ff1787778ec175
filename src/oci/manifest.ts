import * as v from 'valibot'
import { FormatError } from '../errors.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'
import { DIGEST, type Digest } from './digest.ts'
import { isIndexType, isManifestType } from './media-type.ts'
import { NO_PLATFORM, PLATFORM, type Platform } from './platform.ts'

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
