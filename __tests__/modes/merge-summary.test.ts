import { expect, test } from '@jest/globals'
import { type MergedImage, summarizeMerge } from '../../src/modes/summaries.ts'
import { OCI_INDEX } from '../../src/oci/manifest.ts'
import { digestOf } from '../../src/oci/reference.ts'
import type { TagPlan } from '../../src/publish/tag-plan.ts'

const bytes = Buffer.from('the index of before')
const stored = { bytes, digest: digestOf(bytes), mediaType: OCI_INDEX }
const digest = `sha256:${'1'.repeat(64)}`
const amd64 = { os: 'linux', architecture: 'amd64' }
const armv7 = { os: 'linux', architecture: 'arm', variant: 'v7' }

function planOf(name: string, action: TagPlan['action'], changes: Partial<TagPlan> = {}): TagPlan {
  const tag = { repository: { host: 'ghcr.io', path: 'owner/app' }, tag: name }
  const before = { tag, platforms: [], ...(action !== 'created' && { stored }) }
  return { tag, before, action, gained: [], lost: [], ...changes }
}

const merged: MergedImage = {
  digest,
  plans: [
    planOf('v1', 'created'),
    planOf('edge', 'skipped'),
    planOf('latest', 'moved', { gained: [armv7], lost: [amd64] }),
  ],
  platforms: [
    { system: 'x86_64-linux', platform: amd64, digest: `sha256:${'2'.repeat(64)}` },
    { system: 'armv7l-linux', platform: armv7, digest: `sha256:${'3'.repeat(64)}` },
  ],
  pushed: true,
  changed: true,
}

test('shows what became of each tag, the index, each platform and how to pull', () => {
  expect(summarizeMerge(merged)).toBe(
    [
      '# Published',
      '',
      `Index \`${digest}\``,
      '',
      '| tag | | from | to | platforms |',
      '|---|---|---|---|---|',
      `| \`ghcr.io/owner/app:v1\` | created |  | \`${digest}\` |  |`,
      `| \`ghcr.io/owner/app:edge\` | skipped | \`${stored.digest}\` |  |  |`,
      `| \`ghcr.io/owner/app:latest\` | moved | \`${stored.digest}\` | \`${digest}\` | + linux/arm/v7, − linux/amd64 |`,
      '',
      '| platform | system | digest |',
      '|---|---|---|',
      `| linux/amd64 | x86_64-linux | \`sha256:${'2'.repeat(64)}\` |`,
      `| linux/arm/v7 | armv7l-linux | \`sha256:${'3'.repeat(64)}\` |`,
      '',
      '```sh',
      'docker pull ghcr.io/owner/app:v1',
      '```',
      '',
    ].join('\n'),
  )
})

test('without a push shows the same as what would be, and does not tell to pull', () => {
  const summary = summarizeMerge({ ...merged, pushed: false })
  expect(summary).toMatch(/^# Checked, not published\n/)
  expect(summary).toContain('| tag | would be | from | to | platforms |')
  expect(summary).not.toContain('docker pull')
})

test('says so where nothing has changed', () => {
  expect(summarizeMerge({ ...merged, changed: false })).toMatch(/^# Unchanged\n/)
})

test('has no pull command if no tag was changed', () => {
  expect(summarizeMerge({ ...merged, plans: [planOf('latest', 'skipped')] })).not.toContain('docker pull')
})
