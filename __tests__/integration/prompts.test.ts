import { cp, mkdtemp, readdir, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { passed } from '../support/runner.ts'

// Programs that would prompt on a terminal fail immediately in a step, with real Nix, Git and SSH.

let lab: Lab
let server: Server
let host: string

beforeAll(async () => {
  lab = await startLab()
  server = createServer((_, response) => {
    response.writeHead(401, { 'www-authenticate': 'Basic realm="git"' }).end()
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(async () => {
  server.close()
  await lab.close()
})

async function flakeWith(text: string): Promise<string> {
  const cwd = await mkdtemp(join(lab.folder, 'flake-'))
  await writeFile(join(cwd, 'flake.nix'), text)
  return cwd
}

/** A program that would ask in a window: it creates a file and does not answer. */
async function askingProgram(): Promise<{ readonly program: string; readonly asked: () => Promise<boolean> }> {
  const folder = await mkdtemp(join(lab.folder, 'askpass-'))
  const program = join(folder, 'askpass')
  await writeFile(program, `#!/bin/sh\ntouch '${folder}/asked'\nsleep 600\n`, { mode: 0o755 })
  return { program, asked: async () => (await readdir(folder)).includes('asked') }
}

test('the error for a Git repository that requires a login says how to add one', async () => {
  const { program, asked } = await askingProgram()
  const cwd = await flakeWith(
    `{ inputs.private.url = "git+http://${host}/owner/private.git"; outputs = { private, ... }: { packages = private; }; }`,
  )
  const step = await lab.build('x86_64-linux', { cwd, env: { SSH_ASKPASS: program, DISPLAY: ':0' } })
  expect(step.log).toContain(`fatal: could not read Username for 'http://${host}': terminal prompts disabled`)
  expect(step.errors).toEqual([expect.stringContaining(`\nGit needs a login for ${host}: the repository is private`)])
  expect(await asked()).toBe(false)
})

describe('a flake with settings', () => {
  const flake = (command: string): string => `{
    nixConfig.extra-substituters = "https://cache.example.org";
    outputs = _: { packages.x86_64-linux.containerImage =
      let image = (import ./image.nix { system = "x86_64-linux"; architecture = "amd64"; }).tar;
      in derivation { name = "image.tar"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-c" "${command}" ]; inherit image; };
    };
  }`
  const ADVICE =
    "Nix ignores settings in the flake's nixConfig: extra-substituters. To apply them, set `nix-args: --accept-flake-config`, which trusts the flake with every setting, such as caches to download from and programs to run."

  async function build(command: string, nixArgs = '') {
    const cwd = await flakeWith(flake(command))
    for (const name of ['image.nix', 'make-image.sh']) await cp(join(lab.hello, name), join(cwd, name))
    return lab.build('x86_64-linux', { cwd, inputs: { push: 'false', 'nix-args': nixArgs } })
  }

  test('is built without them, and a notice before the build says how to allow them', async () => {
    const { log, notices } = passed(await build('cp $image $out'))
    expect(notices).toEqual([ADVICE])
    expect(log.indexOf(ADVICE)).toBeLessThan(log.indexOf('##[group]Build '))
  })

  test('is built with them if they are allowed', async () => {
    const { log, notices } = passed(await build('cp $image $out', '--accept-flake-config'))
    expect(log).not.toContain('Nix ignores settings')
    expect(notices).toEqual([])
  })

  test('that can’t be built without them fails with an error that says so', async () => {
    expect((await build('exit 1')).errors).toEqual([expect.stringContaining(ADVICE)])
  })
})
