import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { ActionError } from '../../src/errors.ts'
import { withTempFolder } from '../../src/fs/temp-folder.ts'

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

const inWork = (code: string, path?: string) => () =>
  withTempFolder(parent, () => Promise.reject(Object.assign(new Error(`${code}: so it is`), { code, path })))

test.each([
  ['the disk is full', 'ENOSPC', 'Hosted runners guarantee 14 GB'],
  ["the disk quota of the runner's user is used up", 'EDQUOT', 'Hosted runners guarantee 14 GB'],
  ['the file system is read-only', 'EROFS', 'Make /'],
  ['permission denied', 'EACCES', "Let the runner's user write to /"],
  ['the runner has reached its limit of open files', 'EMFILE', 'ulimit -n 1024'],
])('a folder that can’t be written to is named, with what is free and what to do: %s', async (reason, code, hint) => {
  const failure = await inWork(code)().catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(ActionError)
  const { message } = failure as ActionError
  expect(message).toContain(`Can't write temporary files to ${parent}: ${reason}\n  ${code}: so it is\n`)
  expect(message).toMatch(/B are free for/)
  expect(message).toContain(hint)
  expect(message).toMatch(/Then re-run this job\.$/)
})

test('a folder that does not exist is named', async () => {
  const missing = join(parent, 'missing')
  await expect(withTempFolder(missing, async () => undefined)).rejects.toThrow(
    `Can't write temporary files to ${missing}: it does not exist`,
  )
})

test('an error about files elsewhere is not about the folder', async () => {
  await expect(inWork('ENOENT', '/nix/store/app')()).rejects.not.toBeInstanceOf(ActionError)
})
