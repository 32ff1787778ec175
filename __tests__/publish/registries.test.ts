import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  blobsOf,
  indexAt,
  loseBlob,
  mergeWith,
  namesIn,
  openRegistry,
  type Pushed,
  platformsOf,
  push,
  pushOld,
  recordOf,
  records,
  refusalOf,
  rewrite,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { Fault, FaultOf, SeenRequest, TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedImage, seedIndex, seedSignature } from '../support/seed.ts'

let registry: TestRegistry
let other: TestRegistry

beforeEach(async () => {
  registry = await openRegistry()
  other = await openRegistry()
})

const both = (): string => `${registry.host}/app\n${other.host}/app`

/** The requests that uploaded a blob. */
function uploads({ requests }: TestRegistry): readonly SeenRequest[] {
  return requests.filter(({ method, route }) => method === 'PUT' && route === 'upload')
}

async function expectComplete(server: TestRegistry, repository: string, pushed: readonly Pushed[]): Promise<void> {
  for (const { image } of pushed) {
    for (const digest of blobsOf(server, repository, image.digest)) {
      expect(await server.blob(repository, digest)).toBeDefined()
    }
  }
}

describe('the same index is published in each registry', () => {
  test('if both have the images, without copying any', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    await push(other, 'app', TWO_SYSTEMS)
    const { outputs } = await mergeWith(registry, { image: both(), digests: records(images), tags: 'latest,v1' })
    expect(registry.manifest('app', 'latest')).toEqual(other.manifest('app', 'latest'))
    expect(outputs).toMatchObject({
      digest: registry.tags('app').get('v1'),
      image: `${registry.host}/app@${outputs.digest}`,
      tags: [
        `${registry.host}/app:latest`,
        `${other.host}/app:latest`,
        `${registry.host}/app:v1`,
        `${other.host}/app:v1`,
      ].join('\n'),
    })
    expect([...uploads(registry), ...uploads(other)]).toEqual([])
  })

  test('if each registry has only one of the images', async () => {
    const [amd64] = await push(registry, 'app', ['x86_64-linux'])
    const [arm64] = await push(other, 'app', ['aarch64-linux'])
    const arm = rewrite(arm64.record, { image: `${other.host}/app` })
    const { outputs } = await mergeWith(registry, { image: both(), digests: `${amd64.record}\n${arm}`, tags: 'latest' })
    for (const server of [registry, other]) {
      expect(server.tags('app').get('latest')).toBe(outputs.digest)
      expect(platformsOf(server, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
      await expectComplete(server, 'app', [amd64, arm64])
    }
  })

  test('with the attestations of copied images', async () => {
    const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'])
    const attestation = await seedAttestation(registry, 'app', image)
    const digests = seedIndex(registry, 'app', [entry, attestation])
    await mergeWith(registry, { image: both(), digests, tags: 'latest' })
    expect(platformsOf(other, 'latest')).toEqual(['linux/amd64', 'unknown/unknown'])
    for (const { digest } of [image, attestation]) {
      expect(other.manifest('app', digest)?.bytes).toEqual(registry.manifest('app', digest)?.bytes)
      for (const blob of blobsOf(other, 'app', digest)) expect(await other.blob('app', blob)).toBeDefined()
    }
  })

  test('with the signatures of copied images, which refer to them', async () => {
    const [{ image, record }] = await push(registry, 'app', ['x86_64-linux'])
    const signature = await seedSignature(registry, 'app', image)
    await mergeWith(registry, { image: both(), digests: record, tags: 'latest' })
    expect(other.manifest('app', signature)).toEqual(registry.manifest('app', signature))
    for (const blob of blobsOf(other, 'app', signature)) expect(await other.blob('app', blob)).toBeDefined()
    const list = image.digest.replace(':', '-')
    expect(indexAt(other, list)).toEqual(indexAt(registry, list))
  })

  test('if Docker has compressed the layers of one build differently for each registry', async () => {
    const [here] = await push(registry, 'app', ['x86_64-linux'])
    // The same config in a different manifest.
    const [there] = await push(other, 'app', ['x86_64-linux'], { annotations: { compressed: 'differently' } })
    const digests = records([there, here])
    const { outputs } = await mergeWith(registry, { image: both(), digests, tags: 'latest' })
    expect(registry.tags('app').get('latest')).toBe(other.tags('app').get('latest'))
    expect(JSON.parse(outputs.platforms ?? '')).toEqual([expect.objectContaining({ digest: here.image.digest })])
  })

  test('unless the images for one platform differ: the error names both, and no tag moves', async () => {
    const [here] = await push(registry, 'app', ['x86_64-linux'])
    const [there] = await push(other, 'app', ['x86_64-linux'], { labels: { stage: 'test' } })
    const digests = records([here, there])
    const refusal = await refusalOf(registry, { image: both(), digests, tags: 'latest' })
    expect(refusal).toMatch(/^There are 2 images of .* for linux\/amd64, but an index can have only one\n/)
    expect(refusal).toContain(`${registry.host}/app@${here.image.digest} (linux/amd64)`)
    expect(refusal).toContain(`${other.host}/app@${there.image.digest} (linux/amd64)`)
    expect([...writesTo(registry), ...writesTo(other)]).toEqual([])
  })

  test('if an image is incomplete in one of them, by copying the missing layer from the other', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    await push(other, 'app', TWO_SYSTEMS)
    const [{ image }] = images
    const [, layer] = blobsOf(registry, 'app', image.digest)
    await loseBlob(registry, 'app', layer)
    await mergeWith(registry, { image: both(), digests: records(images), tags: 'latest' })
    await expectComplete(registry, 'app', images)
    expect(uploads(registry)).toHaveLength(1)
    expect(uploads(other)).toEqual([])
  })
})

