import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { submodulesOf } from '../../src/nix/submodules.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(await realpath(tmpdir()), 'submodules-'))
  await mkdir(join(folder, '.git'))
  await mkdir(join(folder, 'apps/server'), { recursive: true })
  const modules =
    '[submodule "lib"]\n\tpath = vendor/lib\n\turl = ../lib\n[submodule "docs"]\n  path = "my docs/"\n  url = x\n'
  await writeFile(join(folder, '.gitmodules'), modules)
})
afterAll(() => rm(folder, { recursive: true }))

test('the submodules around a flake are read, wherever the flake is in its repository', async () => {
  for (const flake of ['', '/apps/server', '?dir=apps/server'])
    expect(await submodulesOf(`${folder}${flake}`)).toEqual(['vendor/lib', 'my docs'])
  expect(await submodulesOf(`git+file://${folder}`)).toEqual(['vendor/lib', 'my docs'])
})

test('a flake that Nix fetches, or that is in no repository, has none', async () => {
  expect(await submodulesOf('github:owner/app')).toEqual([])
  expect(await submodulesOf('/nonexistent/flake')).toEqual([])
})
