import { execFile } from 'node:child_process'
import { type FileHandle, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { NixError } from '../../src/errors.ts'
import { buildDerivation, buildInstallable, derivationTarget } from '../../src/nix/build.ts'
import type { NixBuildCall } from '../../src/nix/failure.ts'
import { PLAIN_SETUP } from '../support/nix.ts'

const OUTPUT = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
const REMINDER = 'Nix is still running'
const path = process.env.PATH

let folder: string
/** The stub reads a line from this pipe before it continues. Open for reading and writing, so that opening it never blocks. */
let gate: FileHandle
let shown: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nix-stub-'))
  await promisify(execFile)('mkfifo', [join(folder, 'gate')])
  gate = await open(join(folder, 'gate'), 'r+')
  shown = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    shown += String(text)
    return true
  })
  jest.useFakeTimers({
    doNotFake: [
      'Date',
      'hrtime',
      'nextTick',
      'queueMicrotask',
      'setImmediate',
      'clearImmediate',
      'setTimeout',
      'clearTimeout',
    ],
  })
})

afterEach(async () => {
  jest.useRealTimers()
  jest.restoreAllMocks()
  process.env.PATH = path
  await gate.close()
  await rm(folder, { recursive: true })
})

/** Installs a shell script as Nix. It waits for a line from `gate` first. */
async function nixIs(script: string): Promise<void> {
  const wait = `read -r word < '${join(folder, 'gate')}'`
  await writeFile(join(folder, 'nix'), `#!/bin/sh\n${wait}\n${script}\n`, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${path}`
}

function callOf(text: string): NixBuildCall {
  const system = 'x86_64-linux'
  return {
    installable: { options: [], text, name: text },
    nixArgs: [],
    folders: [],
    system,
    runnerSystem: system,
    setup: PLAIN_SETUP,
  }
}

async function build(text = '.#app'): Promise<string> {
  return (await buildInstallable(callOf(text))).storePath
}

describe('a derivation with several outputs', () => {
  const image = `/nix/store/${'0'.repeat(32)}-app`
  const debug = `/nix/store/${'1'.repeat(32)}-app-debug`
  const built = JSON.stringify([{ drvPath: '/nix/store/x.drv', outputs: { debug, image } }])
  const evaluated = { derivation: '/nix/store/x.drv', nixVersion: '2.8.0', ignoredSettings: [] }

  test.each([
    ['image', image],
    ['debug', debug],
  ])('results in the output that was evaluated: %s', async (output, path) => {
    await nixIs(`echo '${built}'`)
    const building = buildDerivation(callOf('.#app'), { ...evaluated, output })
    expect((await whileBuilding(building, () => undefined)).storePath).toBe(path)
  })

  test('is refused with a list of the outputs if none is selected', async () => {
    await nixIs(`echo '${built}'`)
    const listed = `Nix built 2 outputs of .#app^* instead of one image
  debug: ${debug}
  image: ${image}
Select the output that is the image, for example:
  installable: .#app^debug`
    await expect(whileBuilding(build('.#app^*'), () => undefined)).rejects.toThrow(listed)
    const building = buildDerivation(callOf('.#app'), { ...evaluated, output: 'out' })
    await expect(whileBuilding(building, () => undefined)).rejects.toThrow(listed.replaceAll('^*', ''))
  })
})

describe('the installable for an output of a derivation', () => {
  const derivation = `/nix/store/${'0'.repeat(32)}-app.drv`

  test.each(['2.8.0', '2.14.1', '2.14pre20230101_abc'])(
    'is its path, of which Nix %s builds all outputs',
    (nixVersion) => {
      expect(derivationTarget({ derivation, output: 'image', nixVersion })).toBe(derivation)
    },
  )

  test.each(['2.15.0', '2.15.0pre20230101_abc', '2.34.1', '2.95.0', '3.1.0', '10.0.0'])(
    'selects the output, as Nix, Lix or Determinate Nix %s requires',
    (nixVersion) => {
      expect(derivationTarget({ derivation, output: 'image', nixVersion })).toBe(`${derivation}^image`)
    },
  )
})

test('settings that Nix ignored in the evaluation are reported with the build, each once', async () => {
  const evaluated = { derivation: '/nix/store/x.drv', output: 'out', nixVersion: '2.34.1', ignoredSettings: ['a', 'b'] }
  const warning = "warning: ignoring untrusted flake configuration setting 'b'"
  await nixIs(`echo "${warning}" >&2; echo '[{"outputs":{"out":"${OUTPUT}"}}]'`)
  const building = buildDerivation(callOf('.#app'), evaluated)
  expect(await whileBuilding(building, () => undefined)).toEqual({ storePath: OUTPUT, ignoredSettings: ['a', 'b'] })
  await nixIs('echo "error: no" >&2; exit 1')
  const failing = buildDerivation(callOf('.#app'), evaluated)
  await expect(whileBuilding(failing, () => undefined)).rejects.toThrow(
    "Nix ignores settings in the flake's nixConfig: a, b. To apply them, set `nix-args: --accept-flake-config`",
  )
})

/** Returns the number of reminders after each of several waits in milliseconds. */
function remindersAfter(...waits: readonly number[]): readonly number[] {
  return waits.map((wait) => {
    jest.advanceTimersByTime(wait)
    return shown.split(REMINDER).length - 1
  })
}

/** Does work during a build, and then lets the stub end. */
async function whileBuilding<Result>(building: Promise<Result>, work: () => void): Promise<Result> {
  try {
    work()
  } finally {
    await gate.write('on\n')
    await Promise.allSettled([building])
  }
  return building
}

describe('a silent build', () => {
  test('logs a reminder every 30 seconds until it ends', async () => {
    await nixIs(`echo '[{"outputs":{"out":"${OUTPUT}"}}]'`)
    const output = await whileBuilding(build(), () => {
      expect(remindersAfter(29_000, 2000, 27_000, 2000)).toEqual([0, 1, 1, 2])
    })
    expect(output).toBe(OUTPUT)
    expect(jest.getTimerCount()).toBe(0)
    expect(remindersAfter(120_000)).toEqual([2])
  })

  test('logs no reminder after it has failed', async () => {
    await nixIs('exit 1')
    const failed = whileBuilding(build(), () => expect(remindersAfter(31_000)).toEqual([1]))
    await expect(failed).rejects.toBeInstanceOf(NixError)
    expect(jest.getTimerCount()).toBe(0)
  })

  test('logs no reminder if Nix is not installed', async () => {
    process.env.PATH = folder
    await expect(build()).rejects.toThrow('Nix is not installed on this runner')
    expect(jest.getTimerCount()).toBe(0)
    expect(remindersAfter(120_000)).toEqual([0])
  })
})
