import { expect, test } from '@jest/globals'
import { type MergedImage, summarizeMerge } from '../../src/modes/merge-summary.ts'
import { OCI_INDEX } from '../../src/oci/manifest.ts'
import { type Digest, digestOf, shortDigest } from '../../src/oci/reference.ts'
import type { TagPlan } from '../../src/publish/tag-plan.ts'

const bytes = Buffer.from('the index of before')
const stored = { bytes, digest: digestOf(bytes), mediaType: OCI_INDEX }
const from = `\`${shortDigest(stored.digest)}\``
const digest = `sha256:${'1'.repeat(64)}` as Digest
const amd64 = { os: 'linux', architecture: 'amd64' }
const armv7 = { os: 'linux', architecture: 'arm', variant: 'v7' }
const app = { host: 'ghcr.io', path: 'owner/app' }

function planOf(
  name: string,
  action: TagPlan['action'],
  { repository = app, revision, ...changes }: Partial<TagPlan> & { repository?: typeof app; revision?: string } = {},
): TagPlan {
  const tag = { repository, tag: name }
  const before = { tag, platforms: [], revision, ...(action !== 'created' && { stored }) }
  return { tag, before, action, gained: [], lost: [], ...changes }
}

const merged: MergedImage = {
  index: [`ghcr.io/owner/app@${digest}`],
  plans: [
    planOf('v1', 'created'),
    planOf('edge', 'skipped', { revision: '2'.repeat(40) }),
    planOf('latest', 'moved', { gained: [armv7], lost: [amd64] }),
  ],
  platforms: [
    { platform: amd64, digest: `sha256:${'2'.repeat(64)}`, size: 42_100_000 },
    { platform: armv7, digest: `sha256:${'3'.repeat(64)}`, size: 39_000 },
  ],
  pushed: true,
  changed: true,
}

test('begins with how to pull, then shows what became of each tag, each platform, and the index once', () => {
  const summary = summarizeMerge(merged)
  expect(summary).toBe(
    [
      '### Published',
      '',
      '```sh',
      'docker pull ghcr.io/owner/app:v1',
      '```',
      '',
      '| tag | change |',
      '|---|---|',
      '| `v1` | new |',
      `| \`edge\` | not moved: ${from} is from the newer commit \`222222222222\` |`,
      `| \`latest\` | moved from ${from}, + linux/arm/v7, − linux/amd64 |`,
      '',
      '| platform | size | digest |',
      '|---|---|---|',
      `| linux/amd64 | 42.1 MB | \`sha256:${'2'.repeat(64)}\` |`,
      `| linux/arm/v7 | 39.0 kB | \`sha256:${'3'.repeat(64)}\` |`,
      '',
      `Index: \`ghcr.io/owner/app@${digest}\``,
      '',
    ].join('\n'),
  )
  expect(summary.split(digest)).toHaveLength(2)
})

test('of several repositories, each has a pull command, and each tag its full name', () => {
  const repository = { host: 'docker.io', path: 'owner/app' }
  const summary = summarizeMerge({ ...merged, plans: [...merged.plans, planOf('v1', 'kept', { repository })] })
  expect(summary).toContain('```sh\ndocker pull ghcr.io/owner/app:v1\ndocker pull docker.io/owner/app:v1\n```\n')
  expect(summary).toContain('| `ghcr.io/owner/app:v1` | new |\n')
  expect(summary).toContain('| `docker.io/owner/app:v1` | unchanged |\n')
})

test('without a push shows the same as planned, and no pull command', () => {
  const summary = summarizeMerge({ ...merged, pushed: false })
  expect(summary).toMatch(/^### Checked, not published\n/)
  expect(summary).toContain('| tag | planned change |\n')
  expect(summary).not.toContain('docker pull')
})

test('shows the tags that another run has moved or deleted', () => {
  const plans = [planOf('a', 'overtaken', { now: stored.digest }), planOf('b', 'overtaken')]
  const summary = summarizeMerge({ ...merged, plans })
  expect(summary).toContain(`| \`a\` | moved to ${from} by another run |\n| \`b\` | deleted by another run |\n`)
})

test('says if nothing has changed', () => {
  expect(summarizeMerge({ ...merged, changed: false })).toMatch(/^### Unchanged\n/)
})

test('has no pull command if no tag was changed', () => {
  expect(summarizeMerge({ ...merged, plans: [planOf('latest', 'skipped')] })).not.toContain('docker pull')
})

test('a commit from the annotations of a published image adds neither columns nor formatting', () => {
  const revision = 'x` | <b>| ![a](https://example.com)\n# y'
  const summary = summarizeMerge({ ...merged, plans: [planOf('edge', 'skipped', { revision })] })
  expect(summary).toContain('the newer commit `x \\| <b>\\| ![a](https://example.com) # y` |\n')
})
