import { describe, expect, test } from '@jest/globals'
import { FormatError } from '../../src/errors.ts'
import { type Digest, digestOf, isDigest } from '../../src/oci/reference.ts'
import { fetchImage, missingBlobs, notInRegistry } from '../../src/registry/image.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { config, descriptor, index, manifest } from '../support/registry/wire.ts'
import { connect, failureOf } from './connect.ts'

const image = { bytes: manifest(mediaTypes.ociManifest), mediaType: mediaTypes.ociManifest }
const imageDigest = digestOf(image.bytes)
const entry = descriptor({ ...image, digest: imageDigest }, 'amd64')
const attestation = descriptor({ ...image, digest: imageDigest }, 'unknown')
const unknown = { ...(attestation as object), platform: { os: 'unknown', architecture: 'unknown' } }

/** Reads the image by digest, from a registry that holds it, its config and the document. */
async function fetchFrom(document: Buffer, mediaType: string, withConfig = true) {
  const { server, client } = await connect()
  if (withConfig) await server.seedBlob('app', config)
  server.seedManifest('app', image.bytes, image.mediaType)
  const digest = server.seedManifest('app', document, mediaType)
  if (!isDigest(digest)) throw new Error('It has no digest')
  return await fetchImage(client, client.repository, digest)
}

describe('an image is read', () => {
  test.each([
    ['alone', image.bytes, mediaTypes.ociManifest],
    [
      'as an index of one image, which Docker’s containerd image store pushes',
      index(mediaTypes.ociIndex, [entry]),
      mediaTypes.ociIndex,
    ],
    ['with its attestations, which BuildKit pushes', index(mediaTypes.ociIndex, [entry, unknown]), mediaTypes.ociIndex],
    ['in Docker’s list', index(mediaTypes.dockerList, [entry]), mediaTypes.dockerList],
  ])('%s', async (_, document, mediaType) => {
    expect(await fetchFrom(document, mediaType)).toMatchObject({
      digest: imageDigest,
      mediaType: mediaTypes.ociManifest,
      size: image.bytes.length,
      platform: { os: 'linux', architecture: 'amd64' },
      configDigest: digestOf(config),
    })
  })
})

describe('anything other than the image of one platform is refused', () => {
  test.each([
    ['two', index(mediaTypes.ociIndex, [entry, entry]), 'it is an index of linux/amd64, linux/amd64'],
    ['none', index(mediaTypes.ociIndex, []), 'it is an index of no images'],
    ['attestations alone', index(mediaTypes.ociIndex, [unknown]), 'it is an index of no images'],
  ])('an index of %s', async (_, document, why) => {
    expect((await failureOf(fetchFrom(document, mediaTypes.ociIndex))).message).toContain(why)
  })

  test('content that is not a manifest', async () => {
    await expect(fetchFrom(Buffer.from('nonsense'), mediaTypes.ociManifest)).rejects.toThrow(FormatError)
  })
})

