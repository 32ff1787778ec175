import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  LATER,
  mergeWith,
  ORIGIN,
  openArtifactService,
  openGitHost,
  openRegistry,
  push,
  REVISION,
  records,
  refusalOf,
  rewrite,
  said,
  shortCode,
  TOKEN,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedIndex } from '../support/seed.ts'

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

test('with push: false, a merge reports the plan for each tag and sends no write request', async () => {
  const host = await openGitHost()
  const other = await openRegistry()
  const [old, , armv7] = await push(registry, 'app', [...TWO_SYSTEMS, 'armv7l-linux'], { content: 'old' })
  if (armv7 === undefined) throw new Error('no third image')
  const v1 = seedIndex(registry, 'app', [old.entry, armv7.entry], 'v1')
  const edge = seedIndex(registry, 'app', [old.entry], 'edge', { ...ORIGIN, [REVISION]: LATER })
  const inputs = {
    image: `${registry.host}/app\n${other.host}/app`,
    digests: records(await push(registry, 'app', TWO_SYSTEMS)),
    tags: `latest,${registry.host}/app:v1,${registry.host}/app:edge`,
    push: 'false',
    token: TOKEN,
    'allow-missing-platforms': 'true',
  }
  const { outputs, summary } = await mergeWith(registry, inputs, { env: { GITHUB_API_URL: host.api } })

  expect([...writesTo(registry), ...writesTo(other)]).toEqual([])
  expect(summary).toMatch(/^### Checked, not published\n/)
  expect(summary).toContain('| tag | planned change |')
  expect(summary).toContain(`| \`${registry.host}/app:latest\` | new |`)
  expect(summary).toContain(`| \`${other.host}/app:latest\` | new |`)
  expect(summary).toContain(
    `| \`${registry.host}/app:v1\` | moved from ${shortCode(v1)}, + linux/arm64, − linux/arm/v7 |`,
  )
  expect(summary).toContain(
    `| \`${registry.host}/app:edge\` | not moved: ${shortCode(edge)} is from the newer commit \`${LATER.slice(0, 12)}\` |`,
  )
  expect(outputs).toMatchObject({ tags: '', 'skipped-tags': `${registry.host}/app:edge`, changed: 'true' })
  expect(registry.manifest('app', outputs.digest ?? '')).toBeUndefined()

  const published = await mergeWith(registry, { ...inputs, push: 'true' }, { env: { GITHUB_API_URL: host.api } })
  expect(published.outputs.digest).toBe(outputs.digest)
})

test('with push: false, a merge needs no permission to push', async () => {
  const grants = (_: string, action: string) => action === 'pull'
  const guarded = await openRegistry({
    auth: { kind: 'bearer', user: 'octocat', password: 'secret', anonymousPull: true, grants },
  })
  const digests = records(await push(guarded, 'app', TWO_SYSTEMS))
  const { outputs } = await mergeWith(guarded, { digests, tags: 'latest', push: 'false' })
  expect(outputs.digest).toMatch(/^sha256:/)
  const asked = guarded.requests.filter(({ route }) => route === 'token').map(({ path }) => decodeURIComponent(path))
  expect(asked.filter((path) => path.includes('push'))).toEqual([])
})

test('with push: false, a merge reports that builds of pull requests have handed over no digests', async () => {
  await openArtifactService()
  // It requires a login, which pull requests from forks don't have.
  const guarded = await openRegistry({ auth: { kind: 'basic', user: 'octocat', password: 'secret' } })
  const { outputs, summary } = await mergeWith(guarded, { push: 'false', tags: 'latest' })
  expect(outputs).toEqual({})
  expect(summary).toBe(
    '### Nothing to check\n\nNo digests were handed over: builds with `push: false` push no images and hand over no digests.\n',
  )
  expect(said).toEqual([expect.stringContaining('notice: Nothing to check')])
  expect(guarded.requests).toEqual([])
  expect(await refusalOf(registry, { tags: 'latest' })).toContain('found no digests')
})

test('with push: false and without an artifact service, a merge reports that `digests` is empty', async () => {
  const { outputs } = await mergeWith(registry, { push: 'false', tags: 'latest', digests: '' })
  expect(outputs).toEqual({})
  expect(said).toEqual([expect.stringContaining('notice: Nothing to check')])
  const digests = records(await push(registry, 'app', TWO_SYSTEMS))
  const more = { digests, 'artifact-pattern': 'digests-*' }
  for (const inputs of [more, { ...more, push: 'false' }, { digests: '' }])
    expect(await refusalOf(registry, { tags: 'latest', ...inputs })).toContain('this runner has no artifact service')
})

describe('with push: false, a merge fails like one that publishes', () => {
  test('if an image is missing', async () => {
    expect(await refusalOf(registry, { digests: '0'.repeat(64), push: 'false' })).toContain('is not in the registry')
  })

  test('if a job of the matrix has not handed over a digest', async () => {
    const [{ record }] = await push(registry, 'app', ['x86_64-linux'])
    const digests = rewrite(record, { job: { id: 'build', total: 2, index: 1 } })
    expect(await refusalOf(registry, { digests, push: 'false' })).toContain('Only 1 of the 2 jobs')
  })

  test('if a tag would lose a platform', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    registry.seedTag('app', 'latest', arm64.image.digest)
    const refusal = await refusalOf(registry, { digests: amd64.record, push: 'false', tags: 'latest' })
    expect(refusal).toContain(':latest would lose linux/arm64')
    expect(said).toEqual([])
  })
})
