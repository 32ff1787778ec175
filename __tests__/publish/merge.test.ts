import { beforeEach, describe, expect, test } from '@jest/globals'
import { ActionError } from '../../src/errors.ts'
import {
  type AtLeastOne,
  indexAt,
  lines,
  mergeWith,
  namesIn,
  ORIGIN,
  openRegistry,
  type Pushed,
  platformsOf,
  push,
  pushOld,
  recordOf,
  records,
  refusalOf,
  said,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { FaultOf, TestRegistry } from '../support/registry.ts'
import { OCI_INDEX, seedImage, seedIndex } from '../support/seed.ts'

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

interface Given {
  readonly app: AtLeastOne<Pushed>
  readonly changed: Pushed
}

describe('a merge', () => {
  test('publishes an OCI index of the images of all systems under every tag', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    const { outputs, summary } = await mergeWith(registry, {
      digests: `${arm64.record}\n${amd64.record}`,
      tags: 'latest, v1.2',
    })

    const index = registry.manifest('app', 'latest')
    expect(index?.mediaType).toBe(OCI_INDEX)
    expect(JSON.parse(String(index?.bytes))).toEqual({
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [
        { ...amd64.image, platform: { os: 'linux', architecture: 'amd64' } },
        { ...arm64.image, platform: { os: 'linux', architecture: 'arm64' } },
      ],
      annotations: ORIGIN,
    })
    expect(Object.fromEntries(registry.tags('app'))).toEqual({ latest: index?.digest, 'v1.2': index?.digest })
    expect(outputs).toEqual({
      digest: index?.digest,
      name: `${registry.host}/app`,
      changes: '[]',
      image: `${registry.host}/app@${index?.digest}`,
      tags: `${registry.host}/app:latest\n${registry.host}/app:v1.2`,
      'skipped-tags': '',
      changed: 'true',
      platforms: JSON.stringify([
        { system: 'x86_64-linux', platform: 'linux/amd64', digest: amd64.image.digest },
        { system: 'aarch64-linux', platform: 'linux/arm64', digest: arm64.image.digest },
      ]),
    })
    expect(summary).toMatch(/^### Published\n/)
    expect(summary).toContain('| `v1.2` | new |')
    expect(summary).toContain(`Index: \`${registry.host}/app@${index?.digest}\``)
    expect(summary).toContain(`| linux/arm64 | 27 B | \`${arm64.image.digest}\` |`)
    expect(summary).toContain(`docker pull ${registry.host}/app:latest`)
  })

  test('distinguishes 32-bit Arm images whose configs name no variant', async () => {
    const images = await push(registry, 'app', ['armv7l-linux', 'armv6l-linux'], { withoutVariant: true })
    const { outputs } = await mergeWith(registry, { digests: records(images), tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/arm/v6', 'linux/arm/v7'])
    expect(JSON.parse(outputs.platforms ?? '').map(({ platform }: { platform: string }) => platform)).toEqual([
      'linux/arm/v6',
      'linux/arm/v7',
    ])
  })

  test('accepts bare digests and reads their platforms from the registry', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    await mergeWith(registry, {
      digests: images.map(({ image }) => image.digest).join('\n'),
      systems: 'x86_64-linux,aarch64-linux',
    })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('publishes the image itself if a digest refers to an index of only that image', async () => {
    const [{ image, platform }] = await push(registry, 'app', ['x86_64-linux'])
    await mergeWith(registry, { digests: seedIndex(registry, 'app', [{ ...image, platform }]) })
    expect(indexAt(registry, 'latest').manifests).toEqual([expect.objectContaining({ digest: image.digest })])
  })

  test('adds the annotations of docker/metadata-action, and warns about those that it skips', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const annotations = [
      'manifest:org.opencontainers.image.description=An app',
      'index:org.opencontainers.image.title=App',
      'manifest-descriptor[linux/arm64]:org.example.speed=slow',
      'manifest[linux/arm64]:org.example.lost=yes',
    ]
    const metadata = { tags: [`${registry.host}/app:main`], annotations }
    await mergeWith(
      registry,
      { digests: records(images) },
      { env: { DOCKER_METADATA_OUTPUT_JSON: JSON.stringify(metadata) } },
    )
    expect(indexAt(registry, 'main').annotations).toEqual({
      ...ORIGIN,
      'org.opencontainers.image.description': 'An app',
      'org.opencontainers.image.title': 'App',
    })
    expect(indexAt(registry, 'main').manifests.map(({ annotations }) => annotations)).toEqual([
      undefined,
      { 'org.example.speed': 'slow' },
    ])
    expect(said).toEqual([
      expect.stringMatching(/^warning: Skipping the annotation manifest\[linux\/arm64\]:org\.example\.lost=yes: /),
    ])
  })

  test('publishes every image, with tags without a name in all of them', async () => {
    const app = await push(registry, 'app', ['x86_64-linux'])
    const mirror = await push(registry, 'mirror', ['x86_64-linux'])
    await mergeWith(registry, {
      image: namesIn(registry, 'app', 'mirror'),
      digests: records([...mirror, ...app]),
      tags: `latest, ${registry.host}/mirror:edge`,
    })
    expect(indexAt(registry, 'latest').manifests).toEqual([expect.objectContaining({ digest: app[0].image.digest })])
    expect(registry.tags('mirror').get('latest')).toBe(registry.tags('app').get('latest'))
    expect([...registry.tags('app').keys()]).toEqual(['latest'])
    expect([...registry.tags('mirror').keys()].sort()).toEqual(['edge', 'latest'])
  })

  test('ignores records of other images, including those whose names have the same prefix', async () => {
    const app = await push(registry, 'app', ['x86_64-linux'])
    const api = await push(registry, 'app-api', ['aarch64-linux'])
    await mergeWith(registry, { digests: records([...app, ...api]) })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })

  test('publishes the same index when the run is repeated, and writes no tag again', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const first = await mergeWith(registry, { digests: records(images) })
    const before = registry.requests.length
    const second = await mergeWith(registry, { digests: records(images.toReversed()) })
    expect(second.outputs).toEqual({ ...first.outputs, changed: 'false' })
    expect(second.summary).toMatch(/^### Unchanged\n/)
    const written = registry.requests.slice(before).filter(({ method }) => method === 'PUT')
    expect(written).toEqual([])
  })

  test('checks everything and publishes nothing with push: false', async () => {
    const images = await push(registry, 'app', ['x86_64-linux'])
    const { outputs, summary } = await mergeWith(registry, { digests: records(images), push: 'false' })
    expect(writesTo(registry)).toEqual([])
    expect(outputs).toMatchObject({ tags: '', digest: expect.stringMatching(/^sha256:/) })
    expect(summary).toMatch(/^### Checked, not published\n/)
    await expect(mergeWith(registry, { digests: `sha256:${'0'.repeat(64)}`, push: 'false' })).rejects.toThrow(
      'is not in the registry',
    )
  })
})

describe('an error is reported, and nothing is published, for', () => {
  test.each<[string, (given: Given) => Record<string, string> | Promise<Record<string, string>>, readonly RegExp[]]>([
    [
      'a run without a record of this image',
      ({ app }) => ({ image: `${registry.host}/other`, digests: records(app) }),
      [
        /No build of this run has handed over a digest for 127[^ ]*\/other/,
        /found digests for 127[^ ]*\/app/,
        /needs: build/,
      ],
    ],
    [
      'a record that is not JSON',
      () => ({ digests: 'sha256:123' }),
      [/The digest record in line 1 of `digests` is not valid/, /same version of this action/],
    ],
    [
      'a record with an invalid field',
      ({ app }) => ({ digests: app[0].record.replace(/sha256:[0-9a-f]+/, 'sha256:../../etc') }),
      [/is not valid/, /"digest": is not a sha256 digest/],
    ],
    [
      'two records for one system',
      ({ app, changed }) => ({ digests: records([...app, changed]) }),
      [
        /There are 2 images of 127[^ ]*\/app for x86_64-linux, but an index can have only one/,
        /sha256:[0-9a-f]{64} in line 3/,
      ],
    ],
    [
      'two bare digests for one platform',
      ({ app, changed }) => ({ digests: `${app[0].image.digest}\n${changed.image.digest}` }),
      [/There are 2 images of 127[^ ]*\/app for linux\/amd64, but an index can have only one/],
    ],
    [
      'two bare digests for one platform, one of which names its default variant',
      async ({ app }) => {
        const { digest } = await seedImage(registry, 'app', { architecture: 'arm64', variant: 'v8' })
        return { digests: `${app[1].image.digest}\n${digest}` }
      },
      [
        /There are 2 images of 127[^ ]*\/app for linux\/arm64, but an index can have only one/,
        /^ {2}\S+\/app@sha256:[0-9a-f]{64} \(linux\/arm64\)\n {2}\S+\/app@sha256:[0-9a-f]{64} \(linux\/arm64\/v8\)$/m,
      ],
    ],
    [
      'an image whose config contains a workflow command',
      async () => {
        const platform = { os: 'linux', architecture: 'arm64' }
        const image = await seedImage(registry, 'app', { ...platform, variant: 'v8\n::warning::x' })
        return { digests: recordOf(`${registry.host}/app`, 'aarch64-linux', platform, image) }
      },
      [/config.*: variant: has characters that no platform has/],
    ],
    [
      'a digest that is not in the registry',
      ({ app }) => ({ digests: app[0].record.replaceAll(app[0].image.digest, `sha256:${'0'.repeat(64)}`) }),
      [/\/app@sha256:0{64} is not in the registry/, /It is not visible yet, was deleted .*Run the job again\./],
    ],
    [
      'a missing system',
      ({ app }) => ({ digests: records(app), systems: 'x86_64-linux, aarch64-linux, armv7l-linux' }),
      [/\/app has no image for armv7l-linux, which `systems` lists/, /No tag has moved/],
    ],
    [
      'a system that `systems` does not list',
      ({ app }) => ({ digests: records(app), systems: 'x86_64-linux' }),
      [/\/app has an image for aarch64-linux, which `systems` does not list/],
    ],
    [
      'an image whose architecture differs from its record',
      ({ app }) => ({ digests: app[0].record.replace('x86_64-linux', 'aarch64-linux').replace('amd64', 'arm64') }),
      [/does not match its record/, /says aarch64-linux \(linux\/arm64\), but the image is for linux\/amd64/],
    ],
  ])('%s', async (_name, inputsOf, messages) => {
    const app = await push(registry, 'app', TWO_SYSTEMS)
    const [changed] = await push(registry, 'app', ['x86_64-linux'], { content: 'changed' })
    registry.seedTag('app', 'latest', app[0].image.digest)
    const inputs = await inputsOf({ app, changed })
    const refusal = await refusalOf(registry, inputs)
    expect(`${lines.join('\n')}\n${said.join('\n')}`).not.toMatch(/^\s*::/m)
    for (const message of messages) expect(refusal).toMatch(message)
    expect(writesTo(registry)).toEqual([])
  })
})

describe('a merge that fails leaves every tag unchanged', () => {
  const breaks: readonly [string, ReturnType<FaultOf>][] = [
    ['is refused', { kind: 'status', status: 403 }],
    ['fails with 500 every time', { kind: 'status', status: 500 }],
    ['gets a damaged answer', { kind: 'corrupt' }],
    ['gets no answer', { kind: 'reset' }],
  ]
  test.each(breaks)('if any request %s', async (_name, fault) => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const tags = ['v1', 'v2', 'latest']
    const old = await pushOld(registry, tags)
    const inputs = { digests: records(images), tags: tags.join(',') }

    // Runs once without a fault to list the requests, then once for each of them, with that request broken.
    const { outputs } = await mergeWith(registry, inputs)
    const steps = registry.requests.map(({ method, route, path }) => ({ method, route, path }))
    let failures = 0
    for (const step of steps) {
      for (const tag of tags) registry.seedTag('app', tag, old)
      let seen = 0
      registry.setFault((request) => {
        if (request.method !== step.method || request.path !== step.path) return undefined
        seen++
        // Moving a tag back repeats earlier requests, so only the first one is refused.
        return fault?.kind === 'status' && fault.status === 403 && seen > 1 ? undefined : fault
      })
      const outcome = await mergeWith(registry, inputs).then(
        () => 'published',
        (error: unknown) => error,
      )
      const now = [...registry.tags('app').values()]
      if (outcome === 'published') expect(now).toEqual(tags.map(() => outputs.digest))
      else {
        failures++
        expect(outcome).toBeInstanceOf(ActionError)
        expect(now).toEqual(tags.map(() => old))
      }
    }
    // These may fail without failing the merge: the first request (GET /v2/), HEAD, because GET is sent if it fails,
    // writing the index, which already exists, and cancelling an upload.
    const replaced = steps.filter(
      ({ method, path }) => /HEAD|DELETE/.test(method) || (method === 'PUT' && path.includes('sha256:')),
    )
    expect(failures).toBeGreaterThanOrEqual(fault?.kind === 'corrupt' ? 5 : steps.length - 1 - replaced.length)
  })
})
