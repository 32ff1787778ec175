import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { Failure } from '../../src/failure.ts'
import { readInputs } from '../../src/inputs.ts'
import type { JobLog } from '../../src/job-log.ts'
import { merge } from '../../src/merge/merge.ts'
import type { Result } from '../../src/mode.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { readWorkflow } from '../../src/workflow.ts'
import { type FaultOf, startRegistry, type TestRegistry } from '../support/registry.ts'
import { prepareRunner } from '../support/runner.ts'
import { OCI_INDEX, type SeededImage, type SeedPlatform, seedImage, seedIndex } from '../support/seed.ts'

const PLATFORMS: Readonly<Record<string, SeedPlatform>> = {
  'x86_64-linux': { os: 'linux', architecture: 'amd64' },
  'aarch64-linux': { os: 'linux', architecture: 'arm64' },
  'armv7l-linux': { os: 'linux', architecture: 'arm', variant: 'v7' },
  'armv6l-linux': { os: 'linux', architecture: 'arm', variant: 'v6' },
}

/** Of the run, by default. */
const ORIGIN = {
  'org.opencontainers.image.revision': '0123456789abcdef0123456789abcdef01234567',
  'org.opencontainers.image.source': 'https://github.com/Owner/App',
}

let registry: TestRegistry
/** What was told, and what was written down beside it. */
let said: string[]
let lines: string[]

beforeEach(async () => {
  registry = await startRegistry()
  said = []
  lines = []
})
afterEach(() => registry.close())

