import { mkdtemp, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { which } from '@actions/io'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { nixEnvironment } from '../support/nix.ts'
import { withFiles } from '../support/preload.ts'
import { type ActionRun, passed } from '../support/runner.ts'

// The log that users read while real Nix builds, and the error when it fails.

let lab: Lab
let flake: string

beforeAll(async () => {
  lab = await startLab()
  flake = await mkdtemp(join(lab.folder, 'flake-'))
  await writeFile(join(flake, 'flake.nix'), FLAKE)
})
afterAll(() => lab.close())

const FLAKE = `{
  outputs = _: let
    script = name: inputs: text: derivation {
      inherit name inputs;
      system = "x86_64-linux";
      builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      args = [ "-euc" text ];
    };
    noisy = script "noisy" [ ] "for i in 1 2 3; do echo noise: No space left on device; done; echo > $out";
    # It fails when the noise has been made.
    failing = script "failing" [ noisy ] ''
      for i in $(seq 40); do echo step $i; done
      printf '\\033[31mhello.c:1: no such thing\\033[0m\\n' >&2
      exit 3
    '';
    archive = script "docker-image-app.tar" [ noisy ] ''
      printf 'one\\r\\033[2Ktwo\\n::error::from a builder\\n'
      echo > $out
    '';
  in {
    packages.x86_64-linux = {
      image = script "image" [ noisy failing ] "echo > $out";
      full = script "full" [ ] "echo 'tar: layer.tar: Cannot write: No space left on device' >&2; exit 2";
      inherit archive;
    };
  };
}
`

async function build(attribute: string, env: Readonly<Record<string, string>> = {}): Promise<ActionRun> {
  return lab.build('x86_64-linux', { cwd: flake, env, inputs: { attribute, push: 'false' } })
}

test('the error has the last lines of the failed derivation, and none of other derivations', async () => {
  const { errors, warnings, log } = await build('image')
  const [error = ''] = errors
  const lines = error.split('\n')
  expect(lines[0]).toBe('Nix could not build .#packages.x86_64-linux.image')
  expect(lines.slice(1, 20)).toEqual(Array.from({ length: 19 }, (_, at) => `  failing> step ${at + 22}`))
  expect(lines[20]).toBe('  failing> hello.c:1: no such thing')
  // Newer versions of Nix add the reason and the outputs.
  expect(lines.filter((line) => line.includes('error:'))).toEqual([
    expect.stringMatching(/^ {2}error: .*-failing\.drv.*/),
  ])
  expect(error).not.toMatch(/image\.drv|log lines/)
  expect(warnings).toEqual([])
  // The log has all lines.
  for (const line of ['noisy> noise: No space left on device', 'failing> step 1', 'failing> step 40'])
    expect(log).toContain(`\n${line}\n`)
})

test('the error for a full disk says how much is left, and where', async () => {
  const { errors } = await build('full')
  expect(errors).toEqual([
    expect.stringMatching(/full> tar: .*\n(?:.*\n)+The disk is full \(now [\d.]+ .?B are free for .*\/store/),
  ])
})

test.each([
  ['before', () => 'true'],
  // Nix creates the folder of its logs when it first builds.
  ['after', (logs: string) => `existsSync(${JSON.stringify(logs)})`],
])('a nearly full disk %s the build causes one warning', async (when, full) => {
  const nix = await nixEnvironment(await mkdtemp(join(lab.folder, 'nix-')))
  const { NIX_STORE_DIR: store = '', NIX_LOG_DIR: logs = '' } = nix
  const statfs = `async () => ({ bavail: ${full(logs)} ? 1 : 100, bsize: 1e9 })`
  const env = { ...nix, ...withFiles({ statfs }) }
  const { warnings, log } = passed(await lab.build('x86_64-linux', { env, inputs: { push: 'false' } }))
  expect(warnings).toEqual([
    expect.stringMatching(
      /^The disk is nearly full \w+ the build: 1\.0 GB are free for .*\. Hosted runners guarantee /,
    ),
  ])
  expect(warnings[0]).toContain(`nearly full ${when} the build: 1.0 GB are free for ${store}`)
  expect(log).toMatch(/^Disk space after the build: 1\.0 GB are free for /m)
})

test('the group shows the progress of the build, and runs no workflow commands', async () => {
  const { log, errors } = await build('archive')
  const group = log.slice(log.indexOf('##[group]Build .#packages.x86_64-linux.archive for x86_64-linux\n'))
  expect(group).toMatch(/\n\[command\].*nix .*build /)
  expect(group).toMatch(/\nbuilding '.*-docker-image-app\.tar\.drv'/)
  expect(group).toContain('\ndocker-image-app.tar> ::error::from a builder\n')
  expect(group).toMatch(/\nNix: (\d) of \1 built, 0 left\n(?:.*\n)*##\[endgroup\]/)
  expect(log).not.toContain('@nix')
  expect(log).not.toContain('\u001b[2K')
  expect(log).toMatch(
    /^nix-image-action .*\nUsing .*\nEvaluating .*\nDisk space before the build: [\d.]+ .?B are free for .*\n(?:.*\n)*Disk space after the build: /,
  )
  // The result is not an image, which is the only error.
  expect(errors).toEqual([expect.stringContaining('docker-image-app.tar')])
})

test('a Nix that does not support the log format still builds', async () => {
  const folder = await mkdtemp(join(lab.folder, 'bin-'))
  const script = `#!/bin/sh
case " $* " in *internal-json*) echo "error: option 'log-format' has an invalid value 'internal-json'" >&2; exit 1 ;; esac
exec '${await which('nix', true)}' "$@"
`
  await writeFile(join(folder, 'nix'), script, { mode: 0o755 })
  const env = { PATH: `${folder}${delimiter}${process.env.PATH}` }
  const { exitCode, outputs, log } = await lab.build('x86_64-linux', { env, inputs: { push: 'false' } })
  expect({ exitCode, outputs }).toEqual({
    exitCode: 0,
    outputs: { 'store-path': expect.stringMatching(/docker-image-hello\.tar\.gz$/) },
  })
  expect(log).toMatch(/\nbuilding '.*docker-image-hello\.tar\.gz\.drv'/)
  const { errors } = await build('image', env)
  expect(errors).toEqual([expect.stringMatching(/hello\.c:1: no such thing\n(?:.*\n)*.*error: .*failing\.drv'/)])
})
