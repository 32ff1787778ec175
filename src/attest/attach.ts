import { type Descriptor, EMPTY_CONFIG, EMPTY_CONFIG_DESCRIPTOR, OCI_MANIFEST } from '../oci/manifest.ts'
import { type Digest, digestOf, formatRepository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { blobOf } from '../registry/blobs.ts'
import { putBlobEverywhere } from '../registry/copy.ts'
import { addReferrers } from '../registry/referrers.ts'
import type { Registry } from '../registry/registry.ts'
import { BUNDLE, type FoundSubject, PREDICATE_TYPE, type Subject } from './attestations.ts'

/** A subject with its attestation. */
export interface AttestedSubject extends FoundSubject {
  /** The manifest that attaches the attestation. */
  readonly attestation: Digest
}

/**
 * Uploads a bundle to the repositories of subjects.
 * @throws RegistryError
 */
export async function uploadBundle(
  registry: Registry,
  subjects: readonly FoundSubject[],
  bundle: Buffer,
): Promise<void> {
  const repositories = [...new Map(subjects.map((one) => [formatRepository(one.repository), one.repository])).values()]
  await settleAll([EMPTY_CONFIG, bundle].map((bytes) => putBlobEverywhere(registry, repositories, blobOf(bytes))))
}

/**
 * Attaches an uploaded bundle to subjects as a referrer, to all of them at the same time.
 * @returns the subjects with their attestations
 * @throws RegistryError
 */
export function attachBundle(
  registry: Registry,
  subjects: readonly FoundSubject[],
  bundle: Buffer,
  predicateType: string,
): Promise<readonly AttestedSubject[]> {
  return settleAll(
    subjects.map(async (one) => {
      const { repository, subject, supported } = one
      const manifest = composeAttestation(subject, bundle, predicateType)
      const { digest, mediaType } = manifest.descriptor
      const indexed = await registry.putManifest(repository, digest, mediaType, manifest.bytes)
      if (indexed !== subject.digest || !supported)
        await addReferrers(registry, repository, subject.digest, [manifest.descriptor])
      return { ...one, attestation: digest }
    }),
  )
}

interface Attestation {
  readonly bytes: Buffer
  /** The entry for a list of referrers. */
  readonly descriptor: Descriptor
}

/** Composes the manifest that attaches a bundle to a subject. Has no time of creation, so that it is the same each time. */
export function composeAttestation(
  { mediaType, digest, size }: Subject,
  bundle: Buffer,
  predicateType: string,
): Attestation {
  const annotations = { 'dev.sigstore.bundle.content': 'dsse-envelope', [PREDICATE_TYPE]: predicateType }
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    artifactType: BUNDLE,
    config: EMPTY_CONFIG_DESCRIPTOR,
    layers: [{ mediaType: BUNDLE, digest: digestOf(bundle), size: bundle.length }],
    subject: { mediaType, digest, size },
    annotations,
  }
  const bytes = Buffer.from(JSON.stringify(manifest))
  return {
    bytes,
    descriptor: {
      mediaType: OCI_MANIFEST,
      digest: digestOf(bytes),
      size: bytes.length,
      annotations,
      artifactType: BUNDLE,
    },
  }
}
