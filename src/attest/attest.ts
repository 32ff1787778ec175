import type { IdentitySource } from '../context.ts'
import type { Http } from '../http/client.ts'
import type { JobLog } from '../log.ts'
import { type Digest, formatReference, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { type AttestedSubject, attachBundle, uploadBundle } from './attach.ts'
import { type FoundSubject, findAttestations, type Subject } from './attestations.ts'
import { type AttestationStore, storeWithGitHub } from './github.ts'
import { isSameSigner, requestIdentity, type Signer, signerOf } from './identity.ts'
import { composeProvenance, type PlatformBuild, PROVENANCE_TYPE } from './provenance.ts'
import { servicesFor, signStatement } from './sign.ts'
import type { SigningLimits, SigningServices } from './sigstore.ts'

/** An index to attest, which is in all repositories, as are its images. */
export interface AttestRequest {
  /** At least one. The subjects get the name of the first. */
  readonly images: readonly Repository[]
  readonly index: StoredManifest
  readonly builds: readonly (PlatformBuild & Subject)[]
  /** The URL of the Git host: `https://github.com`. */
  readonly server: string
  readonly identity: IdentitySource
  readonly store: AttestationStore
  /** Replaced by tests. */
  readonly services?: SigningServices
  /** Replaced by tests. */
  readonly limits?: SigningLimits
}

export interface AttestTools {
  readonly registry: Registry
  readonly http: Http
  readonly log: JobLog
}

/** The attestation of an index. */
export interface IndexAttestation {
  /** The manifest that attaches it to the index in the first repository. */
  readonly digest: Digest
  /** The page on GitHub, if it is stored there. */
  readonly url?: string | undefined
}

/**
 * Attests how an index and its images were built: signs one statement about all of them, stores it with GitHub, and
 * attaches it to each of them in every repository. Signs nothing if all of them have an attestation of the same signer:
 * policies may refuse those that a run of another branch or workflow has signed. Call this after the index has been stored
 * and before a tag moves.
 * @throws AttestError, RegistryError, HttpError
 */
export async function attest(request: AttestRequest, tools: AttestTools): Promise<IndexAttestation> {
  const { images, index, builds, store } = request
  const { registry, http, log } = tools
  const [image] = images
  if (image === undefined) throw new Error('an index is attested in at least one repository')
  const name = formatReference({ repository: image, digest: index.digest })
  const server = request.server.replace(/\/$/, '')
  const finding = findAttestations(registry, images, subjectsOf(index, builds), PROVENANCE_TYPE)
  const identifying = requestIdentity(request.identity, http, log.mask)
  await settleAll<unknown>([finding, identifying])
  const found = await finding
  const identity = await identifying
  const { claims } = identity
  const signer = signerOf(claims, server)
  const existing = found.map((one) => withAttestationOf(signer, one))
  if (!existing.includes(undefined)) {
    log.info(`${name} and its images are already attested, signed as ${signer.workflow}`)
    return { digest: attestationOf(existing, index) }
  }
  const statement = composeProvenance({ image, index: index.digest, builds, server, claims })
  const services = request.services ?? servicesFor(claims, server)
  const { bytes, logIndex } = await signStatement(statement, identity, services, request.limits)
  const storing = storeWithGitHub(store, bytes, http)
  await settleAll<unknown>([storing, uploadBundle(registry, found, bytes)])
  const storage = await storing
  // Last: once the registries list the attestation, the next run signs nothing.
  const attached = await attachBundle(registry, found, bytes, PROVENANCE_TYPE)
  const logged = logIndex === undefined ? '' : `, with the entry ${logIndex} in the log of ${services.rekor}`
  log.info(`Attested ${name} and its ${builds.length} images: signed as ${signer.workflow}${logged}`)
  if (!storage.stored) log.notice(storage.notice)
  const id = storage.stored ? storage.id : undefined
  return {
    digest: attestationOf(attached, index),
    ...(id !== undefined && { url: `${server}/${claims.repository}/attestations/${id}` }),
  }
}

/** Returns a subject with its attestation by a signer, undefined if it has none. */
function withAttestationOf(signer: Signer, found: FoundSubject): AttestedSubject | undefined {
  const own = found.attestations.find((one) => isSameSigner(one.signer, signer))
  return own && { ...found, attestation: own.digest }
}

function subjectsOf(index: StoredManifest, builds: AttestRequest['builds']): readonly Subject[] {
  const ofIndex = { mediaType: index.mediaType, digest: index.digest, size: index.bytes.length }
  const all = [ofIndex, ...builds.map(({ mediaType, digest, size }) => ({ mediaType, digest, size }))]
  return [...new Map(all.map((subject) => [subject.digest, subject])).values()]
}

function attestationOf(subjects: readonly (AttestedSubject | undefined)[], { digest }: StoredManifest): Digest {
  const ofIndex = subjects.find((one) => one?.subject.digest === digest)
  if (ofIndex === undefined) throw new Error('the index is attested')
  return ofIndex.attestation
}
