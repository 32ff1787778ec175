import { beforeAll, describe, expect, test } from '@jest/globals'
import { type Command, readCommand } from '../../src/cli/arguments.ts'
import { type ActionMetadata, optionsOf, readActionMetadata } from '../../src/cli/options.ts'
import { InputError } from '../../src/errors.ts'
import { MODES, PARTIAL_INPUTS } from '../../src/inputs/mode.ts'

let action: ActionMetadata
beforeAll(async () => {
  action = await readActionMetadata()
})

function inputsOf(...args: readonly string[]): Readonly<Record<string, string>> {
  const command = readCommand(args, action)
  if (command.kind !== 'run') throw new Error('the arguments ask for help')
  return command.inputs
}

function mistakeIn(...args: readonly string[]): string {
  try {
    readCommand(args, action)
  } catch (error) {
    if (error instanceof InputError) return error.message
    throw error
  }
  throw new Error('the arguments are correct')
}

describe('options become inputs', () => {
  test('with the defaults of action.yml for those that are not given', () => {
    expect(inputsOf('build', '--image', 'ghcr.io/o/app', '--system', 'aarch64-linux')).toMatchObject({
      mode: 'build',
      image: 'ghcr.io/o/app',
      system: 'aarch64-linux',
      tag: '{sha}-{system}',
      attribute: 'containerImage',
      push: 'true',
    })
    expect(inputsOf('build', '--image', 'ghcr.io/o/app').system).toBe('')
  })

  test.each([
    [['--no-push', '--rebuild'], { push: 'false', rebuild: 'true', sbom: 'true' }],
    [['--push=false', '--no-sbom'], { push: 'false', rebuild: 'false', sbom: 'false' }],
    [['--no-push', '--push'], { push: 'true' }],
  ])('switches: %j', (args, expected) => {
    expect(inputsOf('build', '--image=a.io/b', ...args)).toMatchObject(expected)
  })

  test('repeated options become lines', () => {
    const args = ['--image', 'a.io/b', '--image=c.io/d', '--nix-args', '--override-input', '--nix-args', 'nixpkgs']
    expect(inputsOf('build', ...args)).toMatchObject({
      image: 'a.io/b\nc.io/d',
      'nix-args': '--override-input\nnixpkgs',
    })
  })

  test('an empty value replaces the default', () => {
    expect(inputsOf('build', '--image=a.io/b', '--tag=', '--reuse-from', '')).toMatchObject({
      tag: '',
      'reuse-from': '',
    })
  })
})

test('options that are not inputs say where records are, and what is printed', () => {
  const usual = readCommand(['merge', '--image=a.io/b'], action)
  expect(usual).toMatchObject({ records: 'nix-image-records', json: false, verbose: false })
  const given = readCommand(['merge', '--image=a.io/b', '--records', 'r', '--json', '--verbose'], action)
  expect(given).toMatchObject({ records: 'r', json: true, verbose: true })
})

test.each<[readonly string[], Command]>([
  [['--help'], { kind: 'help', mode: undefined }],
  [['-h'], { kind: 'help', mode: undefined }],
  [['help', 'merge'], { kind: 'help', mode: 'merge' }],
  [['build', '--imgae', 'x', '--help'], { kind: 'help', mode: 'build' }],
])('%j asks for help', (args, expected) => {
  expect(readCommand(args, action)).toEqual(expected)
})

describe('a mistake is an error that says what to write instead', () => {
  test.each<[readonly string[], string]>([
    [['biuld'], 'Unknown mode "biuld"\nDid you mean "build"?\nThe modes are build, merge, plan and verify.'],
    [['publish'], 'Unknown mode "publish"\nThe modes are build, merge, plan and verify.'],
    [['--image', 'a'], 'The mode is missing before --image\nBegin with a mode: nix-image-action build'],
    [
      ['build'],
      'nix-image-action build needs --image\nFor example:\n  nix-image-action build --image ghcr.io/owner/app',
    ],
    [['verify'], '  nix-image-action verify --image ghcr.io/owner/app:1.2.3'],
    [['build', '--imgae', 'a'], 'Unknown option --imgae\nDid you mean "--image"?\nRun "nix-image-action build --help"'],
    [['build', '--record', 'a'], 'Did you mean "--records"?'],
    [['build', '--no-puhs'], 'Unknown option --no-puhs\nDid you mean "--push"?'],
    [['build', '-x'], 'Unknown option -x\nRun'],
    [['build', '--tags', 'a'], 'Unknown option --tags\nIt is an option of nix-image-action merge.'],
    [['merge', '--token', 'a'], 'Secrets are read from the environment only: set GITHUB_TOKEN.'],
    [['build', '--retention-days', '3'], 'Unknown option --retention-days\nRun'],
    [['build', '--image'], 'The option --image needs a value'],
    [
      ['build', '--image', '--no-push'],
      'The option --image needs a value\nIf --no-push is the value, write --image=--no-push.',
    ],
    [['build', '--tag', 'a', '--tag', 'b'], 'The option --tag is given twice'],
    [['build', 'ghcr.io/o/app'], 'Unexpected argument "ghcr.io/o/app"\n'],
  ])('%j', (args, expected) => {
    expect(mistakeIn(...args)).toContain(expected)
  })
})

describe.each(MODES)('%s', (mode) => {
  test('has the inputs of the mode as options, and no others', () => {
    const partial = Object.entries(PARTIAL_INPUTS).filter(([, { modes }]) => modes.includes(mode))
    const common = [...(mode === 'verify' ? [] : ['push']), ...(['build', 'verify'].includes(mode) ? ['system'] : [])]
    const onlyInJobs = ['retention-days', 'artifact-pattern', 'attest']
    const expected = ['image', ...common, ...partial.map(([name]) => name).filter((name) => !onlyInJobs.includes(name))]
    expect(
      optionsOf(mode, action)
        .map(({ name }) => name)
        .toSorted(),
    ).toEqual(expected.toSorted())
  })
})
