import { expect, test } from '@jest/globals'
import { type BuiltImage, summarizeBuild } from '../../src/modes/build-summary.ts'
import { summarizeLayers } from '../../src/push/image.ts'

const digest = `sha256:${'1'.repeat(64)}` as const
const repository = { host: 'ghcr.io', path: 'owner/app' }
const times = [
  { phase: 'check access', time: 310 },
  { phase: 'evaluate', time: 6200 },
  { phase: 'fetch and build', time: 62_000 },
  { phase: 'read and push', time: 14_200 },
] as const
const built: BuiltImage = {
  system: 'armv7l-linux',
  platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
  storePath: '/nix/store/x-app.tar.gz',
  images: [repository],
  tag: 'abc-armv7l-linux',
  pushed: [{ repository, digest }],
  traffic: { sent: 3_140_000, total: 221_000_000, layers: 60, reusedLayers: 58 },
  times,
}

test('begins with the platform and the image, the time, the upload and the times of the phases, and folds the rest', () => {
  expect(summarizeBuild(built)).toBe(
    [
      '### Built: `ghcr.io/owner/app` for linux/arm/v7',
      '',
      '**1 min 23 s**, 3.1 MB of 221 MB uploaded, 58 of 60 layers reused.',
      '',
      '| check access | evaluate | fetch and build | read and push |',
      '|---|---|---|---|',
      '| 310 ms | 6.2 s | 1 min 2 s | 14.2 s |',
      '',
      '<details><summary>Details</summary>',
      '',
      '- System: `armv7l-linux`',
      '- Store path: `/nix/store/x-app.tar.gz`',
      `- Image: \`ghcr.io/owner/app@${digest}\``,
      '- Tag: `ghcr.io/owner/app:abc-armv7l-linux`',
      '',
      '</details>',
      '',
    ].join('\n'),
  )
})

test('an image that was pushed by digest only has no tag, and the digest of its SBOM is in the details', () => {
  const sbom = { digest: `sha256:${'5'.repeat(64)}`, path: '/tmp/sbom.json' } as const
  const summary = summarizeBuild({ ...built, tag: '', sbom })
  expect(summary).not.toContain('Tag:')
  expect(summary).toContain(`- SBOM: \`${sbom.digest}\`\n`)
})

test('Docker does not report what it uploads', () => {
  expect(summarizeBuild({ ...built, traffic: undefined })).toContain('\n**1 min 23 s**, pushed by Docker.\n')
})

test('an image that was published before was not built, and perhaps got other labels', () => {
  const traffic = { sent: 0, total: 221_000_000, layers: 60, reusedLayers: 60 }
  const asIs = summarizeBuild({ ...built, traffic, reused: 'as-is' })
  expect(asIs).toContain('### Unchanged: `ghcr.io/owner/app` for linux/arm/v7\n')
  expect(asIs).toContain(
    '\n**1 min 23 s**, already published, so nothing was built, 0 B of 221 MB uploaded, 60 of 60 layers reused.\n',
  )
  expect(summarizeBuild({ ...built, traffic, reused: 'relabelled' })).toContain(
    'so nothing was built, its labels were updated, 0 B',
  )
})

test('with push: false, nothing is pushed', () => {
  const summary = summarizeBuild({ ...built, traffic: undefined, pushed: [] })
  expect(summary).toContain('\n**1 min 23 s**, not pushed: `push` is `false`.\n')
  expect(summary).not.toContain('Docker')
})

test('the log has the number of layers that were reused, and the size of the others', () => {
  const layer = { diffId: digest, digest, size: 1_000_000, format: 'gzip', reused: true } as const
  const layers = [layer, { ...layer, size: 250_000_000 }, { ...layer, size: 3_140_000, reused: false }] as const
  expect(summarizeLayers(layers)).toBe('3 layers: 2 reused, 1 pushed (3.1 MB of 254 MB)')
  expect(summarizeLayers([layer])).toBe('1 layer: 1 reused, 0 pushed (0 B of 1.0 MB)')
})
