import { describe, expect, test } from '@jest/globals'
import { NixError } from '../../src/errors.ts'
import { platformOf, runnerSystem, systemOf } from '../../src/nix/system.ts'

const TABLE: readonly (readonly [string, { os: string; architecture: string; variant?: string }])[] = [
  ['x86_64-linux', { os: 'linux', architecture: 'amd64' }],
  ['aarch64-linux', { os: 'linux', architecture: 'arm64' }],
  ['armv7l-linux', { os: 'linux', architecture: 'arm', variant: 'v7' }],
  ['armv6l-linux', { os: 'linux', architecture: 'arm', variant: 'v6' }],
  ['i686-linux', { os: 'linux', architecture: '386' }],
  ['powerpc64le-linux', { os: 'linux', architecture: 'ppc64le' }],
  ['riscv64-linux', { os: 'linux', architecture: 'riscv64' }],
  ['s390x-linux', { os: 'linux', architecture: 's390x' }],
]

describe('systems and platforms', () => {
  test.each(TABLE)('%s maps to its platform and back', (system, platform) => {
    expect(platformOf(system)).toEqual(platform)
    expect(systemOf(platform)).toBe(system)
  })

  test.each([
    ['a 64-bit Arm image with a variant', { os: 'linux', architecture: 'arm64', variant: 'v8' }, 'aarch64-linux'],
    ['a 32-bit Arm image without a variant, as built by Nix', { os: 'linux', architecture: 'arm' }, 'armv7l-linux'],
    [
      'an x86 image with a microarchitecture level',
      { os: 'linux', architecture: 'amd64', variant: 'v3' },
      'x86_64-linux',
    ],
    ['an image for Windows', { os: 'windows', architecture: 'amd64' }, undefined],
    ['an image of an unknown architecture', { os: 'linux', architecture: 'mips' }, undefined],
  ])('the system of %s', (_, platform, system) => {
    expect(systemOf(platform)).toBe(system)
  })

  test('an unknown 32-bit Arm variant has no system', () => {
    expect(systemOf({ os: 'linux', architecture: 'arm', variant: 'v5' })).toBeUndefined()
  })
})

describe('a system without container images', () => {
  test.each([
    ['aarch64-darwin', 'aarch64-linux', 'ubuntu-24.04-arm'],
    ['x86_64-darwin', 'x86_64-linux', 'ubuntu-24.04'],
  ])('%s is refused with a hint to build for %s on %s', (system, linux, runner) => {
    const reading = (): unknown => platformOf(system)
    expect(reading).toThrow(NixError)
    expect(reading).toThrow(`The system "${system}" is macOS, but containers run Linux\n`)
    expect(reading).toThrow(`runs-on: ${runner}\n`)
    expect(reading).toThrow(`system: ${linux}`)
  })

  test.each(['', 'linux/amd64', 'amd64', 'X86_64-linux', 'x86_64-windows', 'constructor', '__proto__'])(
    '%j is refused with a list of all systems',
    (system) => {
      const reading = (): unknown => platformOf(system)
      expect(reading).toThrow(NixError)
      expect(reading).toThrow(`Images can't be built for the system "${system}"\n`)
      for (const [one] of TABLE) expect(reading).toThrow(one)
    },
  )
})

describe('the system of the runner', () => {
  test.each([
    ['Linux', 'X64', 'x86_64-linux'],
    ['Linux', 'ARM64', 'aarch64-linux'],
    ['Linux', 'ARM', 'armv7l-linux'],
    ['Linux', 'X86', 'i686-linux'],
    ['macOS', 'ARM64', 'aarch64-darwin'],
    ['macOS', 'X64', 'x86_64-darwin'],
    // The values of Gitea's runner, which uses the names of Go, and those of Linux.
    ['linux', 'amd64', 'x86_64-linux'],
    ['linux', 'arm64', 'aarch64-linux'],
    ['linux', '386', 'i686-linux'],
    ['darwin', 'arm64', 'aarch64-darwin'],
    ['linux', 'ppc64le', 'powerpc64le-linux'],
    ['Linux', 'x86_64', 'x86_64-linux'],
    ['Linux', 'aarch64', 'aarch64-linux'],
    ['Linux', 'armv6l', 'armv6l-linux'],
    ['Linux', 'riscv64', 'riscv64-linux'],
    ['Linux', 's390x', 's390x-linux'],
  ])('%s, %s', (os, architecture, system) => {
    expect(runnerSystem(os, architecture, 'mips')).toBe(system)
  })

  test.each([
    ['', 'arm64', 'aarch64-linux'],
    ['', 'ia32', 'i686-linux'],
    ['Intel', 'x64', 'x86_64-linux'],
    ['constructor', 'mips', 'mips-linux'],
  ])('is that of this process if the runner reports an unknown one: %j, %s', (reported, own, system) => {
    expect(runnerSystem('Linux', reported, own)).toBe(system)
  })
})
