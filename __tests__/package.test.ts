import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'

// The package that the release workflow publishes to npm.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)

let folder: string
let published: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'package-'))
  published = join(folder, 'package')
  await run(process.execPath, [join(checkout, 'scripts/package.mjs'), published])
})
afterEach(() => rm(folder, { recursive: true }))

async function npm(...args: readonly string[]): Promise<string> {
  const quiet = ['--offline', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error']
  // Not the configuration of the developer.
  const env = { PATH: process.env.PATH, HOME: folder }
  return (await run('npm', [...args, ...quiet], { cwd: folder, env })).stdout
}

test('the package contains the command, its program and its licenses, and nothing else', async () => {
  const [{ files }] = JSON.parse(await npm('pack', '--dry-run', '--json', published))
  const paths = files.map(({ path }: { readonly path: string }) => path)
  const program = (await readdir(join(checkout, 'dist'))).map((name) => `dist/${name}`)
  const expected = ['LICENSE', 'README.md', 'bin/main.js', 'package.json', ...program]
  expect(paths.toSorted()).toEqual(expected.toSorted())
  expect(paths).toEqual(expect.arrayContaining(['dist/index.js', 'dist/licenses.txt']))
})

test('installing it installs no other package, and makes the command available', async () => {
  const [{ filename }] = JSON.parse(await npm('pack', '--json', published))
  await npm('install', '--prefix', join(folder, 'project'), join(folder, filename))
  const modules = join(folder, 'project/node_modules')
  expect((await readdir(modules)).filter((name) => !name.startsWith('.'))).toEqual(['nix-image-action'])
  const { version } = JSON.parse(await readFile(join(checkout, 'package.json'), 'utf8'))
  const { stdout } = await run(join(modules, '.bin/nix-image-action'), ['--version'], {
    env: { PATH: process.env.PATH },
  })
  expect(stdout).toBe(`${version}\n`)
})

test('the checkout itself, whose package.json has the dependencies, can’t be published', async () => {
  const manifest = JSON.parse(await readFile(join(checkout, 'package.json'), 'utf8'))
  expect(manifest).toMatchObject({ private: true, publishConfig: { access: 'public', provenance: true } })
})
