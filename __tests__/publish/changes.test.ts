import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  blobsOf,
  lines,
  loseBlob,
  mergeWith,
  openRegistry,
  type PushDetails,
  push,
  pushIndex,
  records,
  said,
  shortCode,
  TWO_SYSTEMS,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

function path(name: string, hash = '0'): string {
  return `/nix/store/${hash.repeat(32)}-${name}`
}

const OLD = [path('glibc-2.40-36'), path('zlib-1.3'), path('bash-5.2', '1'), path('app-customisation-layer')]
const NEW = [path('glibc-2.40-66'), path('curl-8.16.0'), path('bash-5.2', '2'), path('app-1-customisation-layer')]

/** Publishes an image for two systems as `latest`, and returns the inputs of a merge of another one. */
async function published(old: PushDetails = {}, now: PushDetails = {}): Promise<Readonly<Record<string, string>>> {
  const before = await push(registry, 'app', TWO_SYSTEMS, { content: 'old', storePaths: OLD, ...old })
  pushIndex(registry, before, 'latest')
  const after = await push(registry, 'app', TWO_SYSTEMS, { content: 'new and larger', storePaths: NEW, ...now })
  return { digests: records(after), tags: 'v1,latest' }
}

const CHANGES = {
  added: [{ name: 'curl', version: '8.16.0' }],
  removed: [{ name: 'zlib', version: '1.3' }],
  updated: [{ name: 'glibc', from: '2.40-36', to: '2.40-66' }],
  rebuilt: 1,
}

describe.each(['true', 'false'])('a merge with push: %s shows what changed', (pushing) => {
  test('for each platform against the first tag that exists', async () => {
    const inputs = await published()
    const latest = registry.tags('app').get('latest')
    const { outputs, summary } = await mergeWith(registry, { ...inputs, push: pushing })
    expect(JSON.parse(outputs.changes ?? '')).toEqual([
      { system: 'x86_64-linux', platform: 'linux/amd64', ...CHANGES, size: { before: 29, after: 40 } },
      { system: 'aarch64-linux', platform: 'linux/arm64', ...CHANGES, size: { before: 30, after: 41 } },
    ])
    const name = `${registry.host}/app:latest@${latest}`
    expect(summary).toContain(
      [
        '### What changed',
        '',
        `Compared with \`${registry.host}/app:latest\` (${shortCode(latest)}):`,
        '',
        '| platform | updated | added | removed | rebuilt | compressed size |',
        '|---|---|---|---|---|---|',
        '| linux/amd64 | 1 | 1 | 1 | 1 | 29 B → 40 B (+11 B) |',
        '| linux/arm64 | 1 | 1 | 1 | 1 | 30 B → 41 B (+11 B) |',
        '',
        '**linux/amd64, linux/arm64**',
        '',
        '| change | package |',
        '|---|---|',
        '| updated | `glibc 2.40-36 → 2.40-66` |',
        '| added | `curl 8.16.0` |',
        '| removed | `zlib 1.3` |',
        '',
      ].join('\n'),
    )
    expect(lines).toContain(
      `Changes for linux/amd64 since ${name}: packages 1 updated, 1 added, 1 removed, 1 rebuilt (glibc 2.40-36 → 2.40-66, curl 8.16.0 added, zlib 1.3 removed); 29 B → 40 B (+11 B)`,
    )
    expect(said).toEqual([])
  })
})

test('a merge that creates all tags has nothing to compare', async () => {
  const { digests } = await published()
  const { outputs, summary } = await mergeWith(registry, { digests: digests ?? '', tags: 'v1' })
  expect(outputs.changes).toBe('[]')
  expect(summary).not.toContain('What changed')
})

test('an unchanged index is not compared', async () => {
  const inputs = await published()
  await mergeWith(registry, inputs)
  const { outputs, summary } = await mergeWith(registry, inputs)
  expect(outputs).toMatchObject({ changed: 'false', changes: '[]' })
  expect(summary).not.toContain('What changed')
})

