import { expect, test } from '@jest/globals'
import { summarizeBuild } from '../../src/modes/summaries.ts'
import { summarizeLayers } from '../../src/push/image.ts'

const digest = `sha256:${'1'.repeat(64)}` as const
const built = {
  system: 'armv7l-linux',
  platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
  storePath: '/nix/store/x-app.tar.gz',
}

test('shows the system, the store path, and where it was pushed', () => {
  const pushed = [{ reference: 'ghcr.io/owner/app:abc-armv7l-linux', digest }]
  expect(summarizeBuild({ ...built, pushed })).toBe(
    [
      '### Built for armv7l-linux (linux/arm/v7)',
      '',
      'Nix built `/nix/store/x-app.tar.gz`.',
      '',
      '| pushed as | digest |',
      '|---|---|',
      `| \`ghcr.io/owner/app:abc-armv7l-linux\` | \`${digest}\` |`,
      '',
    ].join('\n'),
  )
})

test('shows how many layers were there already, and how much went up', () => {
  const layer = { diffId: digest, digest, size: 1_000_000, format: 'gzip', reused: true } as const
  const layers = [layer, { ...layer, size: 250_000_000 }, { ...layer, size: 3_140_000, reused: false }] as const
  const summary = summarizeBuild({ ...built, pushed: [{ reference: 'ghcr.io/owner/app:abc', digest }], layers })
  expect(summary).toMatch(
    /\n\| layers \| number \| compressed \|\n\|---\|---\|---\|\n\| reused \| 2 \| 251 MB \|\n\| pushed \| 1 \| 3\.1 MB \|\n$/,
  )
  expect(summarizeLayers(layers)).toBe('3 layers: 2 reused, 1 pushed (3.1 MB of 254 MB)')
  expect(summarizeLayers([layer])).toBe('1 layer: 1 reused, 0 pushed (0 B of 1.0 MB)')
})

test('says nothing of layers where Docker pushed', () => {
  expect(summarizeBuild({ ...built, pushed: [{ reference: 'a/b:c', digest }] })).not.toContain('layers')
})

test('says of what was published before that it was not built, and whether its labels are new', () => {
  const pushed = [{ reference: 'ghcr.io/owner/app:abc', digest }]
  const asIs = summarizeBuild({ ...built, pushed, reused: 'as-is' })
  expect(asIs).toContain('### Unchanged for armv7l-linux (linux/arm/v7)\n')
  expect(asIs).toContain('`/nix/store/x-app.tar.gz` is already published, so nothing was built.\n\n| published as |')
  const relabelled = summarizeBuild({ ...built, pushed, reused: 'relabelled' })
  expect(relabelled).toContain('nothing was built. Its labels were updated.\n\n| pushed as |')
})

test('says so where nothing was pushed', () => {
  expect(summarizeBuild({ ...built, pushed: [] })).toContain('Nothing was pushed: `push` is `false`.\n')
})
