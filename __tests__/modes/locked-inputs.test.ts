import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { findLockedInputs } from '../../src/modes/locked-inputs.ts'

const rev = '0123456789abcdef0123456789abcdef01234567'
const nixpkgs = {
  name: 'nixpkgs',
  uri: `git+https://github.com/NixOS/nixpkgs@${rev}`,
  digest: { gitCommit: rev },
}
const source = { flake: '.', installable: '', file: '', nixArgs: [] }

let folder: string
const lines: string[] = []
const log = { info: (line: string) => void lines.push(line), warning: () => undefined, debug: () => undefined }

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'locked-'))
  await writeFile(join(folder, 'flake.lock'), lockOf(1))
  lines.length = 0
})

afterEach(() => rm(folder, { recursive: true }))

function lockOf(count: number): string {
  const locked = { type: 'github', owner: 'NixOS', repo: 'nixpkgs', rev }
  const inputs = Array.from({ length: count }, (_, at) => [`nixpkgs${at === 0 ? '' : at}`, { locked }])
  return JSON.stringify({ version: 7, root: 'root', nodes: { root: {}, ...Object.fromEntries(inputs) } })
}

describe('the inputs of a flake are those of its lock file', () => {
  test.each([
    ['a path', (path: string) => ({ flake: path })],
    ['a URL of a path', (path: string) => ({ flake: `path:${path}` })],
    ['a Git repository', (path: string) => ({ flake: `git+file://${path}` })],
    ['an installable', (path: string) => ({ installable: `${path}#app` })],
  ])('if it is %s', async (_, sourceOf) => {
    expect(await findLockedInputs({ ...source, ...sourceOf(folder) }, log)).toEqual([nixpkgs])
  })

  test('if it is in a subfolder', async () => {
    await mkdir(join(folder, 'sub'))
    await writeFile(join(folder, 'sub/flake.lock'), lockOf(0))
    expect(await findLockedInputs({ ...source, flake: `${folder}?dir=sub` }, log)).toEqual([])
  })
})

describe('the inputs are unknown', () => {
  test.each([
    ['of a flake that Nix fetches', { flake: 'github:owner/app' }],
    ['of a flake from the registry', { installable: 'nixpkgs#hello' }],
    ['if an input is replaced', { nixArgs: ['--override-input', 'nixpkgs', 'github:NixOS/nixpkgs/master'] }],
    ['if the lock file is not written', { nixArgs: ['--no-write-lock-file'] }],
    ['if another lock file is written', { nixArgs: ['--output-lock-file', 'other.lock'] }],
    ['of a file', { file: 'default.nix' }],
    ['of an archive', { installable: './image.tar.gz' }],
  ])('%s', async (_, more) => {
    expect(await findLockedInputs({ ...source, flake: folder, ...more }, log)).toBeUndefined()
    expect(lines).toEqual([])
  })

  test.each(['ref=main', `rev=${rev}`])(
    'of a Git repository with ?%s, whose lock file is of another commit',
    async (query) => {
      expect(await findLockedInputs({ ...source, flake: `git+file://${folder}?${query}` }, log)).toBeUndefined()
      expect(lines).toEqual([])
    },
  )

  test('of a flake without a lock file', async () => {
    await rm(join(folder, 'flake.lock'))
    expect(await findLockedInputs({ ...source, flake: folder }, log)).toBeUndefined()
    expect(lines).toEqual([])
  })

  test.each([
    ['is not valid', () => writeFile(join(folder, 'flake.lock'), '{'), 'is not a valid lock file'],
    ['has too many inputs for a record', () => writeFile(join(folder, 'flake.lock'), lockOf(200)), 'too many'],
    [
      'is a link out of the folder',
      async () => {
        await rm(join(folder, 'flake.lock'))
        await symlink('/etc/passwd', join(folder, 'flake.lock'))
      },
      'is a link that leads out of',
    ],
  ])('if the lock file %s, and the log says so', async (_, prepare, why) => {
    await prepare()
    expect(await findLockedInputs({ ...source, flake: folder }, log)).toBeUndefined()
    expect(lines).toEqual([expect.stringContaining(why)])
  })
})
