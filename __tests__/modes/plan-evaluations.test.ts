import { mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { readWorkflow } from '../../src/context.ts'
import { readInputs } from '../../src/inputs/inputs.ts'
import { startPhases } from '../../src/modes/phases.ts'
import { plan } from '../../src/modes/plan.ts'
import { connect } from '../registry/connect.ts'
import { prepareRunner } from '../support/runner.ts'

// A stand-in for Nix evaluates flakes whose packages are for two systems, and records each evaluation.

const { PATH } = process.env
let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(await realpath(tmpdir()), 'plan-'))
})
afterEach(async () => {
  process.env.PATH = PATH
  await rm(folder, { recursive: true })
})

const FOUND = `echo '{"names":["containerImage"],"type":"derivation","storePath":null}'`
const ABSENT = `echo '{"names":["app"],"type":"absent","storePath":null}'`
const FAILS = 'echo "error: not yet written" >&2; exit 1'

/** Puts a program first on the PATH that runs a command for each evaluation of an image. */
async function installNix(onX86: string, onArm: string): Promise<void> {
  const script = `#!/bin/sh
for word; do
  case $word in *'#packages'*) echo "\${word#*#}" >> '${folder}/evaluated';; esac
done
case "$*" in
  *'#packages.x86_64-linux '*) ${onX86};;
  *'#packages.aarch64-linux '*) ${onArm};;
  *'#packages '*) echo '["aarch64-linux","x86_64-linux"]';;
  *) echo 'nix (Nix) 2.34.1';;
esac
`
  await writeFile(join(folder, 'nix'), script, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${PATH}`
}

/** Runs a plan. @returns the systems of the matrix */
async function planned(given: Readonly<Record<string, string>> = {}): Promise<readonly string[]> {
  const { client } = await connect()
  const runner = await prepareRunner({ inputs: { mode: 'plan', image: 'ghcr.io/owner/app', push: 'false', ...given } })
  try {
    const inputs = readInputs(runner.env)
    if (inputs.mode !== 'plan') throw new Error('not a plan')
    const ignore = () => undefined
    const log = {
      ...{ info: ignore, debug: ignore, notice: ignore, warning: ignore, error: ignore, mask: ignore },
      group: <Result>(_title: string, work: () => Promise<Result>) => work(),
      groupToolOutput: <Result>(_title: string, work: () => Promise<Result>) => work(),
    }
    const tools = { http: client.http, registry: client, log, phases: startPhases(), onWrite: ignore }
    const { outputs } = await plan(inputs, readWorkflow(runner.env), tools)
    return JSON.parse(outputs.matrix ?? '').include.map(({ system }: { system: string }) => system)
  } finally {
    await runner.close()
  }
}

async function evaluated(): Promise<readonly string[]> {
  return (await readFile(join(folder, 'evaluated'), 'utf8')).trim().split('\n').toSorted()
}

const EACH_ONCE = ['packages', 'packages.aarch64-linux', 'packages.x86_64-linux']

describe('each system is evaluated once', () => {
  test('if its image is found', async () => {
    await installNix(FOUND, FOUND)
    expect(await planned()).toEqual(['aarch64-linux', 'x86_64-linux'])
    expect(await evaluated()).toEqual(EACH_ONCE)
  })

  test('if the image of no system can be evaluated, which is an error', async () => {
    await installNix(FAILS, FAILS)
    await expect(planned()).rejects.toThrow(/^Nix can't evaluate .* for any system\n {2}error: not yet written\n/)
    expect(await evaluated()).toEqual(EACH_ONCE)
  })

  test('if no system has the image, which is an error', async () => {
    await installNix(ABSENT, ABSENT)
    await expect(planned()).rejects.toThrow(/^The flake \. has no .*containerImage for any supported system\n/)
    expect(await evaluated()).toEqual(EACH_ONCE)
  })
})

describe('with `systems`', () => {
  test('only these are evaluated', async () => {
    await installNix(FOUND, FAILS)
    expect(await planned({ systems: 'x86_64-linux' })).toEqual(['x86_64-linux'])
    expect(await evaluated()).toEqual(['packages', 'packages.x86_64-linux'])
  })

  test('a system for which the flake has no packages is an error', async () => {
    await installNix(FOUND, FOUND)
    await expect(planned({ systems: 'x86_64-linux, riscv64-linux' })).rejects.toThrow(
      'The flake . has no packages for riscv64-linux, which `systems` lists',
    )
    expect(await evaluated()).toEqual(['packages'])
  })

  test.each([ABSENT, FAILS])('a system without the image is an error: %s', async (onArm) => {
    await installNix(FOUND, onArm)
    await expect(planned({ systems: 'x86_64-linux, aarch64-linux' })).rejects.toThrow(
      'has no packages.<system>.containerImage for aarch64-linux, which `systems` lists',
    )
  })
})

test('the error for a file in a submodule says how to include it', async () => {
  const flake = join(folder, 'app')
  await mkdir(join(flake, '.git'), { recursive: true })
  await writeFile(join(flake, '.gitmodules'), '[submodule "lib"]\n\tpath = vendor/lib\n')
  const error = `opening file '/nix/store/${'0'.repeat(32)}-source/vendor/lib/file': No such file or directory`
  const fails = `echo "error: ${error}" >&2; exit 1`
  await installNix(fails, fails)
  await expect(planned({ flake })).rejects.toThrow(`\n  flake: ${flake}?submodules=1`)
})
