import { describe, expect, test } from '@jest/globals'
import { summarizeLayers } from '../src/push-with-registry.ts'
import { summarizeBuild, summarizeMerge } from '../src/summary.ts'

const digest = `sha256:${'1'.repeat(64)}` as const
const built = {
  system: 'armv7l-linux',
  platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
  storePath: '/nix/store/x-app.tar.gz',
}
const index = {
  image: 'ghcr.io/owner/app',
  digest,
  tags: ['ghcr.io/owner/app:v1', 'ghcr.io/owner/app:latest'],
  platforms: [
    { system: 'x86_64-linux', platform: { os: 'linux', architecture: 'amd64' }, digest: `sha256:${'2'.repeat(64)}` },
    { system: 'armv7l-linux', platform: built.platform, digest: `sha256:${'3'.repeat(64)}` },
  ],
}

describe('of a build', () => {
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
    const layer = { diffId: digest, digest, size: 1_000_000, reused: true } as const
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

  test('says so where nothing was pushed', () => {
    expect(summarizeBuild({ ...built, pushed: [] })).toContain('Nothing was pushed: `push` is `false`.\n')
  })
})

describe('of a merge', () => {
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
})
