import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from '@jest/globals'
import { TagError } from '../../src/errors.ts'
import { OCI_MANIFEST } from '../../src/oci/manifest.ts'
import { copyImages } from '../../src/registry/copy.ts'
import type { PublishedImage } from '../../src/registry/image.ts'
import type { Registry, StoredManifest } from '../../src/registry/registry.ts'
import { putTags } from '../../src/registry/tags.ts'
import { digestOf } from '../support/digest.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import { connect } from './connect.ts'

const REFUSED = { kind: 'status', status: 403, body: '{"errors":[{"code":"DENIED","message":"no"}]}' } as const

function manifestOf(bytes: Buffer): StoredManifest {
  return { bytes, digest: digestOf(bytes) as StoredManifest['digest'], mediaType: mediaTypes.ociIndex }
}

const old = manifestOf(Buffer.from(`${index(mediaTypes.ociIndex, [])} `))
const fresh = manifestOf(Buffer.from(index(mediaTypes.ociIndex, [])))

/** Two repositories with both manifests, of which the second one refuses to move the tag. */
async function openTwo(tagged: boolean) {
  const { server, client } = await connect({
    fault: ({ method, reference, repository }) =>
      method === 'PUT' && reference === 'v1' && repository === 'api' ? REFUSED : undefined,
  })
  for (const path of ['app', 'api'])
    for (const { bytes, mediaType } of [old, fresh]) server.seedManifest(path, bytes, mediaType)
  if (tagged) for (const path of ['app', 'api']) server.seedTag(path, 'v1', old.digest)
  const repositories = ['app', 'api'].map((path) => ({ host: server.host, path }))
  return { server, client, repositories }
}

test('a tag that one repository refuses is restored in the others', async () => {
  const { server, client, repositories } = await openTwo(true)
  const error = await putTags(client, repositories, 'v1', fresh, async () => undefined).catch(
    (thrown: unknown) => thrown as Error,
  )
  expect(error).toBeInstanceOf(TagError)
  expect(error?.message).toContain(`The tag ${server.host}/api:v1 could not be moved to ${fresh.digest}\n`)
  expect(error?.message).toContain('All tags are as they were.\nRun the job again')
  expect([server.tags('app').get('v1'), server.tags('api').get('v1')]).toEqual([old.digest, old.digest])
})

test('a new tag that can’t be deleted after one repository has refused it is named', async () => {
  const { server, client, repositories } = await openTwo(false)
  const error = await putTags(client, repositories, 'v1', fresh, async () => undefined).catch(
    (thrown: unknown) => thrown as Error,
  )
  expect(error?.message).toContain(`except these:\n  ${server.host}/app:v1: is new and points to ${fresh.digest}; `)
  expect(server.tags('app').get('v1')).toBe(fresh.digest)
})

test('a proxy that answers with success does not delete a tag', async () => {
  const page = { kind: 'status', status: 200, body: '<html></html>', headers: { 'content-type': 'text/html' } } as const
  const { server, client } = await connect({ fault: ({ method }) => (method === 'DELETE' ? page : undefined) })
  server.seedManifest('app', fresh.bytes, fresh.mediaType, 'v1')
  expect(await client.deleteTag(client.repository, 'v1')).toBe(false)
})

test('if one blob can’t be copied, the error waits for the copies in progress', async () => {
  const [first, second] = ['a', 'b'].map((text) => ({
    digest: digestOf(Buffer.from(text)) as StoredManifest['digest'],
    size: 1,
    mediaType: 'x',
  }))
  const uploads = new Map([
    [first?.digest, Promise.withResolvers<void>()],
    [second?.digest, Promise.withResolvers<void>()],
  ])
  const registry = {
    hasBlob: async () => false,
    mountBlob: async () => false,
    putBlob: async (_: unknown, { digest }: { readonly digest: StoredManifest['digest'] }) =>
      uploads.get(digest)?.promise,
  } as unknown as Registry
  const repository = { host: 'example.org', path: 'app' }
  const own = { manifest: { ...fresh, mediaType: OCI_MANIFEST }, blobs: [first, second] }
  const image = { repository, own, attestations: [] } as unknown as PublishedImage
  let ended = false
  const copying = copyImages(registry, [{ image, to: { host: 'example.com', path: 'app' } }]).finally(() => {
    ended = true
  })
  copying.catch(() => undefined)
  uploads.get(first?.digest)?.reject(new Error('refused'))
  await turn()
  await turn()
  expect(ended).toBe(false)
  uploads.get(second?.digest)?.resolve()
  await expect(copying).rejects.toThrow('refused')
})
