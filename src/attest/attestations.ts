import * as v from 'valibot'
import { readJson } from '../json.ts'
import type { Descriptor } from '../oci/manifest.ts'
import { DIGEST, type Digest, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { shareLookUps } from '../registry/client.ts'
import { findReferrers } from '../registry/referrers.ts'
import type { Registry } from '../registry/registry.ts'
import type { Signer } from './identity.ts'

/** The media type of Sigstore's bundles: https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md */
export const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
/** The annotation with the type of the statement in a bundle. */
export const PREDICATE_TYPE = 'dev.sigstore.bundle.predicateType'

/** A manifest to attest. */
export type Subject = Pick<Descriptor, 'mediaType' | 'digest' | 'size'>

/** A subject in a repository. */
export interface FoundSubject {
  readonly repository: Repository
  readonly subject: Subject
  /** Whether the registry lists referrers. */
  readonly supported: boolean
  readonly attestations: readonly FoundAttestation[]
}

/** An attestation of a subject. Its signature is not verified. */
export interface FoundAttestation {
  /** Of the manifest that attaches it. */
  readonly digest: Digest
  readonly signer: Signer
}

/** The most attestations that are read for a subject. Any client that can push can add some. */
const ATTESTATIONS_LIMIT = 100
/** In bytes. Bundles with provenance have 10 to 100 KB. */
const BUNDLE_LIMIT = 4 * 1024 * 1024
/** In characters of base64. Fulcio's certificates have about 2000. */
const CERTIFICATE_LIMIT = 32 * 1024

/**
 * Finds the attestations of subjects in all repositories, and who signed them.
 * @param predicateType ignores attestations of other types, such as SBOMs
 * @throws RegistryError
 */
export function findAttestations(
  registry: Registry,
  repositories: readonly Repository[],
  subjects: readonly Subject[],
  predicateType: string,
): Promise<readonly FoundSubject[]> {
  // The subjects usually share a bundle.
  const reader = shareLookUps(registry)
  return settleAll(
    repositories.flatMap((repository) =>
      subjects.map(async (subject) => {
        const { manifests, supported } = await findReferrers(reader, repository, subject.digest)
        const listed = manifests
          .filter((one) => one.artifactType === BUNDLE && one.annotations?.[PREDICATE_TYPE] === predicateType)
          // Lists that clients keep end with the newest.
          .slice(-ATTESTATIONS_LIMIT)
        const read = listed.map(({ digest }) => readAttestation(reader, repository, digest, subject, predicateType))
        return { repository, subject, supported, attestations: (await settleAll(read)).flat() }
      }),
    ),
  )
}

const ATTESTATION = v.object({
  layers: v.tuple([
    v.object({ mediaType: v.literal(BUNDLE), digest: DIGEST, size: v.pipe(v.number(), v.maxValue(BUNDLE_LIMIT)) }),
  ]),
})
const SIGNED = v.object({
  verificationMaterial: v.object({
    certificate: v.object({ rawBytes: v.pipe(v.string(), v.maxLength(CERTIFICATE_LIMIT)) }),
  }),
  dsseEnvelope: v.object({ payload: v.string() }),
})
const STATEMENT = v.object({
  predicateType: v.string(),
  subject: v.array(v.object({ digest: v.record(v.string(), v.string()) })),
})

/** Returns nothing if the manifest was deleted, or does not attest the subject. */
async function readAttestation(
  registry: Registry,
  repository: Repository,
  digest: Digest,
  subject: Subject,
  predicateType: string,
): Promise<readonly FoundAttestation[]> {
  // Clean-up jobs delete manifests without tags, but not their entries in the lists that clients keep.
  const stored = await registry.getManifest(repository, digest)
  const manifest = stored && readJson(ATTESTATION, stored.bytes)
  if (!manifest?.ok) return []
  const [layer] = manifest.value.layers
  const bytes = await registry.getBlob(repository, layer.digest, BUNDLE_LIMIT)
  const bundle = bytes && readJson(SIGNED, bytes)
  if (!bundle?.ok) return []
  const { verificationMaterial, dsseEnvelope } = bundle.value
  const statement = readJson(STATEMENT, Buffer.from(dsseEnvelope.payload, 'base64'))
  if (!statement.ok || statement.value.predicateType !== predicateType) return []
  if (!statement.value.subject.some((one) => `sha256:${one.digest.sha256}` === subject.digest)) return []
  // Loaded only here: most runs read no certificate.
  const { readSigner } = await import('./certificate.ts')
  const signer = readSigner(verificationMaterial.certificate.rawBytes)
  return signer === undefined ? [] : [{ digest, signer }]
}
