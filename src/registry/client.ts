import { formatRepository, isDigest } from '../oci/reference.ts'
import type { RegistrySettings } from './authorization.ts'
import { createBlobReader, createBlobWriter } from './blobs.ts'
import { createManifestClient } from './manifests.ts'
import { createReferrersReader } from './referrers.ts'
import type { ReadOptions, Registry } from './registry.ts'
import { createRequests } from './requests.ts'

/** Returns a client for all registries. */
export function createRegistry(settings: RegistrySettings): Registry {
  const requests = createRequests(settings)
  return {
    ...createManifestClient(requests),
    ...createReferrersReader(requests),
    ...createBlobReader(requests),
    ...createBlobWriter(requests),
  }
}

interface SharedRead {
  /** Whether the read is repeated while it finds nothing. */
  readonly retryNotFound: boolean
  readonly found: Promise<unknown>
}

/**
 * Returns a registry client that reads each manifest and blob once, even if several images contain it. Content that was
 * not found is read again by the next call, because it may have been written since.
 */
export function shareLookUps(registry: Registry): Registry {
  const asked = new Map<string, SharedRead>()

  function share<Found>(
    key: string,
    { retryNotFound = false }: ReadOptions = {},
    ask: () => Promise<Found | undefined>,
  ): Promise<Found | undefined> {
    const known = asked.get(key) as
      | { readonly retryNotFound: boolean; readonly found: Promise<Found | undefined> }
      | undefined
    // A single read in progress does not suffice for a caller that wants it repeated.
    if (known !== undefined && (known.retryNotFound || !retryNotFound)) return known.found
    const found = known === undefined ? ask() : known.found.then((one) => one ?? ask(), ask)
    const own = { retryNotFound, found }
    asked.set(key, own)
    const forget = (): void => {
      if (asked.get(key) === own) asked.delete(key)
    }
    found.then((one) => one ?? forget(), forget)
    return found
  }

  return {
    ...registry,
    getManifest(repository, reference, options) {
      const ask = () => registry.getManifest(repository, reference, options)
      return isDigest(reference) ? share(`manifest ${formatRepository(repository)}@${reference}`, options, ask) : ask()
    },
    getBlob(repository, digest, limit, options) {
      const ask = () => registry.getBlob(repository, digest, limit, options)
      return share(`blob of at most ${limit} bytes ${formatRepository(repository)}@${digest}`, options, ask)
    },
    async hasBlob(repository, digest, options) {
      const ask = async () => (await registry.hasBlob(repository, digest, options)) || undefined
      return (await share(`blob ${formatRepository(repository)}@${digest}`, options, ask)) === true
    },
  }
}
