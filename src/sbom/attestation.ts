import * as v from 'valibot'
import { readJson } from '../json.ts'
import { type Descriptor, EMPTY_CONFIG_DESCRIPTOR, OCI_MANIFEST } from '../oci/manifest.ts'
import { DIGEST, type Digest, digestOf } from '../oci/reference.ts'

/** The attestation of an SBOM: a manifest that belongs beside the image's in an index, and its blobs. */
export interface SbomAttestation {
  readonly digest: Digest
  readonly manifest: Buffer
  /** The statement about the image, which contains the SBOM. */
  readonly statement: Buffer
}

/** The image that an SBOM describes. */
export interface SbomSubject extends Pick<Descriptor, 'mediaType' | 'digest' | 'size'> {
  /** Without tag or digest: `ghcr.io/owner/app`. */
  readonly name: string
}

/** The type of statements with an SBOM. `docker buildx imagetools inspect` reads only this one. */
const SPDX = 'https://spdx.dev/Document'
const STATEMENT = 'application/vnd.in-toto+json'
const ATTESTATION = 'application/vnd.docker.attestation.manifest.v1+json'

/**
 * Returns the attestation of an SBOM as BuildKit would make it.
 * https://docs.docker.com/build/metadata/attestations/attestation-storage/
 * @param document the SPDX document
 */
export function sbomAttestation({ name, ...subject }: SbomSubject, document: Buffer): SbomAttestation {
  const [, sha256 = ''] = subject.digest.split(':')
  const statement = Buffer.from(
    `{"_type":"https://in-toto.io/Statement/v1","subject":${JSON.stringify([{ name, digest: { sha256 } }])},"predicateType":"${SPDX}","predicate":${document}}`,
  )
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      artifactType: ATTESTATION,
      config: EMPTY_CONFIG_DESCRIPTOR,
      layers: [
        {
          mediaType: STATEMENT,
          digest: digestOf(statement),
          size: statement.length,
          annotations: { 'in-toto.io/predicate-type': SPDX },
        },
      ],
      subject,
    }),
  )
  return { digest: digestOf(manifest), manifest, statement }
}

/** Returns the annotations with which an index lists the attestation of an image. */
export function attestationAnnotations(image: Digest): Readonly<Record<string, string>> {
  return { 'vnd.docker.reference.type': 'attestation-manifest', 'vnd.docker.reference.digest': image }
}

const ATTESTATION_MANIFEST = v.object({
  artifactType: v.literal(ATTESTATION),
  subject: v.object({ digest: DIGEST }),
  layers: v.array(
    v.object({
      digest: DIGEST,
      annotations: v.optional(v.record(v.string(), v.string()), {}),
    }),
  ),
})

/**
 * Returns the digest of the statement in the attestation of an image's SBOM.
 * @returns undefined if the manifest is anything else, or is for another image
 */
export function findStatement(manifest: Buffer, image: Digest): Digest | undefined {
  const read = readJson(ATTESTATION_MANIFEST, manifest)
  if (!read.ok || read.value.subject.digest !== image) return undefined
  return read.value.layers.find(({ annotations }) => annotations['in-toto.io/predicate-type'] === SPDX)?.digest
}

const SBOM_STATEMENT = v.object({ predicateType: v.literal(SPDX), predicate: v.looseObject({}) })

/** Returns the SPDX document in a statement, undefined if it contains none. */
export function documentIn(statement: Buffer): Buffer | undefined {
  const read = readJson(SBOM_STATEMENT, statement)
  return read.ok ? Buffer.from(JSON.stringify(read.value.predicate)) : undefined
}

/**
 * Returns the SBOM of an image whose labels were replaced. It has the same content, and another digest.
 * @param document as `spdxDocument` returns it
 */
export function renameDocument(document: Buffer, before: Digest, after: Digest): Buffer {
  return Buffer.from(document.toString().replaceAll(hexOf(before), hexOf(after)))
}

function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length)
}
