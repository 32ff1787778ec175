import { isDigest } from '../oci/digest.ts'
import { formatRepository } from '../oci/reference.ts'
import type { Look, Registry } from './registry.ts'

interface Asked {
  /** Whether the question is asked again where nothing is found. */
  readonly written: boolean
  readonly found: Promise<unknown>
}

/**
 * Returns a registry that is asked for each manifest and blob once, though several images have it. What was not found is
 * looked for again by the next one who asks, because it may have been written since.
 */
export function shareLookUps(registry: Registry): Registry {
  const asked = new Map<string, Asked>()

  function share<Found>(
    key: string,
    { written = false }: Look = {},
    ask: () => Promise<Found | undefined>,
  ): Promise<Found | undefined> {
    const known = asked.get(key) as
      | { readonly written: boolean; readonly found: Promise<Found | undefined> }
      | undefined
    // A single look under way is not enough for those who know that it is there.
    if (known !== undefined && (known.written || !written)) return known.found
    const found = known === undefined ? ask() : known.found.then((one) => one ?? ask(), ask)
    const own = { written, found }
    asked.set(key, own)
    const forget = (): void => {
      if (asked.get(key) === own) asked.delete(key)
    }
    found.then((one) => one ?? forget(), forget)
    return found
  }

  return {
    ...registry,
    getManifest(repository, reference, look) {
      const ask = () => registry.getManifest(repository, reference, look)
      return isDigest(reference) ? share(`manifest ${formatRepository(repository)}@${reference}`, look, ask) : ask()
    },
    getBlob(repository, digest, limit, look) {
      const ask = () => registry.getBlob(repository, digest, limit, look)
      return share(`blob of at most ${limit} bytes ${formatRepository(repository)}@${digest}`, look, ask)
    },
    async hasBlob(repository, digest, look) {
      const ask = async () => (await registry.hasBlob(repository, digest, look)) || undefined
      return (await share(`blob ${formatRepository(repository)}@${digest}`, look, ask)) === true
    },
  }
}
