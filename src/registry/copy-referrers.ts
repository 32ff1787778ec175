import { type Descriptor, isForeignLayer, parseManifest } from '../oci/manifest.ts'
import { type Digest, formatReference, type Repository } from '../oci/reference.ts'
import { mapAtMost, settleAll } from '../promises.ts'
import { copyBlob } from './copy.ts'
import { addReferrers, findReferrers } from './referrers.ts'
import type { Registry, StoredManifest } from './registry.ts'

/** A manifest whose referrers are copied to another repository. */
export interface ReferrersCopy {
  readonly digest: Digest
  readonly from: Repository
  readonly to: Repository
}

/** The maximum number of referrers that are copied at the same time. */
const CONCURRENT_REFERRERS = 8

interface Referrer {
  readonly listed: Descriptor
  readonly stored: StoredManifest
  readonly blobs: readonly Descriptor[]
}

/**
 * Copies the referrers of manifests, such as signatures and attestations, to other repositories. Skips referrers that the
 * other repository has, and those that are indexes.
 * @returns the number of bytes that were uploaded
 * @throws RegistryError
 */
export async function copyReferrers(registry: Registry, copies: readonly ReferrersCopy[]): Promise<number> {
  const sizes = await settleAll(copies.map((copy) => copyReferrersOf(registry, copy)))
  return sizes.reduce((sum, size) => sum + size, 0)
}

async function copyReferrersOf(registry: Registry, { digest, from, to }: ReferrersCopy): Promise<number> {
  const { manifests } = await findReferrers(registry, from, digest)
  if (manifests.length === 0) return 0
  const target = await findReferrers(registry, to, digest)
  const missing = manifests.filter((one) => !target.manifests.some((other) => other.digest === one.digest))
  let sent = 0
  const copied = await mapAtMost(CONCURRENT_REFERRERS, missing, async (listed) => {
    const referrer = await readReferrer(registry, from, listed)
    if (referrer === undefined) return []
    const { stored, blobs } = referrer
    for (const blob of blobs) if (await copyBlob(registry, blob, from, to)) sent += blob.size
    const indexed = await registry.putManifest(to, stored.digest, stored.mediaType, stored.bytes)
    return indexed === digest && target.supported ? [] : [listed]
  })
  const unlisted = copied.flat()
  if (unlisted.length > 0) await addReferrers(registry, to, digest, unlisted)
  return sent
}

/** Returns undefined for a manifest that was deleted, and for an index. */
async function readReferrer(
  registry: Registry,
  repository: Repository,
  listed: Descriptor,
): Promise<Referrer | undefined> {
  const { digest } = listed
  const stored = await registry.getManifest(repository, digest)
  const parsed = stored && parseManifest(stored.bytes, stored.mediaType, formatReference({ repository, digest }))
  if (stored === undefined || parsed?.kind !== 'manifest') return undefined
  const layers = parsed.layers.filter(({ mediaType }) => !isForeignLayer(mediaType))
  return { listed, stored, blobs: [parsed.config, ...layers] }
}
