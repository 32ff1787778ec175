import { expect, test } from '@jest/globals'
import { formatJson, formatOutputs } from '../../src/cli/outputs.ts'

const digest = `sha256:${'1'.repeat(64)}`
const platforms = [
  { system: 'x86_64-linux', platform: 'linux/amd64', digest },
  { system: 'armv7l-linux', platform: 'linux/arm/v7', digest },
]
const outputs = {
  digest,
  name: 'ghcr.io/o/app',
  tags: 'ghcr.io/o/app:latest\nghcr.io/o/app:v1',
  'skipped-tags': '',
  changed: 'true',
  platforms: JSON.stringify(platforms),
  changes: '[]',
}

test('outputs are lines of names and values, with lists below each other', () => {
  expect(formatOutputs(outputs)).toBe(
    [
      `digest     ${digest}`,
      'tags       ghcr.io/o/app:latest',
      '           ghcr.io/o/app:v1',
      'changed    true',
      `platforms  x86_64-linux  linux/amd64   ${digest}`,
      `           armv7l-linux  linux/arm/v7  ${digest}`,
      '',
    ].join('\n'),
  )
})

test('the matrix is a table', () => {
  const include = [
    { system: 'x86_64-linux', runner: 'ubuntu-24.04', unchanged: true },
    { system: 'aarch64-linux', runner: 'ubuntu-24.04-arm' },
  ]
  expect(formatOutputs({ matrix: JSON.stringify({ include }) })).toBe(
    'matrix  x86_64-linux   ubuntu-24.04      unchanged\n        aarch64-linux  ubuntu-24.04-arm\n',
  )
})

test('as JSON, lists, numbers and objects are what they are', () => {
  const record = { schema: 1, system: 'x86_64-linux' }
  const all = { ...outputs, 'pushed-bytes': '12', record: JSON.stringify(record) }
  expect(JSON.parse(formatJson(all))).toEqual({
    digest,
    name: 'ghcr.io/o/app',
    tags: ['ghcr.io/o/app:latest', 'ghcr.io/o/app:v1'],
    'skipped-tags': [],
    changed: true,
    platforms,
    changes: [],
    'pushed-bytes': 12,
    record: [record],
  })
})
