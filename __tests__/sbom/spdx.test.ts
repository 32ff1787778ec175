import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { digestOf } from '../../src/oci/reference.ts'
import type { BinaryModule } from '../../src/sbom/purl.ts'
import { type ImageContents, spdxDocument } from '../../src/sbom/spdx.ts'

const GLIBC = `/nix/store/${'a'.repeat(32)}-glibc-2.40-66`
const GLIBC_BIN = `/nix/store/${'b'.repeat(32)}-glibc-2.40-66-bin`
const APP = `/nix/store/${'c'.repeat(32)}-app_+1`
const ABSENT = `/nix/store/${'d'.repeat(32)}-absent-1.0`
const DERIVER = `/nix/store/${'f'.repeat(32)}-glibc-2.40-66.drv`
const NAR_HASH = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
const DIGEST = digestOf(Buffer.from('manifest'))
const LOWER = digestOf(Buffer.from('lower layer'))
const UPPER = digestOf(Buffer.from('upper layer'))
const HEX = DIGEST.replace('sha256:', '')
const TOML: BinaryModule = { type: 'golang', name: 'github.com/BurntSushi/toml', version: 'v1.3.2' }
const STDLIB: BinaryModule = { type: 'golang', name: 'stdlib', version: '1.26.1' }
const ITOA: BinaryModule = { type: 'cargo', name: 'itoa', version: '1.0.9' }

const CONTENTS: ImageContents = {
  image: { name: 'ghcr.io/owner/app', digest: DIGEST, created: '1970-01-01T01:00:01+01:00' },
  platform: { os: 'linux', architecture: 'arm64' },
  layers: [
    { diffId: LOWER, storePaths: [GLIBC, GLIBC_BIN] },
    { diffId: UPPER, storePaths: [APP, GLIBC] },
  ],
  storePaths: [
    { path: APP, narHash: NAR_HASH, references: [APP, GLIBC, ABSENT] },
    { path: GLIBC_BIN, narHash: NAR_HASH, references: [GLIBC], deriver: DERIVER },
    { path: GLIBC, narHash: NAR_HASH, references: [GLIBC], deriver: DERIVER },
  ],
  modules: [
    { path: APP, modules: [TOML, STDLIB] },
    { path: GLIBC_BIN, modules: [ITOA, STDLIB] },
  ],
}

interface Document {
  readonly packages: readonly {
    readonly SPDXID: string
    readonly name: string
    readonly externalRefs: readonly { readonly referenceLocator: string }[]
  }[]
  readonly relationships: readonly {
    readonly spdxElementId: string
    readonly relationshipType: string
    readonly relatedSpdxElement: string
  }[]
}

function documentOf(contents: Partial<ImageContents> = {}) {
  return JSON.parse(spdxDocument({ ...CONTENTS, ...contents }).toString('utf8'))
}

function packageNamed(document: Document, purl: string) {
  return document.packages.find(({ externalRefs }) => externalRefs[0]?.referenceLocator.startsWith(purl))
}

/** Formats relationships with the package URLs of their elements, without qualifiers. */
function relationshipsIn(document: Document): readonly string[] {
  const names = new Map(
    document.packages.map(({ SPDXID, externalRefs }) => [SPDXID, externalRefs[0]?.referenceLocator.split('?')[0]]),
  )
  return document.relationships.map(
    ({ spdxElementId, relationshipType, relatedSpdxElement }) =>
      `${names.get(spdxElementId) ?? spdxElementId} ${relationshipType} ${names.get(relatedSpdxElement)}`,
  )
}

