import { execFile } from 'node:child_process'
import { type FileHandle, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { NixError } from '../../src/errors.ts'
import { buildInstallable } from '../../src/nix/build.ts'

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

async function build(text = '.#app'): Promise<string> {
  const system = 'x86_64-linux'
  const installable = { options: [], text, name: text }
  const call = { installable, nixArgs: [], folders: [], system, runnerSystem: system }
  return (await buildInstallable(call)).storePath
}

describe('a derivation with several outputs', () => {
  const image = `/nix/store/${'0'.repeat(32)}-app`
  const debug = `/nix/store/${'1'.repeat(32)}-app-debug`
  const built = JSON.stringify([{ drvPath: '/nix/store/x.drv', outputs: { debug, image } }])

  /** Builds them with a Nix that evaluates `outPath` to this. */
  async function buildWith(outPath: string, text = '.#app'): Promise<string> {
    await nixIs(`case " $* " in *" eval "*) printf %s '${outPath}' ;; *) echo '${built}' ;; esac`)
    const building = build(text)
    // One line for each run of Nix.
    return whileBuilding(building, () => void gate.write('on\n'))
  }

  test.each([image, debug])('results in its default output: %s', async (outPath) => {
    expect(await buildWith(outPath)).toBe(outPath)
  })

  test.each([
    ['all outputs are selected', image, '.#app^*'],
    ['none of them is the default output', `/nix/store/${'2'.repeat(32)}-app`, '.#app'],
    ['the default output is unknown', '', '.#app'],
  ])('is refused with a list of the outputs if %s', async (_, outPath, text) => {
    await expect(buildWith(outPath, text)).rejects.toThrow(
      `Nix built 2 outputs of ${text} instead of one image
  debug: ${debug}
  image: ${image}
Select the output that is the image, for example:
  installable: .#app^debug`,
    )
  })
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
  test('logs a reminder each minute until it ends', async () => {
    await nixIs(`echo '[{"outputs":{"out":"${OUTPUT}"}}]'`)
    const output = await whileBuilding(build(), () => {
      expect(remindersAfter(59_000, 2000, 57_000, 2000)).toEqual([0, 1, 1, 2])
    })
    expect(output).toBe(OUTPUT)
    expect(jest.getTimerCount()).toBe(0)
    expect(remindersAfter(120_000)).toEqual([2])
  })

  test('logs no reminder after it has failed', async () => {
    await nixIs('exit 1')
    const failed = whileBuilding(build(), () => expect(remindersAfter(61_000)).toEqual([1]))
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
