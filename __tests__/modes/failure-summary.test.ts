import { describe, expect, test } from '@jest/globals'
import { describeWrites, summarizeFailure } from '../../src/modes/failure-summary.ts'
import { digestOf } from '../../src/oci/reference.ts'
import type { RegistryWrite } from '../../src/registry/writes.ts'

const repository = { host: 'ghcr.io', path: 'owner/app' }
const [bytes, before] = [Buffer.from('index'), Buffer.from('before')]

function write(kind: RegistryWrite['kind'], reference: string, state: RegistryWrite['state'] = 'done'): RegistryWrite {
  return { kind, reference, state, repository, bytes }
}

/** A write that the registry has confirmed. */
function confirmed(kind: RegistryWrite['kind'], reference: string): readonly RegistryWrite[] {
  return [write(kind, reference, 'started'), write(kind, reference)]
}

const BLOB = confirmed('blob', digestOf(before))
const IMAGE = confirmed('image', digestOf(bytes))
const LATEST = confirmed('tag', 'latest')

test('a failed step shows what failed, the last lines, what to do, and that nothing was pushed', () => {
  const lines = Array.from({ length: 30 }, (_, at) => `line ${at + 1}`)
  expect(
    summarizeFailure({
      step: 'Build',
      image: 'ghcr.io/owner/app',
      platform: 'linux/arm64',
      failure: {
        message: 'Nix could not build .#containerImage',
        detail: lines.join('\n'),
        hint: 'Nothing was pushed. Fix the build. To build it here, run:\n  nix build .#containerImage',
      },
      writes: [],
      times: [
        { phase: 'evaluate', time: 6200 },
        { phase: 'fetch and build', time: 62_000 },
      ],
    }),
  ).toBe(
    [
      '### Build failed: `ghcr.io/owner/app` for linux/arm64',
      '',
      'Nix could not build .\\#containerImage',
      '',
      '```',
      ...lines.slice(10),
      '```',
      '',
      'Fix the build. To build it here, run:',
      '',
      '```',
      'nix build .#containerImage',
      '```',
      '',
      '**Nothing was pushed.**',
      '',
      'Failed in the phase "fetch and build", after 1 min 8 s.',
      '',
    ].join('\n'),
  )
})

test('a step that never pushes does not mention it', () => {
  const summary = summarizeFailure({ step: 'Plan', failure: { message: 'The flake has no image' }, times: [] })
  expect(summary).toBe('### Plan failed\n\nThe flake has no image\n')
})

test('what Nix or a registry says is neither HTML nor Markdown', () => {
  const text = '</code><script>x</script>\n```\n# heading ![a](http://example.com/a.png)'
  const summary = summarizeFailure({ step: 'Build', failure: { message: text, detail: text, hint: text }, times: [] })
  const outside = summary.replace(/^(`{3,})\n[\s\S]*?\n\1$/gm, '')
  expect(outside).not.toMatch(/<(?!br>)|^# |(?<!\\)!\[|:\/\//m)
  expect(summary).toContain(`\n\`\`\`\`\n${text}\n\`\`\`\`\n`)
})

describe('says what was pushed', () => {
  test.each([
    ['nothing', [], 'Nothing was pushed.'],
    ['a layer, perhaps', BLOB.slice(0, 1), 'No tag has moved, and no image was pushed.'],
    ['a layer', BLOB, 'No tag has moved, and no image was pushed, only layers.'],
    ['an image, perhaps', [...BLOB, ...IMAGE.slice(0, 1)], 'No tag has moved. Images may have been pushed by digest.'],
    ['an image', [...BLOB, ...IMAGE], 'No tag has moved. Images were pushed by digest only.'],
    ['a tag', [...IMAGE, ...LATEST], 'Pushed before the failure: `ghcr.io/owner/app:latest`.'],
    [
      'two tags, one of them perhaps',
      [...IMAGE, ...LATEST, ...confirmed('tag', 'edge'), write('tag', 'v1', 'started')],
      'Pushed before the failure: `ghcr.io/owner/app:edge`, `ghcr.io/owner/app:latest`. The registry has not confirmed the push of: `ghcr.io/owner/app:v1`.',
    ],
    [
      'a tag that was restored, and one that was deleted again',
      [
        ...[...LATEST, ...LATEST.map((one) => ({ ...one, bytes: before }))],
        ...[...confirmed('tag', 'v1'), ...confirmed('tag', 'v1').map((one) => ({ ...one, deleted: true }) as const)],
      ],
      'Pushed, and restored after the failure: `ghcr.io/owner/app:latest`, `ghcr.io/owner/app:v1`.',
    ],
    [
      'a tag that could not be restored',
      [...LATEST, { ...write('tag', 'latest', 'started'), bytes: before }],
      'The registry has not confirmed the push of: `ghcr.io/owner/app:latest`.',
    ],
    [
      'a tag at the second attempt',
      [write('tag', 'latest', 'started'), ...LATEST],
      'Pushed before the failure: `ghcr.io/owner/app:latest`.',
    ],
  ])('%s', (_, writes, expected) => {
    expect(describeWrites(writes)).toBe(expected)
  })
})