/** The rules of https://spdx.github.io/spdx-spec/v2.3/ and its JSON schema. */
function expectValid(bytes: Buffer): void {
  const document = JSON.parse(bytes.toString('utf8'))
  expect(document).toMatchObject({ spdxVersion: 'SPDX-2.3', dataLicense: 'CC0-1.0', SPDXID: 'SPDXRef-DOCUMENT' })
  expect(document.name).toEqual(expect.stringMatching(/./))
  expect(document.documentNamespace).not.toContain('#')
  expect(new URL(document.documentNamespace).protocol).toBe('https:')
  expect(document.creationInfo.created).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
  expect(document.creationInfo.creators).toEqual([expect.stringMatching(/^(?:Tool|Organization|Person): ./)])
  const ids = ['SPDXRef-DOCUMENT', ...document.packages.map(({ SPDXID }: { readonly SPDXID: string }) => SPDXID)]
  expect(new Set(ids).size).toBe(ids.length)
  for (const id of ids) expect(id).toMatch(/^SPDXRef-[A-Za-z0-9.-]+$/)
  for (const {
    name,
    downloadLocation,
    filesAnalyzed,
    versionInfo = 'x',
    checksums = [],
    externalRefs,
  } of document.packages) {
    expect({ downloadLocation, filesAnalyzed }).toEqual({ downloadLocation: 'NOASSERTION', filesAnalyzed: false })
    expect([name, versionInfo]).not.toContain('')
    for (const { checksumValue } of checksums) expect(checksumValue).toMatch(/^[0-9a-f]{64}$/)
    for (const { referenceCategory, referenceType, referenceLocator } of externalRefs) {
      expect(`${referenceCategory} ${referenceType}`).toMatch(/^(?:PACKAGE-MANAGER purl|SECURITY cpe23Type)$/)
      expect(referenceLocator).toMatch(
        /^(?:pkg:[a-z]+\/[A-Za-z0-9._~%/:-]+(?:@[A-Za-z0-9._~%:-]+)?(?:\?[a-z_]+=[^\s]+)?|cpe:2\.3:[^\s]+)$/,
      )
    }
  }
  for (const { spdxElementId, relatedSpdxElement } of document.relationships)
    expect(ids).toEqual(expect.arrayContaining([spdxElementId, relatedSpdxElement]))
}

test('describes the image', () => {
  const document = documentOf()
  expect(document.documentNamespace).toBe(`https://spdx.org/spdxdocs/app-${HEX}`)
  expect(document.creationInfo.created).toBe('1970-01-01T00:00:01Z')
  expect(document.packages[0]).toMatchObject({
    name: 'ghcr.io/owner/app',
    versionInfo: DIGEST,
    primaryPackagePurpose: 'CONTAINER',
    comment: `layer: ${LOWER}\nlayer: ${UPPER}`,
    checksums: [{ algorithm: 'SHA256', checksumValue: HEX }],
  })
  expect(document.packages[0].externalRefs[0].referenceLocator).toBe(
    `pkg:oci/app@sha256:${HEX}?arch=arm64&repository_url=ghcr.io%2Fowner%2Fapp`,
  )
})

test('lists store paths with the name and version that Nix sees in them', () => {
  const document = documentOf()
  expectValid(spdxDocument(CONTENTS))
  expect(
    packageNamed(document, `pkg:nix/glibc@2.40-66?drvpath=${'f'.repeat(32)}-glibc-2.40-66.drv&output=bin`),
  ).toEqual({
    SPDXID: `SPDXRef-${'b'.repeat(32)}-glibc-2.40-66-bin`,
    name: 'glibc',
    versionInfo: '2.40-66',
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    comment: `${GLIBC_BIN}\nnarHash: ${NAR_HASH}\nlayer: ${LOWER}`,
    externalRefs: [
      {
        referenceCategory: 'PACKAGE-MANAGER',
        referenceType: 'purl',
        referenceLocator: `pkg:nix/glibc@2.40-66?drvpath=${'f'.repeat(32)}-glibc-2.40-66.drv&output=bin&outputhash=${'b'.repeat(32)}`,
      },
    ],
  })
  const app = packageNamed(document, `pkg:nix/app_%2B1?outputhash=${'c'.repeat(32)}`)
  expect(app).toMatchObject({ SPDXID: `SPDXRef-${'c'.repeat(32)}-app--1`, name: 'app_+1' })
  expect(app).not.toHaveProperty('versionInfo')
})

test('relates the image, its store paths, their references and the modules of their programs', () => {
  expect(relationshipsIn(documentOf()).toSorted()).toEqual(
    [
      `SPDXRef-DOCUMENT DESCRIBES pkg:oci/app@sha256:${HEX}`,
      ...['glibc@2.40-66', 'glibc@2.40-66', 'app_%2B1'].map(
        (path) => `pkg:oci/app@sha256:${HEX} CONTAINS pkg:nix/${path}`,
      ),
      'pkg:nix/app_%2B1 DEPENDS_ON pkg:nix/glibc@2.40-66',
      'pkg:nix/glibc@2.40-66 DEPENDS_ON pkg:nix/glibc@2.40-66',
      'pkg:nix/app_%2B1 CONTAINS pkg:golang/github.com/burntsushi/toml@v1.3.2',
      'pkg:nix/app_%2B1 CONTAINS pkg:golang/stdlib@1.26.1',
      'pkg:nix/glibc@2.40-66 CONTAINS pkg:cargo/itoa@1.0.9',
      'pkg:nix/glibc@2.40-66 CONTAINS pkg:golang/stdlib@1.26.1',
    ].toSorted(),
  )
})

