import { FormatError } from '../errors.ts'
import { type Platform, samePlatform } from './platform.ts'

/** The level of an annotation, in the terms of buildx and docker/metadata-action. */
export type AnnotationLevel = 'manifest' | 'index' | 'manifest-descriptor' | 'index-descriptor'

export interface Annotation {
  /** Undefined if the user set none. */
  readonly level?: AnnotationLevel
  /** `linux/arm64` in `manifest[linux/arm64]`. */
  readonly platform?: string
  readonly key: string
  readonly value: string
}

/** The annotations of a new index and its entries. */
export interface PlacedAnnotations {
  readonly index: Readonly<Record<string, string>>
  /** Returns the annotations of the entry for a platform. */
  readonly descriptor: (platform: Platform) => Readonly<Record<string, string>>
  /** Annotations that have no place in an index, as the user wrote them. */
  readonly unsupported: readonly string[]
}

/** Predefined annotations on the origin of an image: https://specs.opencontainers.org/image-spec/annotations/ */
export const REVISION = 'org.opencontainers.image.revision'
export const SOURCE = 'org.opencontainers.image.source'
export const CREATED = 'org.opencontainers.image.created'

const LEVEL = /^(manifest|index|manifest-descriptor|index-descriptor)(?:\[([A-Za-z0-9_/-]+)\])?$/

/**
 * Parses `key=value`, with an optional prefix of buildx and docker/metadata-action: `index:`, `manifest[linux/arm64]:`,
 * or several levels separated by commas. Any other prefix is part of the key.
 * Source: https://docs.docker.com/build/metadata/annotations/#specify-annotation-level
 * @throws FormatError
 */
export function parseAnnotation(text: string): readonly Annotation[] {
  const equals = text.indexOf('=')
  if (equals < 1) throw new FormatError({ message: `the annotation "${text}" is not of the form key=value` })
  const name = text.slice(0, equals)
  const value = text.slice(equals + 1)
  const colon = name.indexOf(':')
  const levels = colon === -1 ? [] : name.slice(0, colon).split(',').map(parseLevel)
  if (levels.length === 0 || !levels.every((level) => level !== undefined)) return [{ key: name, value }]
  const key = name.slice(colon + 1)
  if (key === '') throw new FormatError({ message: `the annotation "${text}" has no key` })
  return levels.map((level) => ({ ...level, key, value }))
}

/**
 * Assigns annotations to an index and its entries. The manifests exist already and can't be annotated. `manifest:`, the
 * default of docker/metadata-action, means the image that users pull, which is the index. The more specific annotation
 * wins: `index:` over `manifest:`, one platform over all.
 * @param platforms the platforms in the index
 */
export function placeAnnotations(
  annotations: readonly Annotation[],
  platforms: readonly Platform[],
): PlacedAnnotations {
  const placeOf = (annotation: Annotation) => placeInIndex(annotation, platforms)
  const ofIndex = annotations.filter((one) => placeOf(one) === 'index')
  const ofDescriptors = annotations.filter((one) => placeOf(one) === 'descriptor')
  return {
    index: toRecord(weakestFirst(ofIndex, ({ level }) => level === 'index')),
    descriptor: (platform) => {
      const its = ofDescriptors.filter((one) => one.platform === undefined || isPlatform(one.platform, platform))
      return toRecord(weakestFirst(its, (one) => one.platform !== undefined))
    },
    unsupported: annotations.filter((one) => placeOf(one) === 'nowhere').map(formatAnnotation),
  }
}

function placeInIndex(
  { level, platform }: Annotation,
  platforms: readonly Platform[],
): 'index' | 'descriptor' | 'nowhere' {
  if (level === 'index-descriptor') return 'nowhere'
  if (level !== 'manifest-descriptor') return platform === undefined ? 'index' : 'nowhere'
  return platform === undefined || platforms.some((one) => isPlatform(platform, one)) ? 'descriptor' : 'nowhere'
}

function isPlatform(text: string, platform: Platform): boolean {
  const [os = '', architecture = '', variant] = text.split('/')
  return samePlatform({ os, architecture, variant }, platform)
}

function weakestFirst(
  annotations: readonly Annotation[],
  isSpecific: (annotation: Annotation) => boolean,
): readonly Annotation[] {
  return [...annotations.filter((one) => !isSpecific(one)), ...annotations.filter(isSpecific)]
}

function parseLevel(text: string): Pick<Annotation, 'level' | 'platform'> | undefined {
  const [, level, platform] = LEVEL.exec(text) ?? []
  if (level === undefined) return undefined
  return { level: level as AnnotationLevel, ...(platform !== undefined && { platform }) }
}

function formatAnnotation({ level, platform, key, value }: Annotation): string {
  return `${level ?? ''}${platform === undefined ? '' : `[${platform}]`}${level === undefined ? '' : ':'}${key}=${value}`
}

function toRecord(annotations: readonly Annotation[]): Readonly<Record<string, string>> {
  return Object.fromEntries(annotations.map(({ key, value }) => [key, value]))
}
