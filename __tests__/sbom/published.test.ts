import { expect, test } from '@jest/globals'
import { digestOf } from '../../src/oci/reference.ts'
import { sbomAttestation } from '../../src/sbom/attestation.ts'
import { modulesOfSameContent, publishedContent } from '../../src/sbom/published.ts'
import type { BinaryModule } from '../../src/sbom/purl.ts'
import { type ImageContents, spdxDocument } from '../../src/sbom/spdx.ts'

const GLIBC = `/nix/store/${'a'.repeat(32)}-glibc-2.40-66`
const APP = `/nix/store/${'b'.repeat(32)}-app-1.0`
const UNKNOWN = `/nix/store/${'c'.repeat(32)}-unknown-1.0`
const GLIBC_HASH = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
const APP_HASH = 'sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ='
const TOML: BinaryModule = { type: 'golang', name: 'github.com/BurntSushi/toml', version: 'v1.3.2' }
const MAIN: BinaryModule = { type: 'golang', name: 'example.com/app' }
const ITOA: BinaryModule = { type: 'cargo', name: 'itoa', version: '1.0.9' }

const LOWER = digestOf(Buffer.from('lower layer'))
const FILES = digestOf(Buffer.from('a layer without store paths'))
const UPPER = digestOf(Buffer.from('upper layer'))
const DIGEST = digestOf(Buffer.from('manifest'))
const CONTENTS: ImageContents = {
  image: { name: 'ghcr.io/owner/app', digest: DIGEST, created: undefined },
  platform: { os: 'linux', architecture: 'amd64' },
  layers: [
    { diffId: LOWER, storePaths: [GLIBC] },
    { diffId: FILES, storePaths: [] },
    { diffId: UPPER, storePaths: [APP, GLIBC, UNKNOWN] },
  ],
  storePaths: [
    { path: APP, narHash: APP_HASH, references: [APP, GLIBC] },
    { path: GLIBC, narHash: GLIBC_HASH, references: [GLIBC] },
    { path: UNKNOWN },
  ],
  modules: [
    { path: APP, modules: [ITOA, MAIN, TOML] },
    { path: UNKNOWN, modules: [ITOA] },
  ],
}

function statementOf(document: Buffer): Buffer {
  const subject = { name: 'ghcr.io/owner/app', mediaType: 'application/json', digest: DIGEST, size: 8 }
  return sbomAttestation(subject, document).statement
}

const STATEMENT = statementOf(spdxDocument(CONTENTS))

const PUBLISHED = publishedContent(STATEMENT)

test('returns the store paths of each layer, with their hashes and modules', () => {
  expect(PUBLISHED).toEqual({
    layers: [
      { diffId: LOWER, storePaths: [GLIBC] },
      { diffId: FILES, storePaths: [] },
      { diffId: UPPER, storePaths: [GLIBC, APP, UNKNOWN] },
    ],
    storePaths: [
      { path: GLIBC, narHash: GLIBC_HASH, modules: [] },
      { path: APP, narHash: APP_HASH, modules: [ITOA, MAIN, TOML] },
      { path: UNKNOWN, narHash: undefined, modules: [ITOA] },
    ],
  })
})

const PUBLISHED_LIST = PUBLISHED ? [PUBLISHED] : []

test('a document made from published modules is the same as one from a search', () => {
  const known = [...modulesOfSameContent(PUBLISHED_LIST, CONTENTS.storePaths).values()]
  const searched = CONTENTS.modules.filter(({ path }) => path === UNKNOWN)
  expect(spdxDocument({ ...CONTENTS, modules: [...known, ...searched] })).toEqual(spdxDocument(CONTENTS))
})

test('a store path that was built again with other content is not taken from the SBOM', () => {
  const rebuilt = [
    { path: APP, narHash: GLIBC_HASH },
    { path: GLIBC, narHash: GLIBC_HASH },
  ]
  expect([...modulesOfSameContent(PUBLISHED_LIST, rebuilt).keys()]).toEqual([GLIBC])
  expect([...modulesOfSameContent(PUBLISHED_LIST, [{ path: APP }])]).toEqual([])
})

const DOCUMENT = JSON.parse(spdxDocument(CONTENTS).toString())

test.each([
  ['is of another tool', { ...DOCUMENT, creationInfo: { creators: ['Tool: syft-1.0.0'] } }],
  ['comes from another search', { ...DOCUMENT, creationInfo: { creators: ['Tool: nix-image-action-0'] } }],
  ['has several creators', { ...DOCUMENT, creationInfo: { creators: [...DOCUMENT.creationInfo.creators, 'Tool: x'] } }],
  ['has no packages', { ...DOCUMENT, packages: undefined }],
  ['has packages of another form', { ...DOCUMENT, packages: [{ SPDXID: 1 }] }],
])('a document that %s is not used', (_, document) => {
  expect(publishedContent(statementOf(Buffer.from(JSON.stringify(document))))).toBeUndefined()
})

test('a statement that is not JSON is not used', () => {
  expect(publishedContent(Buffer.from('{'))).toBeUndefined()
})
