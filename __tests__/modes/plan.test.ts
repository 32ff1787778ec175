import { describe, expect, test } from '@jest/globals'
import { runnerFor, summarizePlan } from '../../src/modes/plan.ts'

describe('a system is built on', () => {
  test.each([
    ['x86_64-linux', 'ubuntu-24.04'],
    ['i686-linux', 'ubuntu-24.04'],
    ['aarch64-linux', 'ubuntu-24.04-arm'],
    ['armv7l-linux', 'ubuntu-24.04'],
    ['riscv64-linux', 'ubuntu-24.04'],
  ])('%s: %s', (system, runner) => {
    expect(runnerFor(system, new Map())).toBe(runner)
  })

  test('the runner that the user names', () => {
    const own = new Map([['aarch64-linux', 'self-hosted-arm']])
    expect(runnerFor('aarch64-linux', own)).toBe('self-hosted-arm')
    expect(runnerFor('x86_64-linux', own)).toBe('ubuntu-24.04')
  })
})

test('the summary shows the systems, their runners, and what is unchanged', () => {
  const builds = [
    { system: 'aarch64-linux', runner: 'ubuntu-24.04-arm', unchanged: true },
    { system: 'x86_64-linux', runner: 'ubuntu-24.04' },
  ] as const
  expect(summarizePlan(builds)).toBe(
    [
      '### Planned',
      '',
      '| platform | system | runner | image |',
      '|---|---|---|---|',
      '| linux/arm64 | aarch64-linux | `ubuntu-24.04-arm` | unchanged |',
      '| linux/amd64 | x86_64-linux | `ubuntu-24.04` | to be built |',
      '',
    ].join('\n'),
  )
})
