import { beforeEach, describe, expect, test } from '@jest/globals'
import type { Credential } from '../../src/registry/credentials.ts'
import {
  blobsOf,
  mergeWith,
  openRegistry,
  platformsOf,
  push,
  pushOld,
  recordOf,
  records,
  refusalOf,
  TWO_SYSTEMS,
} from '../support/merging.ts'
import { basic } from '../support/registry/wire.ts'
import type { FaultOf, TestRegistry } from '../support/registry.ts'
import { OCI_MANIFEST, seedImage } from '../support/seed.ts'

const account = { user: 'octocat', password: 'correct horse: battery' }
const password: Credential = { kind: 'password', username: account.user, password: account.password }
const credentials = async () => password

let registry: TestRegistry

beforeEach(async () => {
  registry = await openRegistry()
})

/** Pushes images for two systems that share a layer. */
async function pushWithSharedLayer(): Promise<{ readonly digests: string; readonly layer: string }> {
  const content = Buffer.from('a layer of scripts')
  const layer = await registry.seedBlob('app', content)
  const images = await Promise.all(
    TWO_SYSTEMS.map(async (system) => {
      const platform = { os: 'linux', architecture: system === 'x86_64-linux' ? 'amd64' : 'arm64' }
      const { digest } = await seedImage(registry, 'app', platform)
      const manifest = JSON.parse(String(registry.manifest('app', digest)?.bytes))
      const shared = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layer, size: content.length }
      const bytes = Buffer.from(JSON.stringify({ ...manifest, layers: [...manifest.layers, shared] }))
      const image = {
        digest: registry.seedManifest('app', bytes, OCI_MANIFEST),
        mediaType: OCI_MANIFEST,
        size: bytes.length,
      }
      return { record: recordOf(`${registry.host}/app`, system, platform, image) }
    }),
  )
  return { digests: records(images), layer }
}

test('a layer that several images share is checked once', async () => {
  const { digests, layer } = await pushWithSharedLayer()
  await mergeWith(registry, { digests, tags: 'v1' })
  expect(platformsOf(registry, 'v1')).toEqual(['linux/amd64', 'linux/arm64'])
  expect(registry.requests.filter(({ reference }) => reference === layer)).toHaveLength(1)
})

test('a merge starts one upload, which it cancels, and checks no blob twice', async () => {
  const images = await push(registry, 'app', TWO_SYSTEMS)
  await mergeWith(registry, { digests: records(images), tags: 'latest,v1' })
  const looks = registry.requests.filter(({ route }) => route === 'blob').map(({ path }) => path)
  expect(looks).toHaveLength(new Set(looks).size)
  const writes = registry.requests.filter(({ method }) => method === 'POST' || method === 'DELETE')
  expect(writes.map(({ method, route }) => `${method} ${route}`)).toEqual(['POST uploads', 'DELETE upload'])
})

describe('a login without permission to push is reported', () => {
  test('before the images are read', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const layers = images.flatMap(({ image }) => blobsOf(registry, 'app', image.digest).slice(1))
    const body = '{"errors":[{"code":"DENIED","message":"you may read only"}]}'
    registry.setFault(({ method, reference = '' }) => {
      if (layers.includes(reference)) return { kind: 'hang' }
      return method === 'POST' ? { kind: 'status', status: 403, body } : undefined
    })
    const refusal = await refusalOf(registry, { digests: records(images), tags: 'v1' }, { credentials })
    expect(refusal).toContain(`Can't push to ${registry.host}/app: `)
    expect(refusal).toContain('you may read only')
  })

  test.each<readonly [string, Parameters<typeof openRegistry>[0]]>([
    [
      'with a token that may only pull',
      { auth: { kind: 'bearer', ...account, grants: (_, action) => action === 'pull' } },
    ],
    [
      'with a password',
      {
        fault: ({ method, authorization }) => {
          if (authorization === basic(account) && method === 'GET') return undefined
          return { kind: 'status', status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } }
        },
      },
    ],
  ])('instead of a missing image, %s', async (_, options) => {
    const own = await openRegistry(options)
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const digests = records(images).replaceAll(registry.host, own.host)
    const refusal = await refusalOf(own, { digests, tags: 'v1' }, { credentials })
    expect(refusal).toMatch(/^Can't push to .* answered with status 401: access denied/)
  })

  test('unless the merge pushes nothing', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const fault: FaultOf = ({ method }) => (method === 'POST' ? { kind: 'status', status: 403 } : undefined)
    registry.setFault(fault)
    await mergeWith(registry, { digests: records(images), tags: 'v1', push: 'false' })
  })
})

test('an immutable tag is reported with its digest, and the other tags are restored', async () => {
  const images = await push(registry, 'app', TWO_SYSTEMS)
  const old = await pushOld(registry, ['v1', 'v1.2'])
  const body = '{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}'
  registry.setFault(({ method, reference }) =>
    method === 'PUT' && reference === 'v1.2' ? { kind: 'status', status: 400, body } : undefined,
  )
  const refusal = await refusalOf(registry, { digests: records(images), tags: 'v1,v1.2' })
  expect(refusal).toContain(`it exists and points to ${old}, and ${registry.host} refuses to change it`)
  expect(refusal).toContain('TAG_INVALID: the tag is immutable')
  expect(refusal).toContain('All tags are as they were.')
})
