import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, realpath, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { nixEnvironment, removeNixFolder } from '../support/nix.ts'

// With real Nix: the evaluated store path is the one that Nix builds, or undefined.

const run = promisify(execFile)
let folder: string
let env: Readonly<Record<string, string | undefined>>
beforeAll(async () => {
  folder = await mkdtemp(join(await realpath(tmpdir()), 'evaluate-'))
  env = { PATH: process.env.PATH, ...(await nixEnvironment(join(folder, 'nix'))) }
  await mkdir(join(folder, 'flake'))
  await writeFile(join(folder, 'flake/flake.nix'), `{ outputs = _: { packages.x86_64-linux = ${PACKAGES}; }; }`)
  await writeFile(
    join(folder, 'image.nix'),
    `{ name ? "image" }: { images = { app = ${derivation('inherit name;')}; }; }`,
  )
})
afterAll(() => removeNixFolder(folder))

function derivation(attributes: string): string {
  return `derivation { system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; ${attributes} }`
}

const PACKAGES = `{
  default = ${derivation('name = "default";')};
  image = ${derivation('name = "image.tar.gz";')};
  addressed = ${derivation('name = "x"; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";')};
  outputs = ${derivation('name = "outputs"; outputs = [ "out" "dev" ];')};
  failing = throw "not today";
  text = "/nix/store/${'0'.repeat(32)}-image";
}`

interface Circumstances {
  readonly system?: string
  readonly runnerSystem?: string
  readonly nixArgs?: readonly string[]
}

async function evaluate(
  installable: readonly string[],
  {
    system = 'x86_64-linux',
    runnerSystem = 'x86_64-linux',
    nixArgs = ['--option', 'warn-dirty', 'false'],
  }: Circumstances = {},
): Promise<string | undefined> {
  const program = fileURLToPath(new URL('evaluate-once.ts', import.meta.url))
  const args = [program, system, runnerSystem, JSON.stringify(nixArgs), ...installable]
  const { stdout } = await run(process.execPath, args, { env, cwd: folder })
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '').path
}

async function build(...installable: readonly string[]): Promise<string> {
  const args = ['--extra-experimental-features', 'nix-command flakes', 'build', '--json', '--no-link', ...installable]
  const { stdout } = await run('nix', args, { env, cwd: folder })
  return JSON.parse(stdout)[0].outputs.out
}

describe('the store path is known before the build', () => {
  test.each(['#packages.x86_64-linux.image', '#image', ''])('of the flake%s', async (attribute) => {
    const installable = `path:${folder}/flake${attribute}`
    const path = await evaluate([installable])
    expect(path).toMatch(/\/store\/[0-9a-z]{32}-(image\.tar\.gz|default)$/)
    expect(await build(installable)).toBe(path)
  })

  test('of a selected output', async () => {
    const flake = `path:${folder}/flake`
    expect(await evaluate([`${flake}#image^out`])).toBe(await evaluate([`${flake}#image`]))
    expect(await evaluate([`${flake}#outputs^dev`])).toMatch(/-outputs-dev$/)
  })

  test('of a file with arguments', async () => {
    const file = ['--file', join(folder, 'image.nix')]
    expect(await evaluate([...file, '--argstr', 'name', 'other', 'images.app'])).toMatch(/-other$/)
    expect(await evaluate([...file, '--argstr', 'name', 'third', 'images.app'])).toMatch(/-third$/)
  })

  test('of a file that is a function, with the same arguments', async () => {
    const file = join(folder, 'function.nix')
    const attributes = 'name = name + toString count; inherit text other;'
    await writeFile(file, `{ name, text, count ? 0, other ? "x", ... }: ${derivation(attributes)}`)
    const nixArgs = ['--argstr', 'name', 'app', '--arg', 'count', '20 + 2 # sum', '--argstr', 'text', '"${x}\\n\n$']
    const options = ['--file', file, '--argstr', 'system', 'x86_64-linux']
    const path = await evaluate([...options, ''], { nixArgs })
    expect(path).toMatch(/-app22$/)
    expect(await build(...nixArgs, ...options, '')).toBe(path)
  })

  test('of another system', async () => {
    const path = await evaluate([`path:${folder}/flake#image`], { runnerSystem: 'aarch64-linux' })
    expect(path).toMatch(/-image\.tar\.gz$/)
  })

  test('of another system whose evaluation builds a derivation first', async () => {
    // No machine that runs the tests has this system.
    const system = 'riscv64-linux'
    const shell = (attributes: string) => `derivation { system = "${system}"; builder = "/bin/sh"; ${attributes} }`
    const named = shell(`name = "name"; args = [ "-c" "echo '\\"image-by-name\\"' > $out" ];`)
    await writeFile(join(folder, 'imported.nix'), shell(`name = import (${named});`))
    expect(await evaluate(['--file', join(folder, 'imported.nix'), ''], { system })).toMatch(/-image-by-name$/)
  })

  test('of a given store path', async () => {
    const path = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
    expect(await evaluate([path])).toBe(path)
  })
})

describe('the store path is not known before the build', () => {
  test.each([
    ['of a content-addressed derivation', '#addressed'],
    ['of an expression that fails', '#failing'],
    ['of a missing attribute', '#nonesuch'],
    ['of a value that is not a derivation', '#text'],
    ['of all outputs', '#image^*'],
    ['of several outputs', '#image^dev,out'],
  ])('%s', async (_, attribute) => {
    expect(await evaluate([`path:${folder}/flake${attribute}`])).toBeUndefined()
  })

  test.each([
    ['lacks an argument', []],
    ['has an argument from a file', ['--argstr', 'name', 'app', '--arg-from-file', 'text', '/etc/hostname']],
  ])('of a function that %s', async (_, nixArgs) => {
    const file = join(folder, 'text.nix')
    await writeFile(file, `{ name, text ? "" }: ${derivation('inherit name text;')}`)
    expect(await evaluate(['--file', file, ''], { nixArgs })).toBeUndefined()
  })

  test('of a link to a store path', async () => {
    await symlink(`/nix/store/${'0'.repeat(32)}-image.tar.gz`, join(folder, 'result'))
    expect(await evaluate(['./result'])).toBeUndefined()
  })

  test('of a derivation in the store', async () => {
    expect(await evaluate([`/nix/store/${'0'.repeat(32)}-image.tar.gz.drv`])).toBeUndefined()
  })

  test('with an argument that only `nix build` accepts', async () => {
    expect(await evaluate([`path:${folder}/flake#image`], { nixArgs: ['--rebuild'] })).toBeUndefined()
  })
})
