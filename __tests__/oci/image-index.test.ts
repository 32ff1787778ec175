import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import {
  composeIndex,
  DOCKER_MANIFEST,
  type IndexEntry,
  OCI_INDEX,
  OCI_MANIFEST,
  parseManifest,
} from '../../src/oci/manifest.ts'
import { formatPlatform } from '../../src/oci/platform.ts'
import { digestOf } from '../../src/oci/reference.ts'

const key = fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom('__proto__', 'constructor', '1', '10', '2'))
const annotations = fc.dictionary(key, fc.string(), { maxKeys: 4 })
const entry: fc.Arbitrary<IndexEntry> = fc.record({
  mediaType: fc.constantFrom(OCI_MANIFEST, DOCKER_MANIFEST),
  digest: fc.string().map((text) => digestOf(Buffer.from(text))),
  size: fc.nat(),
  platform: fc.record(
    {
      os: fc.constantFrom('linux', 'unknown'),
      architecture: fc.constantFrom('amd64', 'arm64', 'arm', 'unknown'),
      variant: fc.constantFrom('', 'v6', 'v7', 'v8'),
    },
    { requiredKeys: ['os', 'architecture'] },
  ),
  annotations,
})
const entries = fc.uniqueArray(entry, { selector: ({ digest }) => digest, maxLength: 6 })

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8')
}

/** https://github.com/opencontainers/image-spec/blob/main/image-index.md and descriptor.md, their MUSTs. */
function expectValid(bytes: Uint8Array): void {
  const { schemaVersion, mediaType, manifests, annotations: own, ...others } = JSON.parse(textOf(bytes))
  expect({ schemaVersion, mediaType, others }).toEqual({ schemaVersion: 2, mediaType: OCI_INDEX, others: {} })
  for (const { mediaType, digest, size, platform, annotations, ...others } of manifests) {
    expect(others).toEqual({})
    expect([OCI_MANIFEST, DOCKER_MANIFEST]).toContain(mediaType)
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/)
    expect(Number.isSafeInteger(size) && size >= 0).toBe(true)
    const { os, architecture, variant = 'none', ...rest } = platform
    expect([os, architecture, variant]).not.toContain('')
    expect(rest).toEqual({})
    expectAnnotations(annotations)
  }
  expectAnnotations(own)
}

function expectAnnotations(annotations: Readonly<Record<string, unknown>> = { some: 'text' }): void {
  expect(Object.values(annotations).every((value) => typeof value === 'string')).toBe(true)
  expect(Object.keys(annotations)).not.toEqual([])
}

describe('an index', () => {
  test('has exactly these bytes, so that its digest is stable', () => {
    const digest = digestOf(Buffer.from('content'))
    const arm = { os: 'linux', architecture: 'arm', variant: 'v7' }
    const amd64 = { os: 'linux', architecture: 'amd64' }
    const bytes = composeIndex(
      [
        { mediaType: DOCKER_MANIFEST, digest, size: 2, platform: arm, annotations: { b: '1', a: '2' } },
        { mediaType: OCI_MANIFEST, digest, size: 1, platform: amd64 },
      ],
      { 'org.opencontainers.image.title': 'app', 'org.opencontainers.image.description': 'An app' },
    )
    const expected = {
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [
        { mediaType: OCI_MANIFEST, digest, size: 1, platform: { architecture: 'amd64', os: 'linux' } },
        {
          mediaType: DOCKER_MANIFEST,
          digest,
          size: 2,
          platform: { architecture: 'arm', os: 'linux', variant: 'v7' },
          annotations: { a: '2', b: '1' },
        },
      ],
      annotations: { 'org.opencontainers.image.description': 'An app', 'org.opencontainers.image.title': 'app' },
    }
    expect(textOf(bytes)).toBe(JSON.stringify(expected, undefined, 2))
  })

  test('is valid, and parses to the same entries', () => {
    fc.assert(
      fc.property(entries, annotations, (members, own) => {
        const bytes = composeIndex(members, own)
        expectValid(bytes)
        const index = parseManifest(bytes, OCI_INDEX, 'the index')
        if (index.kind !== 'index') throw new Error('It was not parsed as an index')
        const listed = index.manifests.map(({ digest, size, platform }) => [
          digest,
          size,
          platform && formatPlatform(platform),
        ])
        const meant = members.map(({ digest, size, platform }) => [digest, size, formatPlatform(platform)])
        expect(listed.sort()).toEqual(meant.sort())
      }),
    )
  })

  test('has the same bytes for any order of different platforms', () => {
    const different = fc.uniqueArray(entry, { selector: ({ platform }) => formatPlatform(platform), maxLength: 6 })
    expectOrderless(different)
  })

  test('has the same bytes for any order of entries with the same platform, such as attestations (unknown/unknown)', () => {
    expectOrderless(entries)
  })
})

function expectOrderless(members: fc.Arbitrary<readonly IndexEntry[]>): void {
  const shuffled = fc.tuple(members, annotations).chain(([list, own]) =>
    fc.record({
      given: fc.constant(textOf(composeIndex(list, own))),
      list: fc.shuffledSubarray([...list], { minLength: list.length }),
      keys: fc.shuffledSubarray(Object.keys(own), { minLength: Object.keys(own).length }),
      own: fc.constant(own),
    }),
  )
  fc.assert(
    fc.property(shuffled, ({ given, list, keys, own }) => {
      const reordered = Object.fromEntries(keys.map((one) => [one, own[one] ?? '']))
      expect(textOf(composeIndex(list, reordered))).toBe(given)
    }),
  )
}
