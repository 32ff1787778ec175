import { expect, test } from '@jest/globals'
import type { ImageChanges } from '../../src/changes/image-changes.ts'
import type { PackageChanges } from '../../src/changes/packages.ts'
import { describeChanges, logChanges, serializeChanges } from '../../src/changes/report.ts'

const against = { repository: { host: 'ghcr.io', path: 'owner/app' }, tag: 'latest' }
const [amd64, arm64] = ['amd64', 'arm64'].map((architecture) => ({ os: 'linux', architecture }))
const NOTHING: PackageChanges = { added: [], removed: [], updated: [], rebuilt: 0 }

/** Changes of many packages with long names. */
function many(count: number, length = 4): PackageChanges {
  const added = Array.from({ length: count }, (_, at) => ({ name: `${'p'.repeat(length)}${at}`, version: '1.0' }))
  return { ...NOTHING, added }
}

function changesOf(...packages: readonly PackageChanges[]): ImageChanges {
  const platforms = packages.map((one, at) => ({
    system: at === 0 ? 'x86_64-linux' : 'aarch64-linux',
    platform: (at === 0 ? amd64 : arm64) ?? { os: '', architecture: '' },
    packages: one,
    size: { before: 46_300_000, after: 45_100_000 },
  }))
  return { against, platforms }
}

function logged(changes: ImageChanges): readonly string[] {
  const lines: string[] = []
  const info = (line: string) => void lines.push(line)
  logChanges(changes, { info, warning: info, debug: info })
  return lines
}

test('the summary shows ten packages and folds the rest', () => {
  const text = describeChanges(changesOf(many(13))).join('\n')
  const [shown = '', folded = ''] = text.split('<details><summary>3 more</summary>\n\n')
  expect(shown.match(/^\| added \|/gm)).toHaveLength(10)
  expect(folded.match(/^\| added \|/gm)).toHaveLength(3)
  expect(folded).toMatch(/^\| change \| package \|\n\|---\|---\|\n\| added \| `pppp10 1.0` \|\n/)
  expect(folded).toMatch(/\n\n<\/details>\n$/)
  expect(describeChanges(changesOf(many(10))).join('\n')).not.toContain('<details>')
})

test('the summary of four platforms with thousands of changes is complete Markdown within the limit', () => {
  const platforms = [0, 1, 2, 3].flatMap((at) => changesOf(many(3000 + at, 60)).platforms)
  const text = describeChanges({ against, platforms }).join('\n')
  expect(text.length).toBeLessThan(256 * 1024)
  expect(text.match(/<details>/g)).toHaveLength(4)
  expect(text.match(/<\/details>/g)).toHaveLength(4)
  expect(text).toContain('Not shown: 2500 more.')
})

test('platforms with different changes have a table each', () => {
  const text = describeChanges(changesOf(many(1), many(2))).join('\n')
  expect(text).toContain('**linux/amd64**\n')
  expect(text).toContain('**linux/arm64**\n')
  expect(describeChanges(changesOf(many(2), many(2))).join('\n')).toContain('**linux/amd64, linux/arm64**\n')
})

test('the changes of a build have no size, which is unknown', () => {
  const platform = { os: 'linux', architecture: 'amd64' }
  const updated = [{ name: 'glibc', from: '2.40-36', to: '2.40-66' }]
  const removed = [{ name: 'zlib', version: '1.3', outputs: ['dev'] }]
  const packages = { ...NOTHING, updated, removed, rebuilt: 7 }
  const changes = { against, platforms: [{ system: 'x86_64-linux', platform, packages }] }
  expect(describeChanges(changes).join('\n')).toBe(
    [
      '### What changed',
      '',
      'Compared with `ghcr.io/owner/app:latest`:',
      '',
      '| platform | updated | added | removed | rebuilt |',
      '|---|---|---|---|---|',
      '| linux/amd64 | 1 | 0 | 1 | 7 |',
      '',
      '**linux/amd64**',
      '',
      '| change | package |',
      '|---|---|',
      '| updated | `glibc 2.40-36 → 2.40-66` |',
      '| removed | `zlib 1.3 (dev)` |',
      '',
    ].join('\n'),
  )
  expect(logged(changes)).toEqual([
    'Changes for linux/amd64 since ghcr.io/owner/app:latest: packages 1 updated, 1 removed, 7 rebuilt (glibc 2.40-36 → 2.40-66, zlib 1.3 (dev) removed)',
  ])
})

test('the log has one line for each platform, however many packages have changed', () => {
  const lines = logged(changesOf(many(200), NOTHING))
  expect(lines).toHaveLength(2)
  expect(lines[0]).toContain('packages 200 added (pppp0 1.0 added, ')
  expect(lines[0]).toContain(', 190 more); 46.3 MB → 45.1 MB (−1.2 MB)')
  expect(lines[1]).toBe(
    'Changes for linux/arm64 since ghcr.io/owner/app:latest: same packages; 46.3 MB → 45.1 MB (−1.2 MB)',
  )
})

test('the output is cut to what fits in a variable of the environment, and says so', () => {
  const small = JSON.parse(serializeChanges(changesOf(many(500))))
  expect(small).toEqual([expect.not.objectContaining({ truncated: true })])
  expect(small[0].added).toHaveLength(500)
  const text = serializeChanges(changesOf(many(5000, 100), many(3)))
  expect(text.length).toBeLessThan(128 * 1024)
  const [first, second] = JSON.parse(text)
  expect(first.truncated).toBe(true)
  expect(first.added.length).toBeGreaterThan(300)
  expect(second).toMatchObject({ platform: 'linux/arm64', added: many(3).added })
  expect(second.truncated).toBeUndefined()
  expect(serializeChanges(undefined)).toBe('[]')
})
