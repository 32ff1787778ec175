import { attest, type IndexAttestation } from '../attest/attest.ts'
import { requireIdentity } from '../attest/identity.ts'
import type { Workflow } from '../context.ts'
import type { MergeInputs } from '../inputs/merge.ts'
import type { Member } from '../publish/verify.ts'
import type { StoredManifest } from '../registry/registry.ts'
import type { Tools } from './mode.ts'

/** Attests how an index and its images were built. */
export type AttestIndex = (index: StoredManifest, members: readonly Member[]) => Promise<IndexAttestation>

/**
 * Returns how this merge attests its index. Checks first that the job has an identity, before anything is published.
 * @returns undefined if it attests nothing
 * @throws AttestError
 */
export function prepareAttestation(
  { attest: wanted, push, images, token }: MergeInputs,
  { identity: source, source: url, api, repository }: Workflow,
  { registry, http, log, signing }: Tools,
): AttestIndex | undefined {
  if (!wanted || !push) return undefined
  const identity = requireIdentity(source)
  log.mask(identity.token)
  const server = new URL(url).origin
  const store = { api, repository, token }
  return (index, members) =>
    attest(
      { images, index, builds: members.map(buildOf), server, identity, store, ...signing },
      { registry, http, log },
    )
}

function buildOf({ platform, system, image: { mediaType, digest, size }, info, record }: Member) {
  return {
    platform,
    system,
    mediaType,
    digest,
    size,
    derivation: record?.derivation,
    storePath: info?.storePath ?? record?.storePath,
    revision: record?.revision,
    source: record?.source,
    inputs: record?.inputs,
  }
}
