import { execFile } from 'node:child_process'
import { cp, mkdtemp, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { type FaultOf, startRegistry, type TestRegistry } from '../support/registry.ts'
import type { ActionCall, ActionRun } from '../support/runner.ts'

// Cancels a step at different moments, with real Nix. The stand-in for the runner kills a step that keeps running for
// ten seconds; the exit code is then 137.

let registry: TestRegistry
let lab: Lab
beforeAll(async () => {
  registry = await startRegistry()
  lab = await startLab({ startRegistry: async () => registry })
})
afterAll(() => lab.close())

describe.each([
  ['SIGINT', {}, 130],
  ['SIGTERM', { cancelBy: 'SIGTERM' }, 143],
] as const)('a step that gets %s', (_, signal, exitCode) => {
  /** Runs a step until `until` resolves, then cancels it. */
  async function cancelled(call: Partial<ActionCall>, until: Promise<unknown>): Promise<ActionRun> {
    const cancel = new AbortController()
    const system = 'x86_64-linux'
    const step = call.inputs?.mode === 'merge' ? lab.merge : (one: Partial<ActionCall>) => lab.build(system, one)
    const running = step({ jobTotal: 1, ...signal, ...call, signal: cancel.signal })
    // If the step ends early, the assertions report it.
    await Promise.race([until, running])
    cancel.abort()
    return running
  }

  function expectEnd(step: ActionRun): void {
    const { tempLeft, errors, outputs } = step
    expect({ exitCode: step.exitCode, tempLeft, errors, outputs }).toEqual({
      exitCode,
      tempLeft: [],
      errors: [],
      outputs: {},
    })
    expect(step.log).toMatch(/^Cancelled by SIG(INT|TERM)/m)
    const [, token] = /^::stop-commands::(.*)$/m.exec(step.raw) ?? []
    if (token !== undefined) expect(step.raw).toContain(`\n::${token}::\n`)
  }

  test('while Nix evaluates ends Nix', async () => {
    const cwd = await project()
    const pipe = join(cwd, 'pipe')
    await promisify(execFile)('mkfifo', [pipe])
    await writeFile(join(cwd, 'default.nix'), `{ image = builtins.readFile ${pipe}; }`)
    // Resolves as soon as Nix reads the pipe.
    const opened = open(pipe, 'w')
    const inputs = { file: 'default.nix', attribute: 'image' }
    expectEnd(await cancelled({ cwd, inputs }, opened))
    const handle = await opened
    await expect(handle.write('"text"')).rejects.toThrow('EPIPE')
    await handle.close()
  })

  test('while Nix builds ends the builder', async () => {
    const cwd = await project()
    const { pids, marker } = filesIn(cwd)
    await flake(
      cwd,
      `derivation {
        name = "image"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; cwd = "${cwd}";
        args = [ "-euc" "sleep 600 & echo $$ $! > ${pids}; wait; echo > ${marker}; exit 1" ];
      }`,
    )
    const step = await cancelled({ cwd }, written(pids))
    expectEnd(step)
    // Nix was building, so workflow commands were stopped.
    expect(step.raw).toContain('::stop-commands::')
    await expectEnded(pids, marker)
  })

  test('while a streaming script ignores signals ends the script and its child processes', async () => {
    const cwd = await project()
    const { pids, marker } = filesIn(cwd)
    await flake(cwd, streamed(`trap "" INT TERM; sleep 600 & echo $$ $! > ${pids}; wait; echo > ${marker}`))
    expectEnd(await cancelled({ cwd }, written(pids)))
    await expectEnded(pids, marker)
  })

  test('after a streaming script has ended ends its remaining child processes', async () => {
    const cwd = await project()
    const { pids, marker } = filesIn(cwd)
    const left = `(trap "" INT TERM; sleep 600 && echo > ${marker}) &`
    await flake(cwd, streamed(`${left} echo $$ $! > ${pids}`))
    expectEnd(await cancelled({ cwd }, written(pids)))
    await expectEnded(pids, marker)
  })

  test('while an upload hangs ends the step', async () => {
    const image = `${registry.host}/owner/upload`
    const hanging = hangAt(({ method, route }) => route === 'upload' && method !== 'GET')
    expectEnd(await cancelled({ inputs: { image } }, hanging))
  })

  test('while a merge waits for the registry ends the step', async () => {
    const image = `${registry.host}/owner/merged`
    const hanging = hangAt(({ method, route }) => route === 'manifest' && method === 'GET')
    const inputs = { mode: 'merge', image, digests: `sha256:${'0'.repeat(64)}` }
    expectEnd(await cancelled({ inputs }, hanging))
  })
})

/** Makes the registry answer no request of this kind. Resolves at the first one. */
function hangAt(kind: (request: Parameters<FaultOf>[0]) => boolean): Promise<void> {
  return new Promise((resolve) => {
    registry.setFault((request) => {
      if (!kind(request)) return undefined
      resolve()
      return { kind: 'hang' }
    })
  })
}

async function project(): Promise<string> {
  registry.setFault(undefined)
  const cwd = await mkdtemp(join(lab.folder, 'project-'))
  await cp(lab.hello, cwd, { recursive: true })
  return cwd
}

/** The files where programs write their process IDs, and a note if they ran to completion. */
function filesIn(cwd: string) {
  return { pids: join(cwd, 'pids'), marker: join(cwd, 'marker') }
}

async function flake(cwd: string, image: string): Promise<void> {
  await writeFile(join(cwd, 'flake.nix'), `{ outputs = _: { packages.x86_64-linux.containerImage = ${image}; }; }`)
}

/** A Nix expression for a script instead of an image. */
function streamed(command: string): string {
  return `derivation {
    name = "stream-image"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    text = ''
      #!/bin/sh
      ${command}
    '';
    args = [ "-euc" "printf '%s' \\"$text\\" > $out; chmod 755 $out" ];
  }`
}

async function written(file: string): Promise<void> {
  while (!(await readFile(file, 'utf8').catch(() => '')).endsWith('\n')) await sleep(20)
}

async function expectEnded(pids: string, marker: string): Promise<void> {
  const numbers = (await readFile(pids, 'utf8')).trim().split(' ')
  expect(numbers).toHaveLength(2)
  // Nix waits for the builder, but not for its child processes, which the same signal ends. If one keeps running, the
  // test times out.
  while ((await Promise.all(numbers.map(isRunning))).includes(true)) await sleep(20)
  await expect(readFile(marker)).rejects.toThrow('ENOENT')
}

async function isRunning(pid: string): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // A zombie has ended, even if its parent has not collected it yet.
  return stat !== undefined && !/^\d+ \(.*\) [ZX]/.test(stat)
}
