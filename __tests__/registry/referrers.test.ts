import { describe, expect, test } from '@jest/globals'
import type { Descriptor } from '../../src/oci/manifest.ts'
import type { Digest } from '../../src/oci/reference.ts'
import { copyReferrers } from '../../src/registry/copy-referrers.ts'
import { addReferrers, findReferrers } from '../../src/registry/referrers.ts'
import type { RegistryOptions, TestRegistry } from '../support/registry.ts'
import { OCI_INDEX, OCI_MANIFEST, seedImage } from '../support/seed.ts'
import { connect, failureOf, openRaw, start } from './connect.ts'

/** Pushes an image and a signature of it. */
async function pushSigned(server: TestRegistry, listed: boolean) {
  const image = await seedImage(server, 'app', { architecture: 'amd64' })
  const digest = image.digest as Digest
  const signature = await pushReferrer(server, image, 'a signature')
  if (!listed) seedList(server, digest, [signature])
  return { digest, signature }
}

async function pushReferrer(server: TestRegistry, image: object, content: string): Promise<Descriptor> {
  const layer = Buffer.from(content)
  const config = Buffer.from('{}')
  const descriptor = async (bytes: Buffer) => ({
    mediaType: 'application/example',
    digest: await server.seedBlob('app', bytes),
    size: bytes.length,
  })
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    artifactType: 'application/example',
    config: await descriptor(config),
    layers: [await descriptor(layer)],
    subject: image,
  }
  const bytes = Buffer.from(JSON.stringify(manifest))
  const digest = server.seedManifest('app', bytes, OCI_MANIFEST) as Digest
  return { mediaType: OCI_MANIFEST, digest, size: bytes.length, artifactType: 'application/example' }
}

function seedList(server: TestRegistry, digest: string, manifests: readonly object[]): void {
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }))
  server.seedManifest('app', index, OCI_INDEX, digest.replace(':', '-'))
}

describe.each([
  ['the registry', true],
  ['clients', false],
])('listed by %s:', (_, referrers) => {
  test('referrers are found', async () => {
    const { server, client } = await connect({ referrers })
    const { digest, signature } = await pushSigned(server, referrers)
    expect(await findReferrers(client, client.repository, digest)).toEqual({
      manifests: [signature],
      supported: referrers,
    })
  })

  test('a manifest without referrers has none', async () => {
    const { server, client } = await connect({ referrers })
    const { digest } = await seedImage(server, 'app', { architecture: 'amd64' })
    expect(await findReferrers(client, client.repository, digest as Digest)).toMatchObject({ manifests: [] })
  })

  test.each([true, false])('they are copied to another registry (which lists referrers: %s)', async (supported) => {
    const { server, client } = await connect({ referrers })
    const { digest, signature } = await pushSigned(server, referrers)
    const target = await start({ referrers: supported })
    const to = { host: target.host, path: 'copy' }
    const sent = await copyReferrers(client, [{ digest, from: client.repository, to }])
    expect(sent).toBe('{}'.length + 'a signature'.length)
    expect(target.manifest('copy', signature.digest)).toEqual(server.manifest('app', signature.digest))
    expect(await findReferrers(client, to, digest)).toEqual({ manifests: [signature], supported })
    expect([...target.tags('copy').keys()]).toEqual(supported ? [] : [digest.replace(':', '-')])
    const before = target.requests.length
    expect(await copyReferrers(client, [{ digest, from: client.repository, to }])).toBe(0)
    expect(target.requests.slice(before).filter(({ method }) => method !== 'GET')).toEqual([])
  })
})

test('referrers that were deleted are not copied', async () => {
  const { server, client } = await connect()
  const { digest, signature } = await pushSigned(server, false)
  await fetch(`http://${server.host}/v2/app/manifests/${signature.digest}`, { method: 'DELETE' })
  const target = await start()
  expect(
    await copyReferrers(client, [{ digest, from: client.repository, to: { host: target.host, path: 'app' } }]),
  ).toBe(0)
  expect([...target.tags('app').keys()]).toEqual([])
})

