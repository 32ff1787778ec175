import { type Descriptor, EMPTY_CONFIG, EMPTY_CONFIG_DESCRIPTOR, OCI_MANIFEST } from '../oci/manifest.ts'
import { type Digest, digestOf, formatRepository, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { blobOf } from '../registry/blobs.ts'
import { putBlobEverywhere } from '../registry/copy.ts'
import { addReferrers, findReferrers, type Referrers } from '../registry/referrers.ts'
import type { Registry } from '../registry/registry.ts'

/** The media type of Sigstore's bundles: https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md */
const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
const PREDICATE_TYPE = 'dev.sigstore.bundle.predicateType'

/** A manifest to attest. */
export type Subject = Pick<Descriptor, 'mediaType' | 'digest' | 'size'>

/** A subject in a repository. */
export interface AttestedSubject {
  readonly repository: Repository
  readonly subject: Subject
  /** Whether the registry lists referrers. */
  readonly supported: boolean
  /** The manifest of its attestation, if it has one. */
  readonly attestation?: Digest | undefined
}

/**
 * Finds the attestations of subjects in all repositories.
 * @param predicateType ignores attestations of other types, such as SBOMs
 * @throws RegistryError
 */
export function findAttestations(
  registry: Registry,
  repositories: readonly Repository[],
  subjects: readonly Subject[],
  predicateType: string,
): Promise<readonly AttestedSubject[]> {
  return settleAll(
    repositories.flatMap((repository) =>
      subjects.map(async (subject) => {
        const referrers = await findReferrers(registry, repository, subject.digest)
        const attestation = await findExisting(registry, repository, referrers, predicateType)
        return { repository, subject, supported: referrers.supported, attestation }
      }),
    ),
  )
}

async function findExisting(
  registry: Registry,
  repository: Repository,
  { manifests, supported }: Referrers,
  predicateType: string,
): Promise<Digest | undefined> {
  for (const { digest, artifactType, annotations } of manifests) {
    if (artifactType !== BUNDLE || annotations?.[PREDICATE_TYPE] !== predicateType) continue
    // Clean-up jobs delete manifests without tags, but not their entries in the lists that clients keep.
    if (supported || (await registry.findDigest(repository, digest)) !== undefined) return digest
  }
  return undefined
}

/**
 * Uploads a bundle to the repositories of subjects, where it attests nothing yet.
 * @throws RegistryError
 */
export async function uploadBundle(
  registry: Registry,
  subjects: readonly AttestedSubject[],
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
  subjects: readonly AttestedSubject[],
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
