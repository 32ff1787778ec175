import { isStorePath } from '../nix/store-path.ts'
import { isLayerFormat, type LayerFormat } from '../oci/manifest.ts'
import { type Digest, isDigest } from '../oci/reference.ts'
import { sanitizeLine } from '../text.ts'

/** Identifies the build that produced an image. Equal build info means an equivalent image. */
export interface BuildInfo {
  readonly storePath: string
  /** The keys of the labels that build added. Their values are in the image's config. */
  readonly labels: readonly string[]
  /** The requested compression, if some layers kept another one. */
  readonly compression?: LayerFormat | undefined
}

type Annotations = Readonly<Record<string, string>>

const STORE_PATH = 'io.github.nix-image-action.store-path'
const LABELS = 'io.github.nix-image-action.labels'
const COMPRESSION = 'io.github.nix-image-action.compression'

/**
 * On the entry of an image that was merged without a record, so that its SBOM, if it has one, could not be found. A later
 * build does not build the image again for that reason.
 */
export const UNKNOWN_SBOM: Annotations = { 'io.github.nix-image-action.sbom': 'unknown' }

export function hasUnknownSbom(annotations: Annotations): boolean {
  return Object.entries(UNKNOWN_SBOM).every(([key, value]) => annotations[key] === value)
}

/**
 * Returns the build info of an image.
 * @param asked the requested compression
 * @param formats the compression of each layer
 */
export function describeBuild(
  storePath: string,
  labels: Readonly<Record<string, string>>,
  asked: LayerFormat,
  formats: readonly (LayerFormat | undefined)[],
): BuildInfo {
  const keptSome = formats.some((format) => format !== asked)
  return { storePath, labels: Object.keys(labels), ...(keptSome && { compression: asked }) }
}

/** Returns the annotations of an image's manifest, and of its entry in an index. Label keys are sorted. */
export function toAnnotations({ storePath, labels, compression }: BuildInfo): Annotations {
  return {
    [STORE_PATH]: storePath,
    ...(labels.length > 0 && { [LABELS]: JSON.stringify([...labels].sort()) }),
    ...(compression && { [COMPRESSION]: compression }),
  }
}

/** Reads what `toAnnotations` wrote. Returns undefined unless it is complete and valid. */
export function fromAnnotations(annotations: Annotations): BuildInfo | undefined {
  const { [STORE_PATH]: storePath, [LABELS]: labels = '[]', [COMPRESSION]: compression } = annotations
  const keys = parseKeys(labels)
  if (storePath === undefined || !isStorePath(storePath) || keys === undefined) return undefined
  return { storePath, labels: keys, ...(isLayerFormat(compression) && { compression }) }
}

/** Returns annotations with their build info replaced, at the end. */
export function withBuildInfo(annotations: Annotations, info: BuildInfo | undefined): Annotations {
  const others = Object.entries(annotations).filter(([key]) => ![STORE_PATH, LABELS, COMPRESSION].includes(key))
  return { ...Object.fromEntries(others), ...(info && toAnnotations(info)) }
}

export function sameBuild(one: BuildInfo, other: BuildInfo): boolean {
  return JSON.stringify(toAnnotations(one)) === JSON.stringify(toAnnotations(other))
}

/** Returns build info as one line of a message. */
export function formatBuildInfo({ storePath, labels, compression }: BuildInfo): string {
  const keys = labels.length > 0 ? `labels ${[...labels].sort().join(', ')}` : ''
  return sanitizeLine([storePath, keys, compression && `compression ${compression}`].filter(Boolean).join(', '))
}

const RECIPE = 'io.github.nix-image-action.layer-recipe'

/** Returns the annotation of a layer that tells what it was made from. */
export function recipeAnnotation(recipe: Digest): Annotations {
  return { [RECIPE]: recipe }
}

/** Returns the recipe in the annotations of a layer. */
export function recipeOf({ [RECIPE]: recipe = '' }: Annotations): Digest | undefined {
  return isDigest(recipe) ? recipe : undefined
}

function parseKeys(text: string): readonly string[] | undefined {
  try {
    const keys: unknown = JSON.parse(text)
    return Array.isArray(keys) && keys.every((key) => typeof key === 'string') ? keys : undefined
  } catch {
    return undefined
  }
}