describe('what is published', () => {
  test('is an OCI index of the images of all systems, under every tag', async () => {
    const [amd64, arm64] = await push('app', ['x86_64-linux', 'aarch64-linux'])
    const { outputs, summary } = await mergeWith({ digests: `${arm64.record}\n${amd64.record}`, tags: 'latest, v1.2' })

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
      image: `${registry.host}/app@${index?.digest}`,
      tags: `${registry.host}/app:latest\n${registry.host}/app:v1.2`,
      'skipped-tags': '',
      changed: 'true',
      platforms: JSON.stringify([
        { system: 'x86_64-linux', platform: 'linux/amd64', digest: amd64.image.digest },
        { system: 'aarch64-linux', platform: 'linux/arm64', digest: arm64.image.digest },
      ]),
    })
    expect(summary).toMatch(/^# Published\n/)
    expect(summary).toContain(`| \`${registry.host}/app:v1.2\` | created |`)
    expect(summary).toContain(`Index \`${index?.digest}\``)
    expect(summary).toContain(`| linux/arm64 | aarch64-linux | \`${arm64.image.digest}\` |`)
    expect(summary).toContain(`docker pull ${registry.host}/app:latest`)
  })

  test('tells 32-bit Arm images apart, whose configs name no variant', async () => {
    const images = await push('app', ['armv7l-linux', 'armv6l-linux'], { variant: undefined })
    const { outputs } = await mergeWith({ digests: records(images), tags: 'latest' })
    expect(platformsOf('latest')).toEqual(['linux/arm/v6', 'linux/arm/v7'])
    expect(JSON.parse(outputs.platforms ?? '').map(({ platform }: { platform: string }) => platform)).toEqual([
      'linux/arm/v6',
      'linux/arm/v7',
    ])
  })

  test('takes bare digests, and finds out what they are for', async () => {
    const images = await push('app', ['x86_64-linux', 'aarch64-linux'])
    await mergeWith({
      digests: images.map(({ image }) => image.digest).join('\n'),
      systems: 'x86_64-linux,aarch64-linux',
    })
    expect(platformsOf('latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('has the image itself where a digest is of an index around it alone', async () => {
    const [{ image, platform }] = await push('app', ['x86_64-linux'])
    await mergeWith({ digests: seedIndex(registry, 'app', [{ ...image, platform }]) })
    expect(manifestsOf('latest')).toEqual([expect.objectContaining({ digest: image.digest })])
  })

  test('carries the annotations of docker/metadata-action, and warns of those that have no place', async () => {
    const images = await push('app', ['x86_64-linux', 'aarch64-linux'])
    const annotations = [
      'manifest:org.opencontainers.image.description=An app',
      'index:org.opencontainers.image.title=App',
      'manifest-descriptor[linux/arm64]:org.example.speed=slow',
      'manifest[linux/arm64]:org.example.lost=yes',
    ]
    const metadata = { tags: [`${registry.host}/app:main`], annotations }
    await mergeWith({ digests: records(images) }, { DOCKER_METADATA_OUTPUT_JSON: JSON.stringify(metadata) })
    expect(JSON.parse(String(registry.manifest('app', 'main')?.bytes)).annotations).toEqual({
      ...ORIGIN,
      'org.opencontainers.image.description': 'An app',
      'org.opencontainers.image.title': 'App',
    })
    expect(manifestsOf('main').map(({ annotations }) => annotations)).toEqual([
      undefined,
      { 'org.example.speed': 'slow' },
    ])
    expect(said).toEqual([
      expect.stringMatching(/^warning: .*manifest\[linux\/arm64\]:org\.example\.lost=yes.*left out/),
    ])
  })

  test('goes to every image, with bare tags to all of them', async () => {
    const app = await push('app', ['x86_64-linux'])
    const mirror = await push('mirror', ['x86_64-linux'])
    await mergeWith({
      image: `${registry.host}/app\n${registry.host}/mirror`,
      digests: records([...mirror, ...app]),
      tags: `latest, ${registry.host}/mirror:edge`,
    })
    expect(manifestsOf('latest')).toEqual([expect.objectContaining({ digest: app[0].image.digest })])
    expect(registry.tags('mirror').get('latest')).toBe(registry.tags('app').get('latest'))
    expect([...registry.tags('app').keys()]).toEqual(['latest'])
    expect([...registry.tags('mirror').keys()].sort()).toEqual(['edge', 'latest'])
  })

  test('leaves out records of other images, also of those whose names begin alike', async () => {
    const app = await push('app', ['x86_64-linux'])
    const api = await push('app-api', ['aarch64-linux'])
    await mergeWith({ digests: records([...app, ...api]) })
    expect(platformsOf('latest')).toEqual(['linux/amd64'])
  })

  test('is the same index when the run is repeated, and no tag is written again', async () => {
    const images = await push('app', ['x86_64-linux', 'aarch64-linux'])
    const first = await mergeWith({ digests: records(images) })
    const before = registry.requests.length
    const second = await mergeWith({ digests: records(images.toReversed()) })
    expect(second.outputs).toEqual({ ...first.outputs, changed: 'false' })
    expect(second.summary).toMatch(/^# Unchanged\n/)
    const written = registry.requests.slice(before).filter(({ method }) => method === 'PUT')
    expect(written).toEqual([])
  })

  test('is nothing with push: false, but all is checked', async () => {
    const images = await push('app', ['x86_64-linux'])
    const { outputs, summary } = await mergeWith({ digests: records(images), push: 'false' })
    expect(writes()).toEqual([])
    expect(outputs).toMatchObject({ tags: '', digest: expect.stringMatching(/^sha256:/) })
    expect(summary).toMatch(/^# Checked, not published\n/)
    await expect(mergeWith({ digests: `sha256:${'0'.repeat(64)}`, push: 'false' })).rejects.toThrow(
      'is not in the registry',
    )
  })
})

describe('what is wrong is told, and nothing is published', () => {
  test.each<[string, (given: Given) => Record<string, string> | Promise<Record<string, string>>, readonly RegExp[]]>([
    [
      'no record for this image',
      ({ app }) => ({ image: `${registry.host}/other`, digests: records(app) }),
      [
        /No build of this run has handed over a digest for 127[^ ]*\/other/,
        /there are digests for 127[^ ]*\/app/,
        /needs: build/,
      ],
    ],
    [
      'a record that is no JSON',
      () => ({ digests: 'sha256:123' }),
      [/The digest record in line 1 of `digests` is not valid/, /same version of this action/],
    ],
    [
      'a record with a wrong field',
      ({ app }) => ({ digests: app[0].record.replace(/sha256:[0-9a-f]+/, 'sha256:../../etc') }),
      [/is not valid/, /"digest": is not a sha256 digest/],
    ],
    [
      'two records for one system',
      ({ app, changed }) => ({ digests: records([...app, changed]) }),
      [/There are 2 images of 127[^ ]*\/app for x86_64-linux, and an index has one/, /sha256:[0-9a-f]{64} in line 3/],
    ],
    [
      'two bare digests for one platform',
      ({ app, changed }) => ({ digests: `${app[0].image.digest}\n${changed.image.digest}` }),
      [/There are 2 images of 127[^ ]*\/app for linux\/amd64, and an index has one/],
    ],
    [
      'two bare digests for one platform, one of which names the variant that the other implies',
      async ({ app }) => {
        const { digest } = await seedImage(registry, 'app', { architecture: 'arm64', variant: 'v8' })
        return { digests: `${app[1].image.digest}\n${digest}` }
      },
      [
        /There are 2 images of 127[^ ]*\/app for linux\/arm64, and an index has one/,
        /^ {2}sha256:[0-9a-f]{64} \(linux\/arm64\)\n {2}sha256:[0-9a-f]{64} \(linux\/arm64\/v8\)$/m,
      ],
    ],
    [
      'an image whose config would give the runner a command',
      async () => {
        const platform = { os: 'linux', architecture: 'arm64' }
        const image = await seedImage(registry, 'app', { ...platform, variant: 'v8\n::warning::x' })
        return { digests: recordOf('app', 'aarch64-linux', platform, image) }
      },
      [/config.*: variant: has characters that no platform has/],
    ],
    [
      'a digest that is not in the registry',
      ({ app }) => ({ digests: app[0].record.replaceAll(app[0].image.digest, `sha256:${'0'.repeat(64)}`) }),
      [/\/app@sha256:0{64} is not in the registry/, /pushed to another repository, or something has deleted it/],
    ],
    [
      'a missing system',
      ({ app }) => ({ digests: records(app), systems: 'x86_64-linux, aarch64-linux, armv7l-linux' }),
      [/\/app lacks armv7l-linux, which `systems` asks for/, /No tag has moved/],
    ],
    [
      'a system too many',
      ({ app }) => ({ digests: records(app), systems: 'x86_64-linux' }),
      [/\/app has aarch64-linux, which `systems` does not list/],
    ],
    [
      'an image of another architecture than its record says',
      ({ app }) => ({ digests: app[0].record.replace('x86_64-linux', 'aarch64-linux').replace('amd64', 'arm64') }),
      [/is not what its record says/, /says aarch64-linux, which is linux\/arm64, and the image is for linux\/amd64/],
    ],
  ])('%s', async (_name, inputsOf, messages) => {
    const app = await push('app', ['x86_64-linux', 'aarch64-linux'])
    const [changed] = await push('app', ['x86_64-linux'], {}, 'changed')
    registry.seedTag('app', 'latest', app[0].image.digest)
    const inputs = await inputsOf({ app, changed })
    const error = await mergeWith(inputs).catch((thrown: unknown) => thrown)
    expect(`${lines.join('\n')}\n${said.join('\n')}`).not.toMatch(/^\s*::/m)
    expect(error).toBeInstanceOf(Failure)
    for (const message of messages) expect((error as Failure).message).toMatch(message)
    expect(Object.fromEntries(registry.tags('app'))).toEqual({ latest: app[0].image.digest })
    expect(writes()).toEqual([])
  })
})

describe('a merge that fails at any step leaves every tag as it was', () => {
  const breaks: readonly [string, ReturnType<FaultOf>][] = [
    ['is refused', { kind: 'status', status: 403 }],
    ['is broken for good', { kind: 'status', status: 500 }],
    ['gets a damaged answer', { kind: 'corrupt' }],
    ['is answered by nobody', { kind: 'reset' }],
  ]
  test.each(breaks)('when a request %s, whichever it is', async (_name, fault) => {
    const images = await push('app', ['x86_64-linux', 'aarch64-linux'])
    const [old] = await push('app', ['x86_64-linux'], {}, 'old')
    const tags = ['v1', 'v2', 'latest']
    for (const tag of tags) registry.seedTag('app', tag, old.image.digest)
    const inputs = { digests: records(images), tags: tags.join(',') }

    // First without a fault, to know how many requests there are; then with each of them broken, from there on once.
    const { outputs } = await mergeWith(inputs)
    const steps = registry.requests.map(({ method, route, path }) => ({ method, route, path }))
    let failures = 0
    for (const step of steps) {
      for (const tag of tags) registry.seedTag('app', tag, old.image.digest)
      let seen = 0
      registry.setFault((request) => {
        if (request.method !== step.method || request.path !== step.path) return undefined
        seen++
        // Reading a tag and putting it back are the same requests as those that came before: only the first breaks.
        return seen <= (fault?.kind === 'status' && fault.status === 403 ? 1 : 6) ? fault : undefined
      })
      const outcome = await mergeWith(inputs).then(
        () => 'published',
        (error: unknown) => error,
      )
      const now = [...registry.tags('app').values()]
      if (outcome === 'published') expect(now).toEqual(tags.map(() => outputs.digest))
      else {
        failures++
        expect(outcome).toBeInstanceOf(Failure)
        expect(now).toEqual(tags.map(() => old.image.digest))
      }
    }
    // Only a look whether anybody is there (GET /v2/), and an answer whose body nobody reads, may break in silence.
    expect(failures).toBeGreaterThanOrEqual(fault?.kind === 'corrupt' ? 5 : steps.length - 1)
  })
})

interface Pushed {
  readonly image: SeededImage
  readonly platform: SeedPlatform
  /** As build's output. */
  readonly record: string
}

interface Given {
  readonly app: AtLeastOne<Pushed>
  readonly changed: Pushed
}

type AtLeastOne<Item> = readonly [Item, ...Item[]] & { readonly 1: Item }

/** Puts an image for each system into the registry, as if build jobs had pushed them. */
async function push(
  repository: string,
  systems: readonly string[],
  config: { readonly variant?: string | undefined } = {},
  content?: string,
): Promise<AtLeastOne<Pushed>> {
  const pushed: Pushed[] = []
  for (const system of systems) {
    const platform = PLATFORMS[system] ?? { architecture: 'unknown' }
    const { variant: _, ...withoutVariant } = platform
    const inConfig = 'variant' in config ? withoutVariant : platform
    const image = await seedImage(registry, repository, inConfig, `${content ?? ''} ${system}`)
    pushed.push({ image, platform, record: recordOf(repository, system, platform, image) })
  }
  return pushed as unknown as AtLeastOne<Pushed>
}

function recordOf(repository: string, system: string, platform: SeedPlatform, image: SeededImage): string {
  return JSON.stringify({
    schema: 1,
    image: `${registry.host}/${repository}`,
    system,
    platform,
    ...image,
    storePath: '/nix/store/00000000000000000000000000000000-image.tar.gz',
    job: { id: 'build' },
    run: { id: '1', attempt: 1 },
  })
}

function records(pushed: readonly Pushed[]): string {
  return pushed.map(({ record }) => record).join('\n')
}

/** What is asked of the registry beyond reading. */
function writes(): readonly string[] {
  return registry.requests.flatMap(({ method, path }) => (/^(GET|HEAD)$/.test(method) ? [] : [`${method} ${path}`]))
}

async function mergeWith(inputs: Record<string, string>, env: Record<string, string> = {}): Promise<Result> {
  const runner = await prepareRunner({ inputs: { mode: 'merge', image: `${registry.host}/app`, ...inputs }, env })
  const client = createRegistry({
    log,
    credentials: async () => undefined,
    onSecret: () => undefined,
    userAgent: 'test',
    wait: async () => undefined,
  })
  try {
    const read = readInputs(runner.env)
    if (read.mode !== 'merge') throw new Error('not a merge')
    return await merge(read, readWorkflow(runner.env), { registry: client, log })
  } finally {
    await client.close()
    await runner.close()
  }
}

const log: JobLog = {
  info: (message) => void lines.push(message),
  debug: (message) => void lines.push(message),
  notice: (message) => void said.push(`notice: ${message}`),
  warning: (message) => void said.push(`warning: ${message}`),
  group: (_title, work) => work(),
  foreignGroup: (_title, work) => work(),
}

interface Entry {
  readonly digest: string
  readonly platform: SeedPlatform
  readonly annotations?: Record<string, string>
}

function manifestsOf(tag: string, repository = 'app'): readonly Entry[] {
  return JSON.parse(String(registry.manifest(repository, tag)?.bytes)).manifests
}

function platformsOf(tag: string): readonly string[] {
  return manifestsOf(tag).map(({ platform: { os, architecture, variant } }) =>
    [os, architecture, variant].filter(Boolean).join('/'),
  )
}
