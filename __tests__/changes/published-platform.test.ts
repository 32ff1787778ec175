import { expect, test } from '@jest/globals'
import { readPublishedPlatform } from '../../src/changes/published-platform.ts'
import type { Digest } from '../../src/oci/reference.ts'
import { open, start } from '../registry/connect.ts'
import { type SeededEntry, type SeedPlatform, seedAttestation, seedImage, seedIndex } from '../support/seed.ts'

const AMD64 = { os: 'linux', architecture: 'amd64' }
const ARM64 = { os: 'linux', architecture: 'arm64' }
const V3 = { ...AMD64, variant: 'v3' }
const REVISION = 'org.opencontainers.image.revision'
const COMMIT = '1'.repeat(40)

/** Opens a registry with an index of images for these platforms, with an attestation of the first one. */
async function publish(platforms: readonly SeedPlatform[], annotations: Readonly<Record<string, string>> = {}) {
  const server = await start()
  const entries: SeededEntry[] = []
  for (const platform of platforms)
    entries.push({ ...(await seedImage(server, 'app', platform, JSON.stringify(platform))), platform })
  const [first] = entries
  if (first !== undefined) entries.push(await seedAttestation(server, 'app', first))
  seedIndex(server, 'app', entries, 'latest', annotations)
  const client = open(server.host)
  const read = (
    platform: typeof AMD64,
    reference: { readonly tag?: string; readonly digest?: Digest } = { tag: 'latest' },
  ) => readPublishedPlatform(client, { repository: client.repository, ...reference }, platform)
  return { server, read, entries }
}

test('reads the image for a platform of an index, and the commit that the index names', async () => {
  const { read, entries } = await publish([AMD64, ARM64], { [REVISION]: COMMIT })
  const { image, revision, addedLabels } = await read(ARM64)
  expect([image.digest, revision, addedLabels]).toEqual([entries[1]?.digest, COMMIT, []])
})

test('prefers the image for exactly the platform to one for a variant', async () => {
  const { read, entries } = await publish([V3, AMD64])
  expect((await read(AMD64)).image.digest).toBe(entries[1]?.digest)
})

test('reads an image for a variant if there is no other one', async () => {
  const { read, entries } = await publish([ARM64, V3])
  expect((await read(AMD64)).image.digest).toBe(entries[1]?.digest)
})

test('the error names the platforms that the index has', async () => {
  const { read } = await publish([AMD64, { os: 'linux', architecture: 'arm', variant: 'v7' }])
  await expect(read(ARM64)).rejects.toThrow(
    /has no image for linux\/arm64\n {2}It has linux\/amd64, linux\/arm\/v7\.\n/,
  )
})

test('reads an image by its own digest, with the labels and the commit that its manifest names', async () => {
  const { server, read } = await publish([])
  const annotations = {
    'io.github.nix-image-action.store-path': `/nix/store/${'0'.repeat(32)}-app`,
    'io.github.nix-image-action.labels': '["version"]',
    [REVISION]: COMMIT,
  }
  const { digest } = await seedImage(server, 'app', AMD64, 'own', { annotations })
  expect(await read(AMD64, { tag: 'other', digest: digest as Digest })).toMatchObject({
    image: { digest },
    revision: COMMIT,
    addedLabels: ['version'],
  })
})

test('does not use a revision that is not a commit', async () => {
  const { read } = await publish([AMD64], { [REVISION]: '::error::main' })
  expect((await read(AMD64)).revision).toBeUndefined()
})

test('an image that does not exist is an error', async () => {
  const { read } = await publish([AMD64])
  await expect(read(AMD64, { tag: 'none' })).rejects.toThrow(
    /app:none does not exist\nIn `image`, name a published image/,
  )
})
