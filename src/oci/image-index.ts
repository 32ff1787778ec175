import type { Descriptor } from './document.ts'
import { DOCKER_INDEX, OCI_INDEX } from './media-type.ts'
import { byPlatform, type Platform } from './platform.ts'

/** One platform's manifest as it is to stand in an index. */
export interface IndexEntry extends Descriptor {
  readonly platform: Platform
}

/**
 * The bytes of an OCI image index. The same entries and annotations give the same bytes, in whatever order they come:
 * entries are sorted by platform, annotations by key.
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
 * The bytes of a Docker manifest list, which has no annotations. The same entries give the same bytes, in whatever order
 * they come. Source: https://distribution.github.io/distribution/spec/manifest-v2-2/#manifest-list
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
