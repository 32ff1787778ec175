import { describe, expect, test } from '@jest/globals'
import type { Digest } from '../../src/oci/reference.ts'
import { shareLookUps } from '../../src/registry/client.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import type { RegistryOptions } from '../support/registry.ts'
import { connect } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])

async function open(options?: RegistryOptions) {
  const { server, client } = await connect(options)
  const digest = (await server.seedBlob('app', bytes)) as Digest
  server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
  const asked = () => server.requests.filter(({ route }) => route !== 'base').length
  return { server, asked, digest, repository: client.repository, shared: shareLookUps(client) }
}

describe('reads for several images', () => {
  test('request shared content once, concurrently and later', async () => {
    const { asked, digest, repository, shared } = await open()
    for (let count = 0; count < 2; count++) {
      expect(await Promise.all([1, 2, 3].map(() => shared.hasBlob(repository, digest)))).toEqual([true, true, true])
      expect(await Promise.all([1, 2].map(() => shared.getBlob(repository, digest, 1024)))).toEqual([bytes, bytes])
      expect(await Promise.all([1, 2].map(() => shared.getManifest(repository, digest)))).toMatchObject([
        { digest },
        { digest },
      ])
    }
    expect(asked()).toBe(3)
  })

  test('request a tag again, because it may have moved', async () => {
    const { asked, repository, shared } = await open()
    for (let count = 0; count < 2; count++) await shared.getManifest(repository, 'latest')
    expect(asked()).toBe(2)
  })

  test('go to each repository', async () => {
    const { digest, repository, shared } = await open()
    expect(await shared.hasBlob(repository, digest)).toBe(true)
    expect(await shared.hasBlob({ ...repository, path: 'other' }, digest)).toBe(false)
  })

  test('request content again that was missing or failed', async () => {
    const { server, digest, repository, shared } = await open()
    const other = { ...repository, path: 'other' }
    expect(await shared.hasBlob(other, digest)).toBe(false)
    await server.seedBlob('other', bytes)
    expect(await shared.hasBlob(other, digest)).toBe(true)
    server.setFault(() => ({ kind: 'status', status: 403 }))
    await expect(shared.getBlob(repository, digest, 1024)).rejects.toThrow('403')
    server.setFault(undefined)
    expect(await shared.getBlob(repository, digest, 1024)).toEqual(bytes)
  })

  test('are repeated for content that must exist, even if another read was not', async () => {
    const { digest, repository, shared } = await open({
      fault: ({ route, count }) => (route === 'blob' && count <= 4 ? { kind: 'status', status: 404 } : undefined),
    })
    const once = shared.hasBlob(repository, digest)
    const written = shared.hasBlob(repository, digest, { retryNotFound: true })
    expect([await once, await written]).toEqual([false, true])
  })
})
