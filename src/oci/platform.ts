import * as v from 'valibot'
import { compareText } from '../text.ts'

/** The platform in an image config or an index entry. */
export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string | undefined
}

/** The platform of BuildKit's attestations, which an index lists beside images. */
export const NO_PLATFORM = { os: 'unknown', architecture: 'unknown' } as const

const WORD_LENGTH = 64

/** A part of a platform. Limited because it is untrusted, and shown in logs and summaries. */
const WORD = v.pipe(
  v.string(),
  v.maxLength(WORD_LENGTH, `is longer than ${WORD_LENGTH} characters`),
  v.regex(/^[A-Za-z0-9._-]*$/, 'has characters that no platform has'),
)

/** The schema of a platform in a document. */
export const PLATFORM = v.object({ os: WORD, architecture: WORD, variant: v.optional(WORD) })

/** Formats a platform: `linux/arm64`, `linux/arm/v7`. */
export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant].filter(Boolean).join('/')
}

interface WithPlatform {
  readonly platform: Platform
  readonly digest: string
}

/** Compares by platform and then by digest. The order is the same on every machine. */
export function byPlatform(one: WithPlatform, other: WithPlatform): number {
  return (
    compareText(formatPlatform(one.platform), formatPlatform(other.platform)) || compareText(one.digest, other.digest)
  )
}

/** Returns the same text for all platforms that container runtimes treat as equal. */
export function platformKey(platform: Platform): string {
  return formatPlatform(withImpliedVariant(platform))
}

/**
 * Returns whether container runtimes treat two platforms as equal: arm64 is arm64/v8, arm is arm/v7, amd64 is amd64/v1.
 * Source: https://github.com/containerd/platforms/blob/main/database.go
 */
export function samePlatform(one: Platform, other: Platform): boolean {
  return platformKey(one) === platformKey(other)
}

/** A map, because an object would return a value for an architecture called "constructor". */
const IMPLIED_VARIANT: ReadonlyMap<string, string> = new Map([
  ['arm64', 'v8'],
  ['arm', 'v7'],
  ['amd64', 'v1'],
])

function withImpliedVariant(platform: Platform): Platform {
  return { ...platform, variant: platform.variant || IMPLIED_VARIANT.get(platform.architecture) }
}

/**
 * Returns whether an image for the platform `actual` runs on `wanted`. Compares variants only if both have one: images
 * built with Nix have none, and neither do the platforms of 64-bit systems.
 */
export function fits(actual: Platform, wanted: Platform): boolean {
  if (!actual.variant || !wanted.variant) return actual.os === wanted.os && actual.architecture === wanted.architecture
  return samePlatform(actual, wanted)
}