describe('blobs of a copied image', () => {
  test('are uploaded to another registry, except those that it already has', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const [{ image }] = images
    const [config] = blobsOf(registry, 'app', image.digest)
    await other.seedBlob('app', (await registry.blob('app', config)) ?? Buffer.alloc(0))
    await mergeWith(registry, { image: both(), digests: records(images), tags: 'latest' })
    await expectComplete(other, 'app', images)
    expect(uploads(other)).toHaveLength(3)
  })

  test('are uploaded once, even if several images share them', async () => {
    const platforms = { 'x86_64-linux': 'amd64', 'aarch64-linux': 'arm64' }
    const images = await Promise.all(
      Object.entries(platforms).map(async ([system, architecture]) => {
        const platform = { os: 'linux', architecture }
        const image = await seedImage(registry, 'app', platform, 'all')
        return { record: recordOf(`${registry.host}/app`, system, platform, image) }
      }),
    )
    await mergeWith(registry, { image: both(), digests: records(images), tags: 'latest' })
    expect(platformsOf(other, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
    expect(uploads(other)).toHaveLength(3)
  })

  test.each<[string, Fault, RegExp]>([
    ['is truncated', { kind: 'truncate' }, /other side closed/],
    [
      'has fewer bytes than its manifest says',
      { kind: 'status', status: 200, body: 'short' },
      / {2}it has 5 bytes, but its manifest says \d+$/m,
    ],
  ])('cause an error that names the registry that they are read from if one of them %s', async (_, fault, why) => {
    const images = await push(registry, 'app', ['x86_64-linux'])
    const [, layer] = blobsOf(registry, 'app', images[0].image.digest)
    registry.setFault(({ method, reference }) => (method === 'GET' && reference === layer ? fault : undefined))
    const refusal = await refusalOf(registry, { image: both(), digests: records(images), tags: 'latest' })
    expect(refusal).toContain(`Can't read all of the blob ${registry.host}/app@${layer}`)
    expect(refusal).toMatch(why)
    expect(refusal).not.toContain(other.host)
    expect(other.tags('app').size).toBe(0)
  })

  test('are mounted within one registry, and not uploaded', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    await mergeWith(registry, { image: namesIn(registry, 'app', 'mirror'), digests: records(images), tags: 'latest' })
    await expectComplete(registry, 'mirror', images)
    const mounts = registry.requests.filter(({ path }) => path.includes('mount='))
    expect(mounts).toHaveLength(4)
    for (const { path } of mounts) expect(path).toContain('from=app')
    expect(uploads(registry)).toEqual([])
    expect(registry.tags('mirror').get('latest')).toBe(registry.tags('app').get('latest'))
  })

  test.each<[string, ReturnType<FaultOf>]>([
    ['that starts an upload instead of mounting them', { kind: 'status', status: 202 }],
    ['that denies mounting them', { kind: 'status', status: 403 }],
    ['that does not support mounting', { kind: 'status', status: 405 }],
    ['that breaks the connection instead of mounting them', { kind: 'reset' }],
  ])('are uploaded within a registry %s', async (_, fault) => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    registry.setFault(({ path }) => (path.includes('mount=') ? fault : undefined))
    await mergeWith(registry, { image: namesIn(registry, 'app', 'mirror'), digests: records(images), tags: 'latest' })
    await expectComplete(registry, 'mirror', images)
    expect(uploads(registry)).toHaveLength(4)
  })

  test('are uploaded within a registry that refuses to mount, even if there are many', async () => {
    // With this delay, all uploads start before the first blob is read.
    const server = await openRegistry({ delayMs: 20 })
    const images = await push(server, 'app', ['x86_64-linux', 'aarch64-linux', 'armv7l-linux', 'armv6l-linux'])
    const mirrors = Array.from({ length: 12 }, (_, at) => `mirror-${at}`)
    const image = ['app', ...mirrors].map((name) => `${server.host}/${name}`).join('\n')
    server.setFault(({ path }) => (path.includes('mount=') ? { kind: 'status', status: 405 } : undefined))
    await mergeWith(server, { image, digests: records(images), tags: 'latest' })
    for (const mirror of mirrors) await expectComplete(server, mirror, images)
  })

  test('with a foreign media type are not requested, because registries need not have them', async () => {
    const layer = { mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', size: 1 }
    const [{ image }] = await push(registry, 'app', ['x86_64-linux'])
    const { mediaType, bytes = Buffer.alloc(0) } = registry.manifest('app', image.digest) ?? {}
    const manifest = JSON.parse(String(bytes))
    const layers = [...manifest.layers, { ...layer, digest: `sha256:${'0'.repeat(64)}` }]
    const foreign = Buffer.from(JSON.stringify({ ...manifest, layers }))
    const digests = registry.seedManifest('app', foreign, mediaType ?? '')
    await mergeWith(registry, { digests, tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })
})

describe('credentials', () => {
  test('are sent only to their registry', async () => {
    const users = ['here', 'there'].map((user) => ({ kind: 'basic' as const, user, password: `of ${user}` }))
    const [one, two] = await Promise.all(users.map((auth) => openRegistry({ auth })))
    if (one === undefined || two === undefined) throw new Error('no registries')
    const images = await push(one, 'app', TWO_SYSTEMS)
    const image = `${one.host}/app\n${two.host}/app`
    const credentials = async ({ host }: { readonly host: string }) => {
      const { user, password } = users[host === one.host ? 0 : 1] ?? { user: '', password: '' }
      return { kind: 'password' as const, username: user, password }
    }
    await mergeWith(one, { image, digests: records(images), tags: 'latest' }, { credentials })
    await expectComplete(two, 'app', images)
    for (const [server, user] of [
      [one, 'here'],
      [two, 'there'],
    ] as const) {
      const sent = new Set(server.requests.flatMap(({ authorization }) => authorization ?? []))
      expect([...sent]).toEqual([`Basic ${Buffer.from(`${user}:of ${user}`).toString('base64')}`])
    }
  })

  test('for a token realm are used to mount blobs of the other image', async () => {
    const auth = { kind: 'bearer', user: 'octocat', password: 'secret' } as const
    const server = await openRegistry({ auth })
    const images = await push(server, 'app', TWO_SYSTEMS)
    const image = namesIn(server, 'app', 'mirror')
    const credentials = async () => ({ kind: 'password', username: auth.user, password: auth.password }) as const
    await mergeWith(server, { image, digests: records(images), tags: 'latest' }, { credentials })
    await expectComplete(server, 'mirror', images)
    expect(uploads(server)).toEqual([])
  })
})

describe('no tag moves in any registry', () => {
  const puts =
    (route: string, message: RegExp): FaultOf =>
    (request) =>
      request.method === 'PUT' && request.route === route && message.test(request.reference ?? '')
        ? { kind: 'status', status: 403, body: '{"errors":[{"code":"DENIED","message":"quota exceeded"}]}' }
        : undefined

  test.each<[string, FaultOf]>([
    ['if one registry refuses a blob', puts('upload', /./)],
    ['if one registry refuses a manifest', puts('manifest', /^sha256:/)],
    ['if one registry refuses a tag', puts('manifest', /^v1$/)],
    ['if one registry refuses `latest`, which is written last', puts('manifest', /^latest$/)],
  ])('%s', async (_, fault) => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    for (const server of [registry, other]) await pushOld(server, ['v1', 'v2', 'latest'])
    const inputs = { image: both(), digests: records(images), tags: 'v1,v2,latest' }
    other.setFault(fault)
    expect(await refusalOf(registry, inputs)).toContain('DENIED: quota exceeded')
    other.setFault(undefined)
    const { outputs } = await mergeWith(registry, inputs)
    for (const server of [registry, other])
      expect(new Set(server.tags('app').values())).toEqual(new Set([outputs.digest]))
  })

  test('if one registry can’t be reached', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    await pushOld(registry, ['latest'])
    const image = `${registry.host}/app\n127.0.0.1:1/app`
    const refusal = await refusalOf(registry, { image, digests: records(images), tags: 'latest' })
    expect(refusal).toContain("127.0.0.1:1 can't be reached")
    expect(writesTo(registry)).toEqual([])
  })

  test('unless a blob that arrived damaged is intact when it is read again', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const [{ image }] = images
    const [, layer] = blobsOf(registry, 'app', image.digest)
    let damaged = false
    registry.setFault(({ method, reference }) => {
      if (method !== 'GET' || reference !== layer || damaged) return undefined
      damaged = true
      return { kind: 'corrupt' }
    })
    const { outputs } = await mergeWith(registry, { image: both(), digests: records(images), tags: 'latest' })
    expect(damaged).toBe(true)
    expect(other.tags('app').get('latest')).toBe(outputs.digest)
  })

  test('if a blob always arrives damaged', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const [{ image }] = images
    const [, layer] = blobsOf(registry, 'app', image.digest)
    registry.setFault(({ method, reference }) =>
      method === 'GET' && reference === layer ? { kind: 'corrupt' } : undefined,
    )
    const refusal = await refusalOf(registry, { image: both(), digests: records(images), tags: 'latest' })
    expect(refusal).toContain(`Can't read all of the blob ${registry.host}/app@${layer}\n  its digest should be`)
    expect(refusal).toContain('but is sha256:')
    expect(other.manifest('app', image.digest)).toBeUndefined()
  })

  test('if a blob to copy is missing', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const [{ image }] = images
    const [, layer] = blobsOf(registry, 'app', image.digest)
    registry.setFault(({ method, reference }) =>
      method === 'GET' && reference === layer ? { kind: 'status', status: 404 } : undefined,
    )
    const refusal = await refusalOf(registry, { image: both(), digests: records(images), tags: 'latest' })
    expect(refusal).toContain(`Can't read the blob ${registry.host}/app@${layer}`)
  })
})

