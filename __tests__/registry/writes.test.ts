import { expect, test } from '@jest/globals'
import { digestOf } from '../../src/oci/reference.ts'
import { blobOf } from '../../src/registry/blobs.ts'
import { observeWrites, type RegistryWrite } from '../../src/registry/writes.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { connect } from './connect.ts'

const index = Buffer.from('{"schemaVersion":2,"manifests":[]}')
const digest = digestOf(index)
const blob = blobOf(Buffer.from('layer'))

/** Runs `work` with an observed client, and returns the writes as text. */
async function writesOf(
  work: (registry: ReturnType<typeof observeWrites>, repository: { host: string; path: string }) => Promise<unknown>,
  status?: number,
): Promise<readonly string[]> {
  const { server, client } = await connect()
  const seen: RegistryWrite[] = []
  if (status !== undefined) server.setFault(({ method }) => (method === 'PUT' ? { kind: 'status', status } : undefined))
  const registry = observeWrites(client, (write) => void seen.push(write))
  await work(registry, client.repository).catch(() => undefined)
  return seen.map(({ kind, reference, state }) => `${state} ${kind} ${reference}`)
}

test('each write is reported before it is sent, and when the registry has confirmed it', async () => {
  const writes = await writesOf(async (registry, repository) => {
    await registry.putBlob(repository, blob)
    await registry.putManifest(repository, digest, mediaTypes.ociIndex, index)
    await registry.putManifest(repository, 'latest', mediaTypes.ociIndex, index)
  })
  expect(writes).toEqual([
    `started blob ${blob.digest}`,
    `done blob ${blob.digest}`,
    `started image ${digest}`,
    `done image ${digest}`,
    'started tag latest',
    'done tag latest',
  ])
})

test('a tag is reported as deleted only if the registry has deleted it', async () => {
  for (const deleted of [true, false]) {
    const { client } = await connect()
    const seen: RegistryWrite[] = []
    const registry = observeWrites({ ...client, deleteTag: async () => deleted }, (write) => void seen.push(write))
    expect(await registry.deleteTag(client.repository, 'latest')).toBe(deleted)
    expect(seen).toEqual(deleted ? [expect.objectContaining({ kind: 'tag', state: 'done', deleted: true })] : [])
  }
})

test('a write that fails is not confirmed', async () => {
  const put = (reference: string) =>
    writesOf((registry, repository) => registry.putManifest(repository, reference, mediaTypes.ociIndex, index), 403)
  expect(await put('latest')).toEqual(['started tag latest'])
})

test('reading, and checking that a push is allowed, are no writes', async () => {
  const writes = await writesOf(async (registry, repository) => {
    await registry.checkPush(repository)
    await registry.getManifest(repository, 'latest')
    await registry.hasBlob(repository, blob.digest)
  })
  expect(writes).toEqual([])
})

test('the tag of a list of referrers is not a tag of an image', async () => {
  const tag = digest.replace(':', '-')
  const writes = await writesOf((registry, repository) =>
    registry.putManifest(repository, tag, mediaTypes.ociIndex, index),
  )
  expect(writes).toEqual([`started image ${tag}`, `done image ${tag}`])
})