describe('attestations', () => {
  /** An index of the image and attestations, which says of each that it has `size` bytes, where that is given. */
  async function withAttestations(contents: readonly string[], { size, padding = 0, times = 1 }: Listing = {}) {
    const { server, client } = await connect()
    await server.seedBlob('app', config)
    server.seedManifest('app', image.bytes, image.mediaType)
    const listed = contents.map((content) => {
      const bytes = manifest(mediaTypes.ociManifest, { annotations: { content: content + ' '.repeat(padding) } })
      const digest = server.seedManifest('app', bytes, mediaTypes.ociManifest)
      const annotations = {
        'vnd.docker.reference.digest': imageDigest,
        'vnd.docker.reference.type': 'attestation-manifest',
      }
      const platform = { os: 'unknown', architecture: 'unknown' }
      return { mediaType: mediaTypes.ociManifest, digest, size: size ?? bytes.length, platform, annotations }
    })
    const all = Array.from({ length: times }, () => listed).flat()
    const digest = server.seedManifest('app', index(mediaTypes.ociIndex, [entry, ...all]), mediaTypes.ociIndex)
    const manifests = () =>
      server.requests.filter(({ route, reference }) => route === 'manifest' && reference !== digest)
    return { manifests, fetch: () => fetchImage(client, client.repository, digest as Digest) }
  }

  interface Listing {
    readonly size?: number
    readonly padding?: number
    readonly times?: number
  }

  test('are read with the image, once each, even if the index repeats them', async () => {
    const { fetch, manifests } = await withAttestations(['one', 'two'], { times: 1000 })
    expect((await fetch()).attestations).toHaveLength(2)
    expect(manifests()).toHaveLength(3)
  })

  const names = Array.from({ length: 65 }, (_, at) => String(at))

  test('are read, up to 64 per image', async () => {
    const { fetch } = await withAttestations(names.slice(1))
    expect((await fetch()).attestations).toHaveLength(64)
  })

  test.each<readonly [string, readonly string[], Listing, string]>([
    ['are more than that', names, {}, 'it has 65 attestations, and at most 64 are supported'],
    ['are large', ['one', 'two'], { size: 8 * 1024 * 1024 + 1 }, 'its attestations are larger than 16 MiB in total'],
  ])('are refused unread if they %s', async (_, contents, listing, why) => {
    const { fetch, manifests } = await withAttestations(contents, listing)
    const { message } = await failureOf(fetch())
    expect(message).toContain(why)
    expect(message).toContain('`provenance: false`')
    expect(manifests()).toEqual([])
  })

  test('are refused if they are larger than the index says', async () => {
    const padding = 4 * 1024 * 1024 - 2048
    const { fetch, manifests } = await withAttestations(names.slice(0, 20), { size: 1, padding })
    expect((await failureOf(fetch())).message).toContain('its attestations are larger than 16 MiB in total')
    expect(manifests().length).toBeLessThan(8)
  })
})

test('a config that is too large is refused', async () => {
  const { server, client } = await connect()
  const large = Buffer.concat([config, Buffer.alloc(4 * 1024 * 1024, ' ')])
  const digest = await server.seedBlob('app', large)
  const descriptor = { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: large.length }
  const bytes = manifest(mediaTypes.ociManifest, { config: descriptor })
  const error = await failureOf(
    fetchImage(client, client.repository, server.seedManifest('app', bytes, mediaTypes.ociManifest) as Digest),
  )
  expect(error.message).toContain(`Can't read the blob ${error.host}/app@${digest}: it is larger than 4096 KiB`)
})

test('a missing image is named, with possible causes', async () => {
  const { client } = await connect()
  const digest: Digest = digestOf(Buffer.from('never pushed'))
  const error = await failureOf(fetchImage(client, client.repository, digest))
  expect(error.problem).toBe('not-found')
  expect(error.message).toContain(`${error.host}/app@${digest} is not in the registry`)
  expect(error.message).toContain('clean-up jobs')
})

test('an error about one blob waits for the requests about the others', async () => {
  const { server, client } = await connect()
  await server.seedBlob('app', config)
  const layers = JSON.parse(image.bytes.toString()).layers
  const other = digestOf(Buffer.from('another layer'))
  const bytes = Buffer.from(
    JSON.stringify({ ...JSON.parse(image.bytes.toString()), layers: [...layers, { ...layers[0], digest: other }] }),
  )
  const digest = server.seedManifest('app', bytes, image.mediaType) as Digest
  const found = await fetchImage(client, client.repository, digest)
  server.setFault(({ reference }) => ({ kind: 'status', status: reference === other ? 503 : 403 }))
  expect((await failureOf(missingBlobs(client, found))).status).toBe(403)
  const sent = () => server.requests.filter(({ reference }) => reference === other).length
  const before = sent()
  expect(before).toBeGreaterThan(client.waits.length)
  await client.http.close()
  expect(sent()).toBe(before)
})

test('a message keeps the case of a host name', () => {
  const { message } = notInRegistry({ host: 'ghcr.io', path: 'o/app' }, imageDigest, `ghcr.io/o/app@${imageDigest}`)
  expect(message).toMatch(/^ghcr\.io\/o\/app@sha256:/)
})

test('an image without its config is named', async () => {
  const error = await failureOf(fetchFrom(image.bytes, mediaTypes.ociManifest, false))
  expect(error.message).toContain(`The config of ${error.host}/app@${imageDigest} is not in the registry`)
})
