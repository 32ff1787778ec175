import { expect, test } from '@jest/globals'
import { digestOf } from '../../src/oci/reference.ts'
import { completeLayers, readStorePaths, withPublishedHashes } from '../../src/push/content.ts'
import type { PublishedContent } from '../../src/sbom/published.ts'

const GLIBC = `/nix/store/${'a'.repeat(32)}-glibc-2.40`
const APP = `/nix/store/${'b'.repeat(32)}-app-1.0`
const [BASE, TOP] = ['base', 'top'].map((text) => digestOf(Buffer.from(text)))
if (BASE === undefined || TOP === undefined) throw new Error('there are two layers')

const PUBLISHED: PublishedContent = {
  layers: [
    { diffId: BASE, storePaths: [GLIBC] },
    { diffId: TOP, storePaths: [APP] },
  ],
  storePaths: [
    { path: GLIBC, narHash: 'sha256-published-glibc', modules: [] },
    { path: APP, narHash: 'sha256-published-app', modules: [] },
  ],
}
const LOCAL = [
  { path: GLIBC, narHash: 'sha256-local-glibc', references: [GLIBC] },
  { path: APP, narHash: 'sha256-local-app' },
]

test('a layer that was reused without reading it has the store paths that were published with it', () => {
  const layers = [
    { diffId: BASE, storePaths: undefined, read: false },
    { diffId: TOP, storePaths: [APP, GLIBC], read: true },
  ]
  expect(completeLayers(layers, [PUBLISHED])).toEqual([
    { diffId: BASE, storePaths: [GLIBC] },
    { diffId: TOP, storePaths: [APP, GLIBC] },
  ])
})

test('without a published SBOM of such a layer, its store paths are unknown', () => {
  const layers = [{ diffId: BASE, storePaths: undefined, read: false }]
  expect(completeLayers(layers, [])).toBeUndefined()
  expect(completeLayers(layers, [{ ...PUBLISHED, layers: [{ diffId: TOP, storePaths: [APP] }] }])).toBeUndefined()
})

test('a store path that is also in a layer that was not read counts as not read', () => {
  const base = { diffId: BASE, read: false }
  const top = { diffId: TOP, storePaths: [APP, GLIBC], read: true }
  for (const storePaths of [[GLIBC], undefined]) {
    const layers = [{ ...base, storePaths }, top]
    expect([...readStorePaths(layers, completeLayers(layers, [PUBLISHED]) ?? [])]).toEqual([APP])
  }
})

test('a reused layer has the hashes that were published, although this machine has another build', () => {
  const layers = [
    { diffId: BASE, storePaths: [GLIBC], read: false },
    { diffId: TOP, storePaths: [APP], read: true },
  ]
  expect(withPublishedHashes(LOCAL, layers, [PUBLISHED])).toEqual([
    { path: GLIBC, narHash: 'sha256-published-glibc', references: [GLIBC] },
    { path: APP, narHash: 'sha256-local-app' },
  ])
})

test('a store path that a layer was made from on this machine has its hash here', () => {
  const layers = [
    { diffId: BASE, storePaths: [GLIBC], read: false },
    { diffId: TOP, storePaths: [APP, GLIBC], read: true },
  ]
  expect(withPublishedHashes(LOCAL, layers, [PUBLISHED])).toEqual(LOCAL)
})

test('hashes are taken only from images that have the reused layer', () => {
  const layers = [{ diffId: TOP, storePaths: [GLIBC], read: false }]
  const glibc = LOCAL.slice(0, 1)
  expect(withPublishedHashes(glibc, layers, [PUBLISHED])).toEqual(glibc)
})
