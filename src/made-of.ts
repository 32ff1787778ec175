import { isStorePath } from './nix/store-path.ts'
import { isLayerFormat, type LayerFormat } from './oci/media-type.ts'

/** All that an image is made of: whoever knows it of a published image knows what a build would publish. */
export interface MadeOf {
  readonly storePath: string
  /** The keys of the labels that build added. Their values the image has itself. */
  readonly labels: readonly string[]
  /** What build was to compress layers with, where there are some that it left as they came, compressed by another. */
  readonly compression?: LayerFormat | undefined
}

type Annotations = Readonly<Record<string, string>>

const STORE_PATH = 'io.github.nix-image-action.store-path'
const LABELS = 'io.github.nix-image-action.labels'
const COMPRESSION = 'io.github.nix-image-action.compression'

/** What an index says of it in the annotations of the image's descriptor. */
export function annotate({ storePath, labels, compression }: MadeOf): Annotations {
  return {
    [STORE_PATH]: storePath,
    ...(labels.length > 0 && { [LABELS]: JSON.stringify([...labels].sort()) }),
    ...(compression && { [COMPRESSION]: compression }),
  }
}

/** Reads what `annotate` wrote. @returns nothing where that is not beyond doubt */
export function readMadeOf(annotations: Annotations): MadeOf | undefined {
  const { [STORE_PATH]: storePath, [LABELS]: labels = '[]', [COMPRESSION]: compression } = annotations
  const keys = parseKeys(labels)
  if (storePath === undefined || !isStorePath(storePath) || keys === undefined) return undefined
  return { storePath, labels: keys, ...(isLayerFormat(compression) && { compression }) }
}

function parseKeys(text: string): readonly string[] | undefined {
  try {
    const keys: unknown = JSON.parse(text)
    return Array.isArray(keys) && keys.every((key) => typeof key === 'string') ? keys : undefined
  } catch {
    return undefined
  }
}
