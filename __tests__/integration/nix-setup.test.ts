import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { layeredFlake, readPushed } from '../support/layered.ts'
import { nixEnvironment, removeNixFolder } from '../support/nix.ts'
import { type ActionRun, passed } from '../support/runner.ts'

// The ways in which people set up Nix, with real Nix: other machines that build, and a store that is not in /nix/store. No
// test builds in such a store, because Nix then needs the privileges for a sandbox: what it would build is there already.

const run = promisify(execFile)
let lab: Lab

beforeAll(async () => {
  lab = await startLab()
})
afterAll(() => lab.close())

type Environment = Readonly<Record<string, string | undefined>>

async function nix(env: Environment, ...args: readonly string[]): Promise<string> {
  const { stdout } = await run('nix', args, { env: { PATH: process.env.PATH, ...env } })
  return stdout
}

/**
 * Builds an attribute of a flake, and moves what it has built to another store or cache.
 * @returns the environment of Nix with an empty store, whose store paths are the same
 */
async function buildElsewhere(flake: string, attributes: readonly string[], url: string): Promise<Environment> {
  const folder = await mkdtemp(join(lab.folder, 'moved-'))
  const env = await nixEnvironment(join(folder, 'nix'))
  const installables = attributes.map((attribute) => `path:${flake}#${attribute}`)
  const built = JSON.parse(await nix(env, 'build', '--json', '--no-link', ...installables))
  const paths = built.map(({ outputs }: { outputs: { out: string } }) => outputs.out)
  await nix(env, 'copy', '--no-check-sigs', '--to', url, ...paths)
  await removeNixFolder(join(folder, 'nix'))
  return nixEnvironment(join(folder, 'nix'))
}

async function exists(path = ''): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

