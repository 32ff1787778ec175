/** An OCI platform, as image configs and index entries carry it. */
export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string | undefined
}

/** The platform of what is listed beside images, and is none: BuildKit's attestations. */
export const NO_PLATFORM = { os: 'unknown', architecture: 'unknown' } as const

/** Limits a part of a platform: strangers write them, and logs and summaries show them. */
export const PLATFORM_WORD = /^[A-Za-z0-9._-]*$/
export const PLATFORM_WORD_LENGTH = 64

/** `linux/arm64`, `linux/arm/v7`. */
export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant].filter(Boolean).join('/')
}

interface Placed {
  readonly platform: Platform
  readonly digest: string
}

/** Orders what has a platform by its name, and then by digest, the same way on every machine. */
export function byPlatform(one: Placed, other: Placed): number {
  // Not localeCompare, which goes by the machine's language.
  return compare(formatPlatform(one.platform), formatPlatform(other.platform)) || compare(one.digest, other.digest)
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0
}

/** One text for all ways to write a platform that mean the same to a container runtime. */
export function platformKey(platform: Platform): string {
  return formatPlatform(normalized(platform))
}

/**
 * Whether a container runtime takes the two for the same: arm64 is arm64/v8, arm is arm/v7, amd64 is amd64/v1.
 * Source: https://github.com/containerd/platforms/blob/main/database.go
 */
export function samePlatform(one: Platform, other: Platform): boolean {
  return platformKey(one) === platformKey(other)
}

/** A map: of an object, an architecture called "constructor" would get a variant that nobody wrote. */
const IMPLIED_VARIANT: ReadonlyMap<string, string> = new Map([
  ['arm64', 'v8'],
  ['arm', 'v7'],
  ['amd64', 'v1'],
])

function normalized(platform: Platform): Platform {
  return { ...platform, variant: platform.variant || IMPLIED_VARIANT.get(platform.architecture) }
}

/**
 * Whether an image of the platform `actual` is one for `wanted`. A variant counts only where both name one: Nix's
 * images carry none, and 64-bit systems ask for none.
 */
export function fits(actual: Platform, wanted: Platform): boolean {
  if (!actual.variant || !wanted.variant) return actual.os === wanted.os && actual.architecture === wanted.architecture
  return samePlatform(actual, wanted)
}
