import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { withTempFolder } from '../src/temp-folder.ts'

let parent: string

beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'temp-folder-'))
})
afterEach(() => rm(parent, { recursive: true }))

test('a folder is there while it is worked with, and gone afterwards', async () => {
  const files = await withTempFolder(parent, async (folder) => {
    await writeFile(join(folder, 'file'), '')
    return readdir(folder)
  })
  expect(files).toEqual(['file'])
  expect(await readdir(parent)).toEqual([])
})

test('it is gone after a failure, too', async () => {
  const work = withTempFolder(parent, () => Promise.reject(new Error('broken')))
  await expect(work).rejects.toThrow('broken')
  expect(await readdir(parent)).toEqual([])
})

test('what a process has left that was killed is taken away, and nothing else', async () => {
  const ended = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await once(ended, 'exit')
  for (const name of [
    `nix-image-action-${ended.pid}-left`,
    `nix-image-action-${process.ppid}-used`,
    'nix-image-action-mine',
    'other',
  ])
    await mkdir(join(parent, name, 'deep'), { recursive: true })
  await withTempFolder(parent, async () => undefined)
  expect((await readdir(parent)).sort()).toEqual(
    [`nix-image-action-${process.ppid}-used`, 'nix-image-action-mine', 'other'].sort(),
  )
})
