import { mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { addLocalImage } from '../../src/push/local-image.ts'
import { makeArchive } from '../support/image.ts'
import { makeLayout, storeLayout } from '../support/layout.ts'
import { PLAIN_SETUP } from '../support/nix.ts'

const { PATH } = process.env
const directory = process.cwd()
const STORE_PATH = `/nix/store/${'0'.repeat(32)}-app.tar`

let folder: string
let workspace: string
let lines: string[]

beforeEach(async () => {
  folder = await mkdtemp(join(await realpath(tmpdir()), 'local-image-'))
  workspace = join(folder, 'workspace')
  await mkdir(join(workspace, 'images'), { recursive: true })
  await writeFile(join(workspace, 'images/app.tar'), makeArchive().bytes)
  await nixStoreIs(`echo ${STORE_PATH}`)
  process.chdir(workspace)
  lines = []
})
afterEach(async () => {
  process.chdir(directory)
  process.env.PATH = PATH
  await rm(folder, { recursive: true })
})

async function nixStoreIs(script: string): Promise<void> {
  const program = `#!/bin/sh\necho "$*" >> '${join(folder, 'calls')}'\n${script}\n`
  await writeFile(join(folder, 'nix-store'), program, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${PATH}`
}

function add(text: string): ReturnType<typeof addLocalImage> {
  const write = (line: string): void => void lines.push(line)
  return addLocalImage({ options: [], text, name: text }, 'x86_64-linux', PLAIN_SETUP, {
    info: write,
    warning: write,
    debug: write,
  })
}

async function calls(): Promise<string> {
  return readFile(join(folder, 'calls'), 'utf8').catch(() => '')
}

describe('an image on disk', () => {
  test.each(['./images/app.tar', 'images/app.tar', 'app.tar', '../elsewhere/app.tar'])(
    'is added to the store: %s',
    async (text) => {
      await mkdir(join(folder, 'elsewhere'))
      for (const copy of [join(workspace, 'app.tar'), join(folder, 'elsewhere/app.tar')])
        await writeFile(copy, makeArchive().bytes)
      expect(await add(text)).toEqual({ options: [], text: STORE_PATH, name: text })
      expect(await calls()).toBe(`--add ${join(workspace, text)}\n`)
      expect(lines).toEqual([
        `${text} is an image already, so Nix does not build it. It was added to the Nix store as ${STORE_PATH}`,
      ])
    },
  )

  test('may be an OCI layout', async () => {
    const layout = await storeLayout(workspace, makeLayout().files, 'folder')
    expect(await add(layout)).toMatchObject({ text: STORE_PATH })
    expect(await calls()).toBe(`--add ${layout}\n`)
  })

  test('may be a link within the workspace, whose target is added', async () => {
    await symlink('images/app.tar', join(workspace, 'latest.tar'))
    expect(await add('./latest.tar')).toMatchObject({ text: STORE_PATH })
    expect(await calls()).toBe(`--add ${join(workspace, 'images/app.tar')}\n`)
  })
})

describe('Nix handles', () => {
  test.each([
    ['a flake', './flake'],
    ['a flake in a folder with an OCI layout', './both'],
    ['a folder', './images'],
    ['a missing file', './images/other.tar'],
    ['a name in the flake registry', 'app'],
    ['an attribute', './images/app.tar#image'],
    ['a link to the store', './result'],
    ['a reference', 'github:owner/app'],
  ])('%s', async (_, text) => {
    for (const name of ['flake', 'both']) {
      await mkdir(join(workspace, name))
      await writeFile(join(workspace, name, 'flake.nix'), '{}')
    }
    await writeFile(join(workspace, 'both/oci-layout'), '{}')
    await writeFile(join(workspace, 'app'), makeArchive().bytes)
    await symlink(STORE_PATH, join(workspace, 'result'))
    expect(await add(text)).toBeUndefined()
    expect(await calls()).toBe('')
  })
})

describe('nothing is added, and the error says why, for', () => {
  test('a link that leads out of the workspace', async () => {
    await writeFile(join(folder, 'secret.tar'), makeArchive().bytes)
    await symlink('../secret.tar', join(workspace, 'app.tar'))
    await expect(add('./app.tar')).rejects.toThrow(
      `The input \`installable\` is "./app.tar", a link that leads out of ${workspace}\nNothing was read. Copy the file to where the link is.`,
    )
    expect(await calls()).toBe('')
  })

  test.each([
    [
      'a script',
      '#!/bin/sh\n',
      /^The input `installable` is "\.\/file", which is a script, not an archive of an image\nName/,
    ],
    ['what nix2container describes', '{"image-config":{},"layers":[]}', /which is JSON, not an archive of an image\n/],
    [
      'expressions',
      'let pkgs = import <nixpkgs> { }; in pkgs.hello',
      /workspace\/file is not an image\n {2}the file is text\n/,
    ],
  ])('%s', async (_, content, message) => {
    await writeFile(join(workspace, 'file'), content)
    await expect(add('./file')).rejects.toThrow(message)
    expect(await calls()).toBe('')
  })

  test('an image that Nix refuses', async () => {
    await nixStoreIs('echo "error: writing to file: No space left on device" >&2; exit 1')
    await expect(add('./images/app.tar')).rejects.toThrow(
      /^Nix could not add \.\/images\/app\.tar to its store\n {2}error: writing to file: No space left on device\nThe disk is full \(now /,
    )
  })

  test('an image on a runner without Nix', async () => {
    process.env.PATH = ''
    await expect(add('./images/app.tar')).rejects.toThrow(/^Nix is not installed on this runner\nInstall it/)
  })
})