test('a platform whose image is the same has no changes, even if it does not name its store paths', async () => {
  const [amd64] = await push(registry, 'app', ['x86_64-linux'], { content: 'old', storePaths: OLD })
  const [arm64] = await push(registry, 'app', ['aarch64-linux'], { content: 'old' })
  pushIndex(registry, [amd64, arm64], 'latest')
  const [fresh] = await push(registry, 'app', ['x86_64-linux'], { content: 'new', storePaths: NEW })
  const { outputs } = await mergeWith(registry, { digests: records([fresh, arm64]), tags: 'latest' })
  const none = { added: [], removed: [], updated: [], rebuilt: 0, size: { before: 30, after: 30 } }
  expect(JSON.parse(outputs.changes ?? '')).toEqual([
    { system: 'x86_64-linux', platform: 'linux/amd64', ...CHANGES, size: { before: 29, after: 29 } },
    { system: 'aarch64-linux', platform: 'linux/arm64', ...none },
  ])
})

test.each([
  ['an index', TWO_SYSTEMS],
  ['a single image', ['x86_64-linux']],
])('each manifest and config of %s under the tag is read once', async (_, systems) => {
  const before = await push(registry, 'app', systems, { content: 'old', storePaths: OLD })
  if (before.length > 1) pushIndex(registry, before, 'latest')
  else registry.seedTag('app', 'latest', before[0].image.digest)
  const after = await push(registry, 'app', TWO_SYSTEMS, { content: 'new', storePaths: NEW })
  await mergeWith(registry, { digests: records(after), tags: 'latest,v1', push: 'false' })
  const read = registry.requests.flatMap(({ method, reference }) => (method === 'GET' ? [reference] : []))
  for (const { image } of before) {
    expect(read.filter((one) => one === image.digest)).toHaveLength(1)
    expect(read.filter((one) => one === blobsOf(registry, 'app', image.digest)[0])).toHaveLength(1)
  }
})

test('a platform that the tag does not have yet is not compared', async () => {
  const [amd64] = await push(registry, 'app', ['x86_64-linux'], { content: 'old', storePaths: OLD })
  registry.seedTag('app', 'latest', amd64.image.digest)
  const after = await push(registry, 'app', TWO_SYSTEMS, { content: 'new', storePaths: NEW })
  const { outputs } = await mergeWith(registry, { digests: records(after), tags: 'latest' })
  expect(JSON.parse(outputs.changes ?? '')).toEqual([expect.objectContaining({ platform: 'linux/amd64', ...CHANGES })])
})

test('an image that does not name its store paths is compared by size, with one line for each platform', async () => {
  const inputs = await published({}, { storePaths: undefined })
  const { outputs, summary } = await mergeWith(registry, inputs)
  expect(JSON.parse(outputs.changes ?? '')).toEqual([
    { system: 'x86_64-linux', platform: 'linux/amd64', size: { before: 29, after: 40 } },
    { system: 'aarch64-linux', platform: 'linux/arm64', size: { before: 30, after: 41 } },
  ])
  expect(summary).toContain('| linux/amd64 | unknown |  |  |  | 29 B → 40 B (+11 B) |\n')
  expect(lines).toContain(
    "Can't compare the packages for linux/amd64: the config of the new image names no store paths",
  )
})

test('a published image that can’t be read is one line in the log, and the merge succeeds', async () => {
  const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS, { content: 'old', storePaths: OLD })
  pushIndex(registry, [amd64, arm64], 'latest')
  await loseBlob(registry, 'app', blobsOf(registry, 'app', amd64.image.digest)[0])
  const after = await push(registry, 'app', TWO_SYSTEMS, { content: 'new', storePaths: NEW })
  const { outputs } = await mergeWith(registry, { digests: records(after), tags: 'latest' })
  expect(registry.tags('app').get('latest')).toBe(outputs.digest)
  expect(JSON.parse(outputs.changes ?? '')).toEqual([expect.objectContaining({ platform: 'linux/arm64' })])
  expect(lines.filter((line) => line.startsWith("Can't compare"))).toEqual([
    expect.stringMatching(/^Can't compare the image for linux\/amd64 with .*\/app:latest: .* is not in the registry/),
  ])
  expect(said).toEqual([])
})

test('the output `name` is the name of the first image', async () => {
  const { outputs } = await mergeWith(registry, await published())
  expect(outputs.name).toBe(`${registry.host}/app`)
  expect(outputs.image).toBe(`${outputs.name}@${outputs.digest}`)
})
