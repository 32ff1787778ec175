import { describe, expect, test } from '@jest/globals'
import { type Digest, digestOf, isDigest } from '../../src/oci/digest.ts'
import { FormatError } from '../../src/oci/format-error.ts'
import { fetchImage, missingBlobs } from '../../src/registry/image.ts'
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

describe('an image is read for what it is', () => {
  test.each([
    ['alone', image.bytes, mediaTypes.ociManifest],
    [
      'as an index of one, which Docker’s containerd image store pushes',
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

describe('what is not the image of one platform is refused', () => {
  test.each([
    ['two', index(mediaTypes.ociIndex, [entry, entry]), 'it is an index of linux/amd64, linux/amd64'],
    ['none', index(mediaTypes.ociIndex, []), 'it is an index of nothing'],
    ['attestations alone', index(mediaTypes.ociIndex, [unknown]), 'it is an index of nothing'],
  ])('an index of %s', async (_, document, why) => {
    expect((await failureOf(fetchFrom(document, mediaTypes.ociIndex))).message).toContain(why)
  })

  test('what is no manifest at all', async () => {
    await expect(fetchFrom(Buffer.from('nonsense'), mediaTypes.ociManifest)).rejects.toThrow(FormatError)
  })
})

test('an image that is gone is named, with what may have happened', async () => {
  const { client } = await connect()
  const digest: Digest = digestOf(Buffer.from('never pushed'))
  const error = await failureOf(fetchImage(client, client.repository, digest))
  expect(error.problem).toBe('not-found')
  expect(error.message).toContain(`${error.host}/app@${digest} is not in the registry`)
  expect(error.message).toContain('clean-up jobs')
})

test('of blobs that are looked for, one that can’t be told does not leave the others under way', async () => {
  const { server, client } = await connect()
  await server.seedBlob('app', config)
  const layers = JSON.parse(image.bytes.toString()).layers
  const other = digestOf(Buffer.from('another layer'))
  const bytes = Buffer.from(
    JSON.stringify({ ...JSON.parse(image.bytes.toString()), layers: [...layers, { ...layers[0], digest: other }] }),
  )
  const digest = server.seedManifest('app', bytes, image.mediaType) as Digest
  const found = await fetchImage(client, client.repository, digest)
  server.setFault(({ method, reference }) =>
    method !== 'HEAD' ? undefined : { kind: 'status', status: reference === other ? 503 : 403 },
  )
  expect((await failureOf(missingBlobs(client, found))).status).toBe(403)
  expect(server.requests.filter(({ reference }) => reference === other)).toHaveLength(6)
})

test('an image without its config is named', async () => {
  const error = await failureOf(fetchFrom(image.bytes, mediaTypes.ociManifest, false))
  expect(error.message).toContain(`The config of ${error.host}/app@${imageDigest} is not in the registry`)
})
