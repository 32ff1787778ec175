import { failureSummary, ReuseError } from '../errors.ts'
import type { Log } from '../log.ts'
import { parseManifest } from '../oci/manifest.ts'
import { formatReference, type Reference } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'

/** A published image or index that `reuse-from` names. */
export interface PreviousImage {
  readonly reference: Reference
  readonly stored: StoredManifest
  readonly content: ReturnType<typeof parseManifest>
}

/** Reads the images that `reuse-from` names. Logs and skips those that can't be read. */
export async function readPreviousImages(
  registry: Registry,
  references: readonly Reference[],
  log: Log,
): Promise<readonly PreviousImage[]> {
  const items = references.map((reference) => ({ reference }))
  return readReusable(items, log, async ({ reference }) => {
    const stored = await registry.getManifest(reference.repository, reference.digest ?? reference.tag ?? 'latest')
    if (stored === undefined) throw new ReuseError({ message: 'does not exist yet' })
    return { reference, stored, content: parseManifest(stored.bytes, stored.mediaType, formatReference(reference)) }
  })
}

/** Reads each item. Logs and skips those that can't be read. */
export async function readReusable<Item extends { readonly reference: Reference }, Result>(
  items: readonly Item[],
  log: Log,
  read: (item: Item) => Promise<Result>,
): Promise<readonly Result[]> {
  const found = await Promise.all(
    items.map(async (item) => {
      try {
        return [await read(item)]
      } catch (error) {
        const name = formatReference(item.reference)
        const reason = failureSummary(error)
        log.info(
          error instanceof ReuseError
            ? `${name} ${reason}; no layers are reused`
            : `Not reusing layers of ${name}: ${reason}`,
        )
        return []
      }
    }),
  )
  return found.flat()
}
