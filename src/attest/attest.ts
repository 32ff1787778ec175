import type { IdentitySource } from '../context.ts'
import type { Http } from '../http/client.ts'
import type { JobLog } from '../log.ts'
import { type Digest, formatReference, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { type AttestedSubject, attachBundle, findAttestations, type Subject, uploadBundle } from './attach.ts'
import { type AttestationStore, storeWithGitHub } from './github.ts'
import { requestIdentity } from './identity.ts'
import { composeProvenance, type PlatformBuild, PROVENANCE_TYPE } from './provenance.ts'
import { servicesFor, signStatement } from './sign.ts'
import type { SigningLimits, SigningServices } from './sigstore.ts'

/** An index to attest, which is in all repositories, as are its images. */
export interface AttestRequest {
  /** At least one. The subjects get the name of the first. */
  readonly images: readonly Repository[]
  readonly index: StoredManifest
  readonly builds: readonly (PlatformBuild & Subject)[]
  /** The commit that was built, if known. */
  readonly revision?: string | undefined
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
  /** Whether the index and its images were attested already. */
  readonly existing: boolean
  /** The page on GitHub, if it is stored there. */
  readonly url?: string | undefined
}

/**
 * Attests how an index and its images were built: signs one statement about all of them, stores it with GitHub, and
 * attaches it to each of them in every repository. Signs nothing if all of them are attested. Call this after the index
 * has been stored and before a tag moves.
 * @throws AttestError, RegistryError, HttpError
 */
export async function attest(request: AttestRequest, tools: AttestTools): Promise<IndexAttestation> {
  const { images, index, builds, store } = request
  const { registry, http, log } = tools
  const [image] = images
  if (image === undefined) throw new Error('an index is attested in at least one repository')
  const name = formatReference({ repository: image, digest: index.digest })
  const found = await findAttestations(registry, images, subjectsOf(index, builds), PROVENANCE_TYPE)
  const missing = found.filter(({ attestation }) => attestation === undefined)
  if (missing.length === 0) {
    log.info(`${name} is already attested, and so are its images`)
    return { digest: attestationOf(found, index), existing: true }
  }
  const identity = await requestIdentity(request.identity, http, log.mask)
  const { claims } = identity
  const server = request.server.replace(/\/$/, '')
  const statement = composeProvenance({
    image,
    index: index.digest,
    builds,
    revision: request.revision,
    server,
    claims,
  })
  const services = request.services ?? servicesFor(claims, server)
  const { bytes, logIndex } = await signStatement(statement, identity, services, request.limits)
  const storing = storeWithGitHub(store, bytes, http)
  await settleAll<unknown>([storing, uploadBundle(registry, missing, bytes)])
  const storage = await storing
  // Last: once the registries list the attestation, the next run signs nothing.
  const attached = await attachBundle(registry, missing, bytes, PROVENANCE_TYPE)
  const logged = logIndex === undefined ? '' : `, with the entry ${logIndex} in the log of ${services.rekor}`
  log.info(`Attested ${name} and its ${builds.length} images: signed as ${server}/${claims.job_workflow_ref}${logged}`)
  if (!storage.stored) log.notice(storage.notice)
  const id = storage.stored ? storage.id : undefined
  return {
    digest: attestationOf([...attached, ...found], index),
    existing: false,
    ...(id !== undefined && { url: `${server}/${claims.repository}/attestations/${id}` }),
  }
}

function subjectsOf(index: StoredManifest, builds: AttestRequest['builds']): readonly Subject[] {
  const ofIndex = { mediaType: index.mediaType, digest: index.digest, size: index.bytes.length }
  const all = [ofIndex, ...builds.map(({ mediaType, digest, size }) => ({ mediaType, digest, size }))]
  return [...new Map(all.map((subject) => [subject.digest, subject])).values()]
}

function attestationOf(subjects: readonly AttestedSubject[], { digest }: StoredManifest): Digest {
  const ofIndex = subjects.find((one) => one.subject.digest === digest && one.attestation !== undefined)
  if (ofIndex?.attestation === undefined) throw new Error('the index is attested')
  return ofIndex.attestation
}
