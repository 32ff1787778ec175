import { beforeEach, expect, test } from '@jest/globals'
import { indexAt, mergeWith, openRegistry, type PushDetails, push, records } from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedIndex } from '../support/seed.ts'

// The index names the store paths of its images, by which a later build sees that there is nothing to build.

const KEY = 'io.github.nix-image-action.store-path'
const storePath = `/nix/store/${'1'.repeat(32)}-image.tar.gz`

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

async function annotationsOf(record: PushDetails['record'] = {}, annotations = ''): Promise<readonly unknown[]> {
  const images = await push(registry, 'app', ['x86_64-linux'], { record })
  await mergeWith(registry, { digests: records(images), tags: 'latest', annotations })
  return indexAt(registry, 'latest').manifests.map((entry) => entry.annotations)
}

test('an image that its store path alone makes is listed with it', async () => {
  expect(await annotationsOf({ labels: [], storePath })).toEqual([{ [KEY]: storePath }])
})

test('an image with labels added is listed with their keys', async () => {
  expect(await annotationsOf({ labels: ['b', 'a"\n'], storePath })).toEqual([
    { [KEY]: storePath, 'io.github.nix-image-action.labels': '["a\\"\\n","b"]' },
  ])
})

test('an image with layers that were left as they came is listed with what was asked for', async () => {
  expect(await annotationsOf({ labels: [], compression: 'gzip', storePath })).toEqual([
    { [KEY]: storePath, 'io.github.nix-image-action.compression': 'gzip' },
  ])
})

test.each([
  ['of which its record does not say which labels were added', { storePath }],
  ['whose store path is none', { labels: [], storePath: '/nix/store/image.tar.gz' }],
])('an image %s is listed without', async (_, record) => {
  expect(await annotationsOf(record)).toEqual([undefined])
})

test('it is listed beside the annotations of users, who can’t say another', async () => {
  const given = `manifest-descriptor:org.example.speed=fast\nmanifest-descriptor:${KEY}=/nix/store/other`
  expect(await annotationsOf({ labels: [], storePath }, given)).toEqual([
    { [KEY]: storePath, 'org.example.speed': 'fast' },
  ])
})

test('what is attested about an image has none', async () => {
  const [{ image, entry, record }] = await push(registry, 'app', ['x86_64-linux'])
  const digest = seedIndex(registry, 'app', [entry, await seedAttestation(registry, 'app', image)])
  const told = JSON.stringify({ ...JSON.parse(record), labels: [], storePath, digest })
  await mergeWith(registry, { digests: told, tags: 'latest' })
  const [own, attestation, ...more] = indexAt(registry, 'latest').manifests
  expect(more).toEqual([])
  expect(own?.annotations).toEqual({ [KEY]: storePath })
  expect(attestation?.annotations).not.toHaveProperty(KEY)
})

test('a new store path makes a new index, though it makes the same image', async () => {
  expect(await annotationsOf({ labels: [], storePath })).toEqual([{ [KEY]: storePath }])
  const other = storePath.replace('1', '2')
  expect(await annotationsOf({ labels: [], storePath: other })).toEqual([{ [KEY]: other }])
})
