import { execFile } from 'node:child_process'
import { type FileHandle, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { buildInstallable } from '../../src/nix/build.ts'
import { NixError } from '../../src/nix/nix-error.ts'

const OUTPUT = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
const REMINDER = 'Nix is still at work'
const path = process.env.PATH

let folder: string
/** A pipe that the stub reads a line from before it ends. Held open at both ends: whoever opens it need not wait. */
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

/** Puts a shell script first on the PATH in place of Nix, which waits at the gate. */
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

describe('of several outputs', () => {
  const image = `/nix/store/${'0'.repeat(32)}-app`
  const debug = `/nix/store/${'1'.repeat(32)}-app-debug`
  const built = JSON.stringify([{ drvPath: '/nix/store/x.drv', outputs: { debug, image } }])

  /** What is built of them, where Nix evaluates `outPath` to this. */
  async function buildWith(outPath: string, text = '.#app'): Promise<string> {
    await nixIs(`case " $* " in *" eval "*) printf %s '${outPath}' ;; *) echo '${built}' ;; esac`)
    const building = build(text)
    // One word for each time that Nix is run.
    return whileBuilding(building, () => void gate.write('on\n'))
  }

  test.each([image, debug])('it is the one that stands for the derivation: %s', async (outPath) => {
    expect(await buildWith(outPath)).toBe(outPath)
  })

  test.each([
    ['chosen by `^`', image, '.#app^*'],
    ['of which none stands for the derivation', `/nix/store/${'2'.repeat(32)}-app`, '.#app'],
    ['of which none is known to', '', '.#app'],
  ])('none is taken on trust, and they are named: %s', async (_, outPath, text) => {
    await expect(buildWith(outPath, text)).rejects.toThrow(
      `Nix built 2 outputs of ${text}, and an image is one
  debug: ${debug}
  image: ${image}
Name the one that is the image, for example by \`.#app^debug\`.`,
    )
  })
})

/** How often a person has been told, each time after so many milliseconds more. */
function remindersAfter(...waits: readonly number[]): readonly number[] {
  return waits.map((wait) => {
    jest.advanceTimersByTime(wait)
    return shown.split(REMINDER).length - 1
  })
}

/** Whatever becomes of the work, the stub comes to its end. */
async function whileBuilding<Result>(building: Promise<Result>, work: () => void): Promise<Result> {
  try {
    work()
  } finally {
    await gate.write('on\n')
    await Promise.allSettled([building])
  }
  return building
}

describe('of a build that says nothing', () => {
  test('a person is told each minute that Nix is at work, until it ends', async () => {
    await nixIs(`echo '[{"outputs":{"out":"${OUTPUT}"}}]'`)
    const output = await whileBuilding(build(), () => {
      expect(remindersAfter(59_000, 2000, 57_000, 2000)).toEqual([0, 1, 1, 2])
    })
    expect(output).toBe(OUTPUT)
    expect(jest.getTimerCount()).toBe(0)
    expect(remindersAfter(120_000)).toEqual([2])
  })

  test('nobody is told any more when it has failed', async () => {
    await nixIs('exit 1')
    const failed = whileBuilding(build(), () => expect(remindersAfter(61_000)).toEqual([1]))
    await expect(failed).rejects.toBeInstanceOf(NixError)
    expect(jest.getTimerCount()).toBe(0)
  })

  test('nobody is told where there is no Nix', async () => {
    process.env.PATH = folder
    await expect(build()).rejects.toThrow('Nix is not installed on this runner')
    expect(jest.getTimerCount()).toBe(0)
    expect(remindersAfter(120_000)).toEqual([0])
  })
})
