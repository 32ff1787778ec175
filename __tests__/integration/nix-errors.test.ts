import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import type { ActionRun } from '../support/runner.ts'

// The errors for sources that real Nix can't find, fetch or evaluate: each says what to change.

const run = promisify(execFile)
let lab: Lab
let repository: string

beforeAll(async () => {
  lab = await startLab()
  repository = await createRepository()
})
afterAll(() => lab.close())

const FLAKE = `{
  outputs = _: let
    image = text: derivation { name = "image"; inherit text; system = "x86_64-linux"; builder = "/bin/sh"; };
    join = builtins.concatStringsSep " ";
  in {
    packages.x86_64-linux = {
      imported = import ./new/image.nix;
      read = image (builtins.readFile ./new/file);
      listed = image (join (builtins.attrNames (builtins.readDir ./new)));
      copied = image "$\{./new/file}";
      inSubmodule = image (builtins.readFile ./vendor/lib/file);
      system = image builtins.currentSystem;
      path = image (builtins.readFile /etc/hostname);
      lookup = image (toString <nixpkgs>);
      fetched = image (builtins.fetchTarball "https://example.org/app.tar.gz");
      cloned = image (builtins.fetchGit "https://example.org/app").outPath;
    };
  };
}
`

/** Creates a repository that has untracked files and a submodule. */
async function createRepository(): Promise<string> {
  const folder = await mkdtemp(join(lab.folder, 'repository-'))
  const file = async (path: string, content: string) => {
    await mkdir(dirname(join(folder, path)), { recursive: true })
    await writeFile(join(folder, path), content)
  }
  const git = (cwd: string, ...args: readonly string[]) =>
    run('git', ['-c', 'user.name=Test', '-c', 'user.email=test@example.org', ...args], { cwd: join(folder, cwd) })
  await file('lib/file', 'text')
  await file('app/flake.nix', FLAKE)
  for (const name of ['lib', 'app']) {
    await git(name, 'init', '--quiet')
    await git(name, 'add', '.')
    await git(name, 'commit', '--quiet', '--message', 'Add')
  }
  await git('app', '-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'add', '../lib', 'vendor/lib')
  await file('app/new/file', 'text')
  await file('app/new/image.nix', '"text"')
  return join(folder, 'app')
}

function build(attribute: string, inputs: Readonly<Record<string, string>> = {}): Promise<ActionRun> {
  return lab.build('x86_64-linux', { cwd: repository, inputs: { attribute, push: 'false', ...inputs } })
}

test.each([
  ['imported', 'new/image.nix'],
  ['read', 'new/file'],
  ['listed', 'new'],
  ['copied', 'new/file'],
])('the error for an untracked file that is %s says how to track it', async (attribute, name) => {
  const { errors } = await build(attribute)
  // Nix 2.8 looks for the folder first.
  const missing = `(?:${name}|${name.split('/')[0]})`
  expect(errors).toEqual([
    expect.stringMatching(
      new RegExp(`Nix does not see ${missing}\\..*Commit the file.*\n  run: git add -N ${missing}$`),
    ),
  ])
})

describe('the error for a file in a submodule says how to include it', () => {
  test('in a build', async () => {
    const { errors } = await build('inSubmodule')
    expect(errors).toEqual([
      expect.stringMatching(/it leaves out Git submodules, such as vendor\/lib\..*\n {2}flake: \.\?submodules=1$/),
    ])
  })

  test('and with that, Nix sees it', async () => {
    // The submodule of this test is not fetched from a host.
    const env = { GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: 'protocol.file.allow', GIT_CONFIG_VALUE_0: 'always' }
    const inputs = { attribute: 'inSubmodule', push: 'false', flake: '.?submodules=1' }
    const { errors, log } = await lab.build('x86_64-linux', { cwd: repository, env, inputs })
    expect(log).toContain('##[group]Build .?submodules=1#packages.x86_64-linux.inSubmodule')
    // The derivation of the test writes no image.
    expect(errors).toEqual([expect.not.stringContaining('does not see')])
  })
})

test.each([
  ['system', 'Replace `builtins.currentSystem`'],
  ['path', 'into the repository, and write its path relative'],
  ['lookup', 'such as `inputs.nixpkgs`'],
  ['fetched', 'Add `sha256` to the arguments of `builtins.fetchTarball`'],
  ['cloned', 'Add `rev`, the commit,'],
])('the error of pure evaluation says what to change in the flake (%s)', async (attribute, change) => {
  const { errors } = await build(attribute)
  expect(errors).toEqual([expect.stringContaining(change)])
  expect(errors[0]).toMatch(/\n {2}nix-args: --impure$/)
})

test('the error for a private input has what Git says, and how to give it a key, in the plan as in a build', async () => {
  const cwd = await mkdtemp(join(lab.folder, 'private-'))
  const input = 'inputs.private.url = "git+ssh://git@git.example.org/owner/private";'
  await writeFile(join(cwd, 'flake.nix'), `{ ${input} outputs = { private, ... }: { packages = private; }; }`)
  const ssh = join(cwd, 'ssh')
  await writeFile(ssh, '#!/bin/sh\necho "git@git.example.org: Permission denied (publickey)." >&2\nexit 255\n', {
    mode: 0o755,
  })
  const env = { GIT_SSH: ssh }
  const steps = [
    await lab.build('x86_64-linux', { cwd, env, inputs: { push: 'false' } }),
    await lab.build('x86_64-linux', { cwd, env, inputs: { mode: 'plan' } }),
  ]
  for (const { errors } of steps) {
    expect(errors).toEqual([expect.stringContaining('\n  git@git.example.org: Permission denied (publickey).\n')])
    expect(errors[0]).toContain('\nSSH has no key that the host accepts.')
  }
})