test('a re-run finishes a merge whose network failed at any request', async () => {
  const tags = ['new', 'v1', 'latest']
  const run = async (last: number): Promise<boolean> => {
    const here = await openRegistry()
    const there = await openRegistry()
    const images = await push(here, 'app', ['x86_64-linux'])
    const before = new Map<TestRegistry, string>()
    for (const server of [here, there]) before.set(server, await pushOld(server, ['v1', 'latest']))
    const inputs = { image: `${here.host}/app\n${there.host}/app`, digests: records(images), tags: tags.join(',') }
    let asked = 0
    for (const server of [here, there]) server.setFault(() => (++asked > last ? { kind: 'reset' } : undefined))
    const finished = await mergeWith(here, inputs).then(
      () => true,
      () => false,
    )
    const left = [here, there].map((server) => new Map(server.tags('app')))
    for (const server of [here, there]) server.setFault(undefined)
    const { outputs } = await mergeWith(here, inputs)
    for (const [at, server] of [here, there].entries()) {
      const allowed = new Set([before.get(server), outputs.digest])
      for (const digest of left[at]?.values() ?? []) expect(allowed).toContain(digest)
      expect(Object.fromEntries(server.tags('app'))).toEqual(
        Object.fromEntries(tags.map((tag) => [tag, outputs.digest])),
      )
    }
    await Promise.all([here.close(), there.close()])
    return finished
  }
  let last = 0
  while (!(await run(last))) last++
  expect(last).toBeGreaterThan(25)
}, 60_000)