test('lists a module of several programs once, and the standard library of Go with its CPE', () => {
  const { packages } = documentOf()
  expect(packages.filter(({ name }: { readonly name: string }) => name === 'stdlib')).toEqual([
    expect.objectContaining({
      versionInfo: '1.26.1',
      externalRefs: [
        expect.objectContaining({ referenceLocator: 'pkg:golang/stdlib@1.26.1' }),
        expect.objectContaining({ referenceLocator: 'cpe:2.3:a:golang:go:1.26.1:-:*:*:*:*:*:*' }),
      ],
    }),
  ])
})

describe('a store path that the local store does not have', () => {
  const [glibc, bin] = [{ path: GLIBC }, { path: GLIBC_BIN }]

  test('is listed without hash, references, derivation and output', () => {
    const document = documentOf({ layers: [], storePaths: [glibc], modules: [] })
    expect(document.packages[1]).toMatchObject({ name: 'glibc', versionInfo: '2.40-66', comment: GLIBC })
    expect(document.packages[1].externalRefs[0].referenceLocator).toBe(
      `pkg:nix/glibc@2.40-66?outputhash=${'a'.repeat(32)}`,
    )
    expect(document.relationships).toHaveLength(2)
  })

  test('has the output that its name has, if nixpkgs uses it', () => {
    const document = documentOf({ storePaths: [bin], modules: [] })
    expect(packageNamed(document, 'pkg:nix/glibc@2.40-66?output=bin&')).toMatchObject({ versionInfo: '2.40-66' })
  })
})

test.each([
  ['2024-02-29T12:00:00.123456789Z', '2024-02-29T12:00:00Z'],
  ['0001-01-01T00:00:00Z', '0001-01-01T00:00:00Z'],
  ['yesterday', '1970-01-01T00:00:00Z'],
  ['+275760-09-13T00:00:00Z', '1970-01-01T00:00:00Z'],
  [undefined, '1970-01-01T00:00:00Z'],
])('an image created %s has a document created %s', (created, expected) => {
  expect(documentOf({ image: { ...CONTENTS.image, created } }).creationInfo.created).toBe(expected)
})

const storePath = fc
  .tuple(fc.constantFrom('0', '1', '2', '3'), fc.stringMatching(/^[A-Za-z0-9+._?=-]{1,12}$/))
  .map(([digit, name]) => `/nix/store/${digit.repeat(32)}-${name}`)
const info = fc.record(
  {
    path: storePath,
    narHash: fc.constant(NAR_HASH),
    references: fc.array(storePath, { maxLength: 3 }),
    deriver: storePath.map((path) => `${path}.drv`),
  },
  { requiredKeys: ['path'] },
)
const binaryModule: fc.Arbitrary<BinaryModule> = fc.record(
  {
    type: fc.constantFrom('golang', 'cargo'),
    name: fc.constantFrom('a/b', 'A/b', 'a-b', 'a_b', 'stdlib'),
    version: fc.constantFrom('1.0.0', 'v1.0.0+x'),
  },
  { requiredKeys: ['type', 'name'] },
)
const modulesOfPath = fc.record({ path: storePath, modules: fc.array(binaryModule, { maxLength: 4 }) })

test('any content gives a valid document, which does not depend on its order', () => {
  fc.assert(
    fc.property(fc.array(info, { maxLength: 8 }), fc.array(modulesOfPath, { maxLength: 4 }), (storePaths, modules) => {
      const bytes = spdxDocument({ ...CONTENTS, storePaths, modules })
      expectValid(bytes)
      const reversed = modules.map(({ path, modules }) => ({ path, modules: modules.toReversed() })).toReversed()
      expect(spdxDocument({ ...CONTENTS, storePaths: storePaths.toReversed(), modules: reversed })).toEqual(bytes)
    }),
  )
})
