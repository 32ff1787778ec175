import * as v from 'valibot'
import { type Digest, isDigest } from './digest.ts'
import { FormatError } from './format-error.ts'
import { isIndexType, isManifestType } from './media-type.ts'
import type { Platform } from './platform.ts'

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
    return { kind: 'index', mediaType: type, manifests: index.manifests, annotations: index.annotations ?? {} }
  }
  const { config, layers, annotations } = parseAs(MANIFEST, bytes, name, 'image manifest')
  return { kind: 'manifest', mediaType: type, config, layers, annotations: annotations ?? {} }
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

const DIGEST = v.custom<Digest>((value) => typeof value === 'string' && isDigest(value), 'is not a sha256 digest')
const STRINGS = v.nullish(v.record(v.string(), v.string()))
const DESCRIPTOR = v.object({
  mediaType: v.string(),
  digest: DIGEST,
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  annotations: v.optional(v.record(v.string(), v.string())),
  artifactType: v.optional(v.string()),
  platform: v.optional(v.looseObject({ os: v.string(), architecture: v.string(), variant: v.optional(v.string()) })),
})
const MANIFEST = v.object({ config: DESCRIPTOR, layers: v.array(DESCRIPTOR), annotations: STRINGS })
const INDEX = v.object({ manifests: v.array(DESCRIPTOR), annotations: STRINGS })
const CONFIG = v.object({
  os: v.string(),
  architecture: v.string(),
  variant: v.optional(v.string()),
  config: v.nullish(v.object({ Labels: STRINGS })),
  rootfs: v.object({ diff_ids: v.array(DIGEST) }),
})
const TYPED = v.object({ mediaType: v.optional(v.string()) })

/** The type that the registry named; where that is no more than "JSON", the one that the document names. */
function mediaTypeOf(bytes: Uint8Array, named: string, name: string): string {
  const type = named.split(';')[0]?.trim().toLowerCase() ?? ''
  const own = parseAs(TYPED, bytes, name, 'image manifest').mediaType
  const known = [type, own].filter((one) => one !== undefined && (isIndexType(one) || isManifestType(one)))
  // One that says two things would be read as one by this client and as the other by the next (CVE-2021-41190).
  if (known.length === 2 && known[0] !== known[1])
    throw new FormatError({ what: `${name} contradicts itself: it is sent as "${type}" and calls itself "${own}"` })
  if (known[0] !== undefined) return known[0]
  throw new FormatError({ what: `${name} is not an image: its media type is "${own ?? type}"` })
}

function parseAs<Schema extends v.GenericSchema>(
  schema: Schema,
  bytes: Uint8Array,
  name: string,
  kind: string,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, jsonOf(bytes, name, kind))
  if (result.success) return result.output
  const [issue] = result.issues
  throw new FormatError({ what: `${name} is not a valid ${kind}: ${v.getDotPath(issue) ?? 'it'}: ${issue.message}` })
}

function jsonOf(bytes: Uint8Array, name: string, kind: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new FormatError({ what: `${name} is not a valid ${kind}: it is no JSON`, cause })
  }
}
