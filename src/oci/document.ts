import * as v from 'valibot'
import { sanitizeLine } from '../errors.ts'
import { readJson } from '../json.ts'
import type { Digest } from './digest.ts'
import { FormatError } from './format-error.ts'
import { isIndexType, isManifestType } from './media-type.ts'
import { NO_PLATFORM, type Platform } from './platform.ts'
import { DIGEST, PLATFORM } from './schema.ts'

/** A pointer to a blob or manifest: https://github.com/opencontainers/image-spec/blob/main/descriptor.md */
export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  readonly platform?: Platform | undefined
  readonly annotations?: Readonly<Record<string, string>> | undefined
  readonly artifactType?: string | undefined
}

/** One platform's manifest: https://github.com/opencontainers/image-spec/blob/main/manifest.md */
export interface Manifest {
  readonly kind: 'manifest'
  readonly mediaType: string
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
  readonly annotations: Readonly<Record<string, string>>
}

/** An index, Docker's manifest list included: https://github.com/opencontainers/image-spec/blob/main/image-index.md */
export interface Index {
  readonly kind: 'index'
  readonly mediaType: string
  readonly manifests: readonly Descriptor[]
  readonly annotations: Readonly<Record<string, string>>
}

/** Whether an index lists what BuildKit attests about an image, which has a platform of its own: no platform. */
export function isAttestation({ platform }: Descriptor): boolean {
  return platform?.os === NO_PLATFORM.os
}

/** The fields of an image's config that this action reads; the bytes keep all others. */
export interface ImageConfig extends Platform {
  readonly diffIds: readonly Digest[]
  readonly labels: Readonly<Record<string, string>>
}

/**
 * Reads a manifest or an index.
 * @param name what the document is, for the error: `ghcr.io/owner/app@sha256:…`
 * @throws FormatError
 */
export function parseManifest(bytes: Uint8Array, mediaType: string, name: string): Manifest | Index {
  const type = mediaTypeOf(bytes, mediaType, name)
  if (isIndexType(type)) {
    const index = parseAs(INDEX, bytes, name, 'image index')
    return {
      kind: 'index',
      mediaType: type,
      manifests: index.manifests.map(descriptorOf),
      annotations: index.annotations ?? {},
    }
  }
  const { config, layers, annotations } = parseAs(MANIFEST, bytes, name, 'image manifest')
  return {
    kind: 'manifest',
    mediaType: type,
    config: descriptorOf(config),
    layers: layers.map(descriptorOf),
    annotations: annotations ?? {},
  }
}

/**
 * Reads an image's config.
 * @param name what the document is, for the error
 * @throws FormatError
 */
export function parseConfig(bytes: Uint8Array, name: string): ImageConfig {
  const config = parseAs(CONFIG, bytes, name, 'image config')
  return {
    os: config.os,
    architecture: config.architecture,
    ...(config.variant && { variant: config.variant }),
    diffIds: config.rootfs.diff_ids,
    labels: config.config?.Labels ?? {},
  }
}

const STRINGS = v.nullish(v.record(v.string(), v.string()))
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
const CONFIG = v.object({
  ...PLATFORM.entries,
  config: v.nullish(v.object({ Labels: STRINGS })),
  rootfs: v.object({ diff_ids: v.array(DIGEST) }),
})
const TYPED = v.object({
  mediaType: v.optional(v.string()),
  manifests: v.optional(v.unknown()),
  config: v.optional(v.unknown()),
  layers: v.optional(v.unknown()),
})

/** Some builders write null where the specification leaves a field out. */
function descriptorOf({ annotations, platform, ...rest }: v.InferOutput<typeof DESCRIPTOR>): Descriptor {
  return { ...rest, ...(annotations && { annotations }), ...(platform && { platform }) }
}

/**
 * The type that the registry named; where that is no more than "JSON", the one that the document names. A document that
 * can be read as two things would be one to this client and the other to the next, and is refused (CVE-2021-41190).
 */
function mediaTypeOf(bytes: Uint8Array, named: string, name: string): string {
  const sent = named.split(';')[0]?.trim().toLowerCase() ?? ''
  const document = parseAs(TYPED, bytes, name, 'image manifest')
  const own = document.mediaType
  const type = isKnown(sent) ? sent : own
  if (type === undefined || !isKnown(type))
    throw new FormatError({ message: `${name} is not an image: its media type is "${sanitizeLine(own ?? sent)}"` })
  if (own !== undefined && own !== type)
    throw new FormatError({
      message: `${name} contradicts itself: it is sent as "${sent}" and calls itself "${sanitizeLine(own)}"`,
    })
  const hasImage = document.config !== undefined || document.layers !== undefined
  if (isIndexType(type) ? hasImage : document.manifests !== undefined)
    throw new FormatError({ message: `${name} contradicts itself: it has the fields of an image and of an index` })
  return type
}

function isKnown(mediaType: string): boolean {
  return isIndexType(mediaType) || isManifestType(mediaType)
}

function parseAs<Schema extends v.GenericSchema>(
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
