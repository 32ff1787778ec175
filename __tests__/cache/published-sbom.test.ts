import { expect, test } from '@jest/globals'
import { readPreviousImages } from '../../src/cache/previous-image.ts'
import { readPublishedContents } from '../../src/cache/published-sbom.ts'
import { EMPTY_CONFIG, OCI_MANIFEST } from '../../src/oci/manifest.ts'
import { type Digest, digestOf, type Repository } from '../../src/oci/reference.ts'
import { blobOf } from '../../src/registry/blobs.ts'
import { attestationAnnotations, sbomAttestation } from '../../src/sbom/attestation.ts'
import { spdxDocument } from '../../src/sbom/spdx.ts'
import { logOf } from '../push/pushing.ts'
import { type Client, connect } from '../registry/connect.ts'

const PATH = `/nix/store/${'a'.repeat(32)}-app-1.0`
const NAR_HASH = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
const LAYER = digestOf(Buffer.from('layer'))
const AMD64 = { os: 'linux', architecture: 'amd64' }
const ARM64 = { os: 'linux', architecture: 'arm64' }
const EMPTY_IMAGE = {
  schemaVersion: 2,
  mediaType: OCI_MANIFEST,
  config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf(EMPTY_CONFIG), size: EMPTY_CONFIG.length },
  layers: [],
}
const INDEX = 'application/vnd.oci.image.index.v1+json'

/** Publishes an index of images for two platforms, with an SBOM of each, which lists one module. */
async function publishIndex(client: Client, repository: Repository): Promise<readonly Digest[]> {
  const entries = [AMD64, ARM64].map((platform) => {
    const bytes = Buffer.from(JSON.stringify({ ...EMPTY_IMAGE, annotations: platform }))
    const image = { mediaType: OCI_MANIFEST, digest: digestOf(bytes), size: bytes.length }
    const document = spdxDocument({
      image: { name: 'app', digest: image.digest, created: undefined },
      platform,
      layers: [{ diffId: LAYER, storePaths: [PATH] }],
      storePaths: [{ path: PATH, narHash: NAR_HASH }],
      modules: [{ path: PATH, modules: [{ type: 'cargo', name: platform.architecture, version: '1.0.0' }] }],
    })
    return { platform, image, bytes, sbom: sbomAttestation({ name: 'app', ...image }, document) }
  })
  for (const { image, bytes, sbom } of entries) {
    for (const blob of [EMPTY_CONFIG, sbom.statement]) await client.putBlob(repository, blobOf(blob))
    await client.putManifest(repository, image.digest, OCI_MANIFEST, bytes)
    await client.putManifest(repository, sbom.digest, OCI_MANIFEST, sbom.manifest)
  }
  const manifests = [
    ...entries.map(({ image, platform }) => ({ ...image, platform })),
    ...entries.map(({ image, sbom }) => ({
      mediaType: OCI_MANIFEST,
      digest: sbom.digest,
      size: sbom.manifest.length,
      platform: { os: 'unknown', architecture: 'unknown' },
      annotations: attestationAnnotations(image.digest),
    })),
  ]
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }))
  await client.putManifest(repository, 'latest', INDEX, index)
  return entries.map(({ sbom }) => sbom.digest)
}

async function read(client: Client, images = [client.repository], platform = AMD64) {
  const from = client.repository
  const log = logOf(client)
  const previous = await readPreviousImages(client, [{ repository: from, tag: 'latest' }], log)
  return readPublishedContents(client, previous, images, platform, log)
}

test.each([AMD64, ARM64])('reads the SBOM of its own platform: $architecture', async (platform) => {
  const { client } = await connect()
  await publishIndex(client, client.repository)
  expect(await read(client, [client.repository], platform)).toEqual([
    {
      layers: [{ diffId: LAYER, storePaths: [PATH] }],
      storePaths: [
        {
          path: PATH,
          narHash: NAR_HASH,
          modules: [{ type: 'cargo', name: platform.architecture, version: '1.0.0' }],
        },
      ],
    },
  ])
})

test('an image in another repository may claim anything, so its SBOM is not read', async () => {
  const { client, server } = await connect()
  await publishIndex(client, client.repository)
  const before = server.requests.length
  expect(await read(client, [{ ...client.repository, path: 'other' }])).toEqual([])
  // Only the index.
  expect(server.requests.slice(before).map(({ reference }) => reference)).toEqual(['latest'])
})

test('the index of another platform alone has no SBOM to read', async () => {
  const { client } = await connect()
  await publishIndex(client, client.repository)
  expect(await read(client, [client.repository], { os: 'linux', architecture: 'riscv64' })).toEqual([])
})

test('an SBOM that the registry does not deliver does not fail the build, and the log says why', async () => {
  const { client, server } = await connect()
  const sboms = await publishIndex(client, client.repository)
  server.setFault(({ reference }) =>
    sboms.some((digest) => digest === reference) ? { kind: 'status', status: 403 } : undefined,
  )
  expect(await read(client)).toEqual([])
  expect(client.lines.at(-1)).toMatch(/^Not using the SBOM of 127\.0\.0\.1:\d+\/app:latest: .*403/)
})
