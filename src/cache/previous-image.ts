import { failureSummary } from '../errors.ts'
import type { Log } from '../log.ts'
import { parseManifest } from '../oci/document.ts'
import { formatReference, type Reference } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { ReuseError } from './reuse-error.ts'

/** What a reference of `reuse-from` leads to: an image, or an index of several. */
export interface PreviousImage {
  readonly reference: Reference
  readonly stored: StoredManifest
  readonly content: ReturnType<typeof parseManifest>
}

/**
 * Reads what was published before. What can't be read is nothing to go by, whatever the reason, and that is said in a
 * line.
 */
export async function readPreviousImages(
  registry: Registry,
  references: readonly Reference[],
  log: Log,
): Promise<readonly PreviousImage[]> {
  const items = references.map((reference) => ({ reference }))
  return readEach(items, log, async ({ reference }) => {
    const stored = await registry.getManifest(reference.repository, reference.digest ?? reference.tag ?? 'latest')
    if (stored === undefined) throw new ReuseError({ message: 'it is not there yet' })
    return { reference, stored, content: parseManifest(stored.bytes, stored.mediaType, formatReference(reference)) }
  })
}

/** Reads what there is behind each reference; of one that can't be read, a line says why there is nothing to reuse. */
export async function readEach<Item extends { readonly reference: Reference }, Result>(
  items: readonly Item[],
  log: Log,
  read: (item: Item) => Promise<Result>,
): Promise<readonly Result[]> {
  const found = await Promise.all(
    items.map(async (item) => {
      try {
        return [await read(item)]
      } catch (error) {
        log.info(`Nothing to reuse from ${formatReference(item.reference)}: ${failureSummary(error)}`)
        return []
      }
    }),
  )
  return found.flat()
}
