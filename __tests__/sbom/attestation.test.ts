import { expect, test } from '@jest/globals'
import { digestOf } from '../../src/oci/reference.ts'
import {
  attestationAnnotations,
  documentIn,
  findStatement,
  renameDocument,
  sbomAttestation,
} from '../../src/sbom/attestation.ts'
import { spdxDocument } from '../../src/sbom/spdx.ts'

const IMAGE = digestOf(Buffer.from('image'))
const OTHER = digestOf(Buffer.from('other image'))
const MEDIA_TYPE = 'application/vnd.oci.image.manifest.v1+json'
const SUBJECT = { name: 'ghcr.io/owner/app', mediaType: MEDIA_TYPE, digest: IMAGE, size: 5 }
const APP = `/nix/store/${'a'.repeat(32)}-größe-1.0`

function documentOf(digest = IMAGE): Buffer {
  const image = { name: SUBJECT.name, digest, created: '1970-01-01T00:00:01Z' }
  const platform = { os: 'linux', architecture: 'amd64' }
  return spdxDocument({ image, platform, layers: [], storePaths: [{ path: APP, references: [] }], modules: [] })
}

const DOCUMENT = documentOf()

test('an SBOM is attested as BuildKit does it', () => {
  const { manifest, statement, digest } = sbomAttestation(SUBJECT, DOCUMENT)
  expect(JSON.parse(statement.toString())).toEqual({
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{ name: 'ghcr.io/owner/app', digest: { sha256: IMAGE.slice(7) } }],
    predicateType: 'https://spdx.dev/Document',
    predicate: JSON.parse(DOCUMENT.toString()),
  })
  expect(digest).toBe(digestOf(manifest))
  expect(JSON.parse(manifest.toString())).toEqual({
    schemaVersion: 2,
    mediaType: MEDIA_TYPE,
    artifactType: 'application/vnd.docker.attestation.manifest.v1+json',
    config: {
      mediaType: 'application/vnd.oci.empty.v1+json',
      digest: 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a',
      size: 2,
      data: 'e30=',
    },
    layers: [
      {
        mediaType: 'application/vnd.in-toto+json',
        digest: digestOf(statement),
        size: statement.length,
        annotations: { 'in-toto.io/predicate-type': 'https://spdx.dev/Document' },
      },
    ],
    subject: { mediaType: MEDIA_TYPE, digest: IMAGE, size: 5 },
  })
  expect(attestationAnnotations(IMAGE)).toEqual({
    'vnd.docker.reference.type': 'attestation-manifest',
    'vnd.docker.reference.digest': IMAGE,
  })
})

test('the document in an attestation has the same bytes as before', () => {
  const { manifest, statement } = sbomAttestation(SUBJECT, DOCUMENT)
  expect(findStatement(manifest, IMAGE)).toBe(digestOf(statement))
  expect(documentIn(statement)?.toString()).toBe(DOCUMENT.toString())
})

test('the attestation of another image, or of another kind, has no SBOM of the image', () => {
  const { manifest, statement } = sbomAttestation(SUBJECT, DOCUMENT)
  const change = (bytes: Buffer, from: string, to: string) => Buffer.from(bytes.toString().replaceAll(from, to))
  expect(findStatement(manifest, OTHER)).toBeUndefined()
  expect(findStatement(change(manifest, 'spdx.dev', 'slsa.dev'), IMAGE)).toBeUndefined()
  expect(findStatement(change(manifest, 'vnd.docker.attestation', 'other'), IMAGE)).toBeUndefined()
  expect(documentIn(change(statement, 'https://spdx.dev/Document', 'https://slsa.dev/provenance/v1'))).toBeUndefined()
  for (const damaged of ['', 'null', '[]', '{', '{"predicateType":"https://spdx.dev/Document","predicate":1}']) {
    expect(findStatement(Buffer.from(damaged), IMAGE)).toBeUndefined()
    expect(documentIn(Buffer.from(damaged))).toBeUndefined()
  }
})

test('a renamed SBOM is the one that a build would make for the new digest', () => {
  expect(renameDocument(DOCUMENT, IMAGE, OTHER).toString()).toBe(documentOf(OTHER).toString())
})
