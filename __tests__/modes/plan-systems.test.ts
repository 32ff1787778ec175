import { describe, expect, test } from '@jest/globals'
import { assertOffered, assertPlanned, chooseSystems } from '../../src/modes/plan-systems.ts'
import { type ImageEvaluation, readSystemImage, type SystemImage } from '../../src/nix/evaluate-systems.ts'

const call = {
  flake: '.',
  attribute: 'image',
  nixArgs: [],
  runnerSystem: 'x86_64-linux',
  missing: 'packages.x86_64-linux.image',
}

function evaluated(system: string, evaluation: Partial<ImageEvaluation> = {}): SystemImage {
  const stdout = '{"names":["image"],"type":"derivation","storePath":null}'
  return readSystemImage(system, { exitCode: 0, stdout, steps: {}, detail: '', ...evaluation })
}

const x86 = evaluated('x86_64-linux')
const failed = (detail: string, exitCode = 1): SystemImage =>
  evaluated('aarch64-linux', { exitCode, stdout: '', steps: { names: ['image', 'other'] }, detail })

function errorFor(...images: readonly SystemImage[]): string {
  try {
    chooseSystems(images, call)
  } catch (error) {
    return String(error)
  }
  throw new Error('no error')
}

function planned(...images: readonly SystemImage[]): readonly string[] {
  return chooseSystems(images, call).planned.map(({ system }) => system)
}

// The messages of Nix 2.8, 2.26 and 2.34, and of Lix.
test.each([
  "error: cannot build '/nix/store/0-a.drv' during evaluation because the option 'allow-import-from-derivation' is disabled",
  "error: a 'aarch64-linux' with features {} is required to build '/nix/store/0-a.drv', but I am a 'x86_64-linux'",
  "error:\n       … while evaluating\n\n       error: builder for '/nix/store/0-a.drv' failed with exit code 1",
  "error: Cannot build '/nix/store/0-a.drv'.\n       Reason: required system or feature not available",
  "error: build of '/nix/store/0-a.drv' failed",
  "error: 1 dependencies of derivation '/nix/store/0-a.drv' failed to build",
])('an image whose evaluation has to build something stays in the matrix: %s', (detail) => {
  const image = failed(detail)
  expect(planned(image)).toEqual(['aarch64-linux'])
  const { warnings, notes } = chooseSystems([image, x86], call)
  expect(warnings).toEqual([])
  expect(notes).toEqual([expect.stringMatching(/^packages\.aarch64-linux\.image is in the matrix although .*error: /)])
})

test('an image whose evaluation was killed stays in the matrix, with a warning', () => {
  const image = failed('', 137)
  expect(planned(image, x86)).toEqual(['aarch64-linux', 'x86_64-linux'])
  expect(chooseSystems([image], call).warnings).toEqual([expect.stringContaining('Nix was killed')])
})

test('an image that can’t be fetched stays in the matrix if another image evaluates', () => {
  const image = failed("error: unable to download 'https://example.org/a.tar.gz': Couldn't resolve host name (6)")
  expect(planned(image, x86)).toEqual(['aarch64-linux', 'x86_64-linux'])
  expect(chooseSystems([image, x86], call).warnings).toEqual([expect.stringContaining('unable to download')])
  expect(errorFor(image)).toContain('unable to download')
})

test('an image that fails is skipped, unless it fails only after it is known to be a derivation', () => {
  const detail = 'error: not supported'
  expect(planned(failed(detail), x86)).toEqual(['x86_64-linux'])
  const later = evaluated('aarch64-linux', { exitCode: 1, stdout: '', steps: { type: 'derivation' }, detail })
  expect(planned(later, x86)).toEqual(['aarch64-linux', 'x86_64-linux'])
  expect(errorFor(later)).toContain('error: not supported')
})

describe('a system that `systems` lists', () => {
  const absent = evaluated('aarch64-linux', { stdout: '{"names":["app"],"type":"absent","storePath":null}' })

  test('must be one of the flake', () => {
    expect(() => assertOffered(['x86_64-linux', 'riscv64-linux'], ['x86_64-linux'], call)).toThrow(
      /^The flake \. has no packages for riscv64-linux, which `systems` lists:?\n.*it has packages for x86_64-linux\n.*Remove these systems from `systems`/s,
    )
    expect(() => assertOffered(['x86_64-linux'], ['aarch64-linux', 'x86_64-linux'], call)).not.toThrow()
  })

  test('must have the image', () => {
    const images = [x86, absent]
    const { planned: chosen } = chooseSystems(images, call)
    expect(() => assertPlanned(['x86_64-linux', 'aarch64-linux'], chosen, images, call)).toThrow(
      /no packages\.<system>\.image for aarch64-linux, which `systems` lists.*aarch64-linux: app/s,
    )
    expect(() => assertPlanned(['x86_64-linux'], chosen, images, call)).not.toThrow()
    expect(() => assertPlanned([], chosen, images, call)).not.toThrow()
  })
})

describe('an error', () => {
  const absent = evaluated('x86_64-linux', { stdout: '{"names":["app"],"type":"absent","storePath":null}' })

  test('says that no system has the image', () => {
    const packages: SystemImage = evaluated('i686-linux', { exitCode: 1, stdout: '', detail: 'error: no 32 bits' })
    const message = errorFor(absent, packages, { system: 'x86_64-darwin', kind: 'unsupported' })
    expect(message).toContain('The flake . has no packages.<system>.image for any supported system')
    expect(message).toContain(
      "  x86_64-linux: app\n  i686-linux: can't be evaluated: error: no 32 bits\n  x86_64-darwin: ",
    )
  })

  test('says that an image with a reason that systems share can’t be evaluated, with the reason once', () => {
    const other: SystemImage = {
      ...failed("error: attribute 'a' missing\n\n       at flake.nix:3:4:"),
      system: 'x86_64-linux',
    }
    const message = errorFor({ ...other, system: 'aarch64-linux' }, other)
    expect(message.split("error: attribute 'a' missing")).toHaveLength(2)
    expect(message).toContain('at flake.nix:3:4:')
    expect(message).toContain('aarch64-linux: image, other\n  x86_64-linux: image, other\n')
    expect(message).toContain('nix eval --show-trace .#packages.aarch64-linux.image')
  })

  test('explains known causes', () => {
    const detail = "error: unable to download 'https://api.github.com/repos/a/b/commits/main': HTTP error 403"
    expect(errorFor(failed(detail))).toContain('github_access_token: ${{ github.token }}')
  })
})
