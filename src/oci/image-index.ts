import type { Descriptor } from './manifest.ts'
import { DOCKER_INDEX, OCI_INDEX } from './media-type.ts'
import { byPlatform, type Platform } from './platform.ts'

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