test('a list that another client changes at the same time keeps the entries of both', async () => {
  const options: RegistryOptions = { preconditions: true }
  const { server, client } = await connect(options)
  const { digest, signature } = await pushSigned(server, false)
  const other = await pushReferrer(server, { mediaType: OCI_MANIFEST, digest, size: 1 }, 'another signature')
  const own = await pushReferrer(server, { mediaType: OCI_MANIFEST, digest, size: 1 }, 'our signature')
  let changed = false
  server.setFault(({ method, route }) => {
    if (method === 'PUT' && route === 'manifest' && !changed) {
      changed = true
      seedList(server, digest, [signature, other])
    }
    return undefined
  })
  await addReferrers(client, client.repository, digest, [own])
  const { manifests } = await findReferrers(client, client.repository, digest)
  expect(manifests).toEqual([signature, other, own])
})

test('a tag that is an image is not replaced by a list', async () => {
  const { server, client } = await connect()
  const { digest } = await seedImage(server, 'app', { architecture: 'amd64' })
  server.seedTag('app', digest.replace(':', '-'), digest)
  const error = await failureOf(addReferrers(client, client.repository, digest as Digest, []))
  expect(error.message).toContain('should be the list of referrers')
  expect(server.tags('app').get(digest.replace(':', '-'))).toBe(digest)
})

test('a list of several pages is read to its end', async () => {
  const digest = `sha256:${'1'.repeat(64)}` as const
  const entry = (digit: string) => ({ mediaType: OCI_MANIFEST, digest: `sha256:${digit.repeat(64)}`, size: 1 })
  const { client } = await openRaw((socket, request) => {
    const last = request.includes('page=2')
    const index = JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [entry(last ? 'b' : 'a')],
    })
    const link = last ? '' : `link: </v2/app/referrers/${digest}?page=2>; rel="next"\r\n`
    const [body, type] = request.startsWith('GET /v2/ ') ? ['{}', 'application/json'] : [index, OCI_INDEX]
    socket.end(
      `HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\n${link}content-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
    )
  })
  expect(await client.listReferrers(client.repository, digest)).toEqual([entry('a'), entry('b')])
})

test('a list without end is an error, not a part of the list', async () => {
  const digest = `sha256:${'1'.repeat(64)}` as const
  const { client } = await openRaw((socket, request) => {
    const index = JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] })
    const [body, type] = request.startsWith('GET /v2/ ') ? ['{}', 'application/json'] : [index, OCI_INDEX]
    socket.end(
      `HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\nlink: </v2/app/referrers/${digest}?page=2>; rel="next"\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
    )
  })
  const error = await failureOf(findReferrers(client, client.repository, digest))
  expect(error.message).toMatch(/^The list of referrers of \S+ has more than 32 pages/)
})

test.each([
  [400, '{"errors":[{"code":"UNSUPPORTED"}]}'],
  [404, ''],
  [405, ''],
  [200, '<html>Welcome</html>'],
  [200, '{"errors":[]}'],
])('status %i with the body %s means that the registry does not list referrers', async (status, body) => {
  const { server, client } = await connect({ referrers: true })
  const { digest, signature } = await pushSigned(server, false)
  server.setFault(({ route }) => (route === 'referrers' ? { kind: 'status', status, body } : undefined))
  expect(await findReferrers(client, client.repository, digest)).toEqual({ manifests: [signature], supported: false })
})

test('an empty list of olareg, which is null, is a list', async () => {
  const { server, client } = await connect({ referrers: true })
  const body = JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: null })
  server.setFault(() => ({ kind: 'status', status: 200, body, headers: { 'content-type': OCI_INDEX } }))
  expect(await client.listReferrers(client.repository, `sha256:${'1'.repeat(64)}`)).toEqual([])
})

test.each([403, 503])('status %i is an error', async (status) => {
  const { server, client } = await connect({ referrers: true })
  server.setFault(({ route }) => (route === 'referrers' ? { kind: 'status', status } : undefined))
  const failing = client.listReferrers(client.repository, `sha256:${'1'.repeat(64)}`)
  const { message } = await failureOf(failing)
  expect(message).toContain('list the referrers of')
  expect(message).toContain(`status ${status}`)
})
