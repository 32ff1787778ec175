import { expect, test } from '@jest/globals'
import { summarizeMerge } from '../../src/merge/summary.ts'

const digest = `sha256:${'1'.repeat(64)}` as const
const index = {
  image: 'ghcr.io/owner/app',
  digest,
  tags: ['ghcr.io/owner/app:v1', 'ghcr.io/owner/app:latest'],
  platforms: [
    { system: 'x86_64-linux', platform: { os: 'linux', architecture: 'amd64' }, digest: `sha256:${'2'.repeat(64)}` },
    {
      system: 'armv7l-linux',
      platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
      digest: `sha256:${'3'.repeat(64)}`,
    },
  ],
}

test('shows each tag, the index, each platform and how to pull', () => {
  expect(summarizeMerge([index], true)).toBe(
    [
      '# Published',
      '',
      '- `ghcr.io/owner/app:v1`',
      '- `ghcr.io/owner/app:latest`',
      '',
      `Index \`${digest}\``,
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

test('without a push does not claim to have published, nor tells to pull', () => {
  const summary = summarizeMerge([index], false)
  expect(summary).toMatch(/^# Checked, not published\n/)
  expect(summary).not.toContain('docker pull')
})

test('of an image without a tag of its own tells to pull by digest', () => {
  expect(summarizeMerge([index, { ...index, image: 'owner/app', tags: [] }], true)).toContain(
    `docker pull owner/app@${digest}`,
  )
})

test('that had nothing to check is a heading', () => {
  expect(summarizeMerge([], false)).toBe('# Checked, not published\n')
})
