import { isStorePath } from './nix/store-path.ts'

/** All that an image is made of: whoever knows it of a published image knows what a build would publish. */
export interface MadeOf {
  readonly storePath: string
  /** The keys of the labels that build added. Their values the image has itself. */
  readonly labels: readonly string[]
}

type Annotations = Readonly<Record<string, string>>

const STORE_PATH = 'io.github.nix-image-action.store-path'
const LABELS = 'io.github.nix-image-action.labels'

/** What an index says of it in the annotations of the image's descriptor. */
export function annotate({ storePath, labels }: MadeOf): Annotations {
  return { [STORE_PATH]: storePath, ...(labels.length > 0 && { [LABELS]: JSON.stringify([...labels].sort()) }) }
}

/** Reads what `annotate` wrote. @returns nothing where that is not beyond doubt */
export function readMadeOf({ [STORE_PATH]: storePath, [LABELS]: labels = '[]' }: Annotations): MadeOf | undefined {
  const keys = parseKeys(labels)
  return storePath !== undefined && isStorePath(storePath) && keys ? { storePath, labels: keys } : undefined
}

function parseKeys(text: string): readonly string[] | undefined {
  try {
    const keys: unknown = JSON.parse(text)
    return Array.isArray(keys) && keys.every((key) => typeof key === 'string') ? keys : undefined
  } catch {
    return undefined
  }
}