describe('with a remote builder', () => {
  // No machine that runs the tests has this system, and none emulates it.
  const PARTS = ['one', 'two', 'three', 'four']
  const FLAKE = `{
    outputs = _: let
      made = name: attributes: derivation ({
        inherit name;
        system = "riscv64-linux";
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
      } // attributes);
      parts = builtins.listToAttrs (map
        (name: { inherit name; value = made name { args = [ "-c" "echo > $out" ]; }; })
        [ ${PARTS.map((part) => `"${part}"`).join(' ')} ]);
    in {
      packages.riscv64-linux = parts // {
        image = made "image.tar" (parts // { args = [ "-c" "tar -cf $out --files-from /dev/null" ]; });
      };
    };
  }`

  async function build(
    builder: string,
    env: Environment,
    flake: string,
    onLog: (line: string) => void = () => undefined,
  ): Promise<ActionRun> {
    return lab.build('riscv64-linux', {
      cwd: flake,
      onLog,
      // Without the lab's own setting, which lets it build for all systems.
      env: { ...env, NIX_CONFIG: `extra-platforms =\nbuild-poll-interval = 1\nbuilders = ${builder} riscv64-linux` },
      inputs: { attribute: 'image', push: 'false' },
    })
  }

  /**
   * Takes the only slot of a builder, like another build. Nix locks a file for it, whose name is the URL of the builder: as
   * it is configured in Nix 2.8, and in its complete form in newer versions.
   * @returns a function that frees the slot
   */
  async function takeSlot({ NIX_STATE_DIR = '' }: Environment, url: string): Promise<() => void> {
    const folder = join(NIX_STATE_DIR, 'current-load')
    await mkdir(folder, { recursive: true })
    const [file, complete] = [url, url.replace('local?', 'local://?')].map((one) =>
      join(folder, `${one.replaceAll('/', '_')}-0`),
    )
    const holder = spawn('flock', [file ?? '', 'flock', complete ?? '', 'sh', '-c', 'echo taken; cat'])
    await once(holder.stdout, 'data')
    return () => void holder.stdin.end()
  }

  test('everything for its system is built there, also if its only slot is in use at first', async () => {
    const flake = await mkdtemp(join(lab.folder, 'flake-'))
    await writeFile(join(flake, 'flake.nix'), FLAKE)
    const url = `local?root=${join(lab.folder, 'builder')}`
    const env = await buildElsewhere(
      flake,
      [...PARTS, 'image'].map((name) => `packages.riscv64-linux.${name}`),
      url,
    )
    const freeSlot = await takeSlot(env, url)
    const { log, errors, warnings } = await build(url, env, flake, (line) => {
      if (/waiting for a machine to build|building '/.test(line)) freeSlot()
    })
    for (const name of [...PARTS, 'image.tar'])
      expect(log).toMatch(new RegExp(`building '\\S+-${name}\\.drv' on 'local.*builder'`))
    expect(log).not.toMatch(/building '\S+'(?! on )/)
    expect(warnings).toEqual([])
    // An empty tar is not an image, which is the only error.
    expect(errors).toEqual([expect.stringContaining('is not an image')])
  })

  test('that can’t be reached, the error does not suggest emulation', async () => {
    const flake = await mkdtemp(join(lab.folder, 'flake-'))
    await writeFile(join(flake, 'flake.nix'), FLAKE)
    const folder = await mkdtemp(join(lab.folder, 'bin-'))
    await writeFile(join(folder, 'ssh'), '#!/bin/sh\necho "ssh: connect to host: Connection refused" >&2\nexit 255\n', {
      mode: 0o755,
    })
    const env = await nixEnvironment(await mkdtemp(join(lab.folder, 'nix-')))
    const PATH = `${folder}:${process.env.PATH}`
    const { errors, warnings, log } = await build('ssh://build.example.org', { ...env, PATH }, flake)
    expect(log).toContain("cannot build on 'ssh://build.example.org'")
    expect(errors).toEqual([expect.stringContaining('\nNo remote builder can build this for riscv64-linux now.')])
    expect(warnings).toEqual([])
    expect(errors.join()).not.toMatch(/qemu/i)
  })
})

describe('in a store below another root', () => {
  /** Returns the environment and the arguments of a Nix that downloads what the image consists of into such a store. */
  async function rootless(flake: string, attributes: readonly string[]) {
    const cache = `file://${await mkdtemp(join(lab.folder, 'cache-'))}`
    const env = await buildElsewhere(flake, attributes, cache)
    const root = await mkdtemp(join(lab.folder, 'root-'))
    await mkdir(join(root, 'nix'))
    const NIX_CONFIG = `substituters = ${cache}\nrequire-sigs = false`
    return { env: { ...env, NIX_STATE_DIR: undefined, NIX_LOG_DIR: undefined, NIX_CONFIG }, url: `local?root=${root}` }
  }

  test('an archive is pushed', async () => {
    const { env, url } = await rootless(lab.hello, ['packages.x86_64-linux.containerImage'])
    const step = passed(await lab.build('x86_64-linux', { env: { ...env, NIX_REMOTE: url } }))
    expect(await exists(step.outputs['store-path'])).toBe(false)
    expect((await readPushed(step.outputs.image)).manifest.layers).toHaveLength(1)
    expect(step.log).toMatch(/Disk space after the build: .* are free for \S+root-\w+\/nix\/store/)
  })

  test('the layers of a description are read, and its SBOM lists their hashes', async () => {
    const flake = await layeredFlake(lab, '{ app = image { }; conf = (image { }).stream.conf; }')
    const { env, url } = await rootless(flake, ['packages.x86_64-linux.conf'])
    const inputs = { image: `${lab.registry.host}/owner/layered`, attribute: 'app', 'nix-args': `--store\n${url}` }
    const step = passed(await lab.build('x86_64-linux', { cwd: flake, env, inputs }))
    expect(step.log).not.toContain('instead of its description')
    const { manifest } = await readPushed(step.outputs.image)
    expect(manifest.layers.length).toBeGreaterThan(1)
    const listed = step.filesLeft.match(/"comment":"\/[^"]*"/g) ?? []
    expect(listed).not.toEqual([])
    for (const comment of listed) expect(comment).toContain('\\nnarHash: sha256-')
  })

  test('the layers are read from a script whose package does not name the description', async () => {
    const packages =
      'let stream = removeAttrs (image { }).stream [ "conf" ]; in { inherit stream; app = image { } // { inherit stream; }; }'
    const flake = await layeredFlake(lab, packages)
    const { env, url } = await rootless(flake, ['packages.x86_64-linux.stream'])
    const inputs = { attribute: 'app', push: 'false' }
    const step = passed(await lab.build('x86_64-linux', { cwd: flake, env: { ...env, NIX_REMOTE: url }, inputs }))
    expect(step.log).not.toContain('instead of its description')
  })

  test('a script is not run, because the programs that it names are not found', async () => {
    const { env, url } = await rootless(lab.hello, ['packages.x86_64-linux.streamedImage'])
    const inputs = { attribute: 'streamedImage', push: 'false' }
    const { errors } = await lab.build('x86_64-linux', { env: { ...env, NIX_REMOTE: url }, inputs })
    expect(errors).toEqual([expect.stringMatching(/is a script that runs programs in .*\n.*buildLayeredImage/)])
  })

  test('a local archive is added to that store, and pushed', async () => {
    const { env, url } = await rootless(lab.hello, ['packages.x86_64-linux.containerImage'])
    const local = { ...env, NIX_REMOTE: url }
    const path = (await nix(local, 'eval', '--raw', `path:${lab.hello}#packages.x86_64-linux.containerImage`)).trim()
    await nix(local, 'build', '--no-link', `path:${lab.hello}#packages.x86_64-linux.containerImage`)
    const archive = join(url.replace('local?root=', ''), 'nix/store', path.split('/').at(-1) ?? '')
    const cwd = await mkdtemp(join(lab.folder, 'archive-'))
    await run('cp', [archive, join(cwd, 'image.tar.gz')])
    const inputs = {
      image: `${lab.registry.host}/owner/local`,
      installable: './image.tar.gz',
      'nix-args': `--store\n${url}`,
    }
    const step = passed(await lab.build('x86_64-linux', { cwd, env, inputs }))
    expect(step.outputs['store-path']).toMatch(/-image\.tar\.gz$/)
    expect(await exists(step.outputs['store-path'])).toBe(false)
  })
})
