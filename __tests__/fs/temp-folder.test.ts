import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { adviceForDisk } from '../../src/actions/advice.ts'
import { DiskError } from '../../src/errors.ts'
import { removeTempFolders, withTempFolder } from '../../src/fs/temp-folder.ts'

let parent: string

beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'temp-folder-'))
})
afterEach(() => rm(parent, { recursive: true }))

test('a temporary folder exists while it is used, and is removed afterwards', async () => {
  const files = await withTempFolder(parent, async (folder) => {
    await writeFile(join(folder, 'file'), '')
    return readdir(folder)
  })
  expect(files).toEqual(['file'])
  expect(await readdir(parent)).toEqual([])
})

test('a temporary folder is removed after a failure', async () => {
  const work = withTempFolder(parent, () => Promise.reject(new Error('broken')))
  await expect(work).rejects.toThrow('broken')
  expect(await readdir(parent)).toEqual([])
})

test('the folders of other processes are left to the runner', async () => {
  const ended = spawnSync(process.execPath, ['--version'])
  const names = [`nix-image-action-${ended.pid}-left`, 'nix-image-action-mine', 'other']
  for (const name of names) await mkdir(join(parent, name, 'deep'), { recursive: true })
  await withTempFolder(parent, async () => undefined)
  expect((await readdir(parent)).sort()).toEqual(names.sort())
})

test('folders in use are removed when the process is about to exit', async () => {
  await withTempFolder(parent, async (folder) => {
    await writeFile(join(folder, 'file'), '')
    removeTempFolders()
    expect(await readdir(parent)).toEqual([])
  })
})

const inWork = (code: string, path?: string) => () =>
  withTempFolder(parent, () => Promise.reject(Object.assign(new Error(`${code}: so it is`), { code, path })))

test.each([
  ['the disk is full', 'ENOSPC', 'Hosted runners guarantee 14 GB'],
  ['the disk quota of this user is exhausted', 'EDQUOT', 'Hosted runners guarantee 14 GB'],
  ['the file system is read-only', 'EROFS', 'Make /'],
  ['permission denied', 'EACCES', "Let the runner's user write to /"],
  ['the limit of open files is reached', 'EMFILE', 'ulimit -n 1024'],
])('a failed write is explained with the folder, the free space and what to do: %s', async (reason, code, advice) => {
  const failure = await inWork(code)().catch((error: unknown) => error)
  if (!(failure instanceof DiskError)) throw failure
  const { message } = failure
  expect(message).toContain(`Can't write temporary files to ${parent}: ${reason}\n  ${code}: so it is\n`)
  expect(message).toMatch(/B are free for/)
  expect(message).not.toMatch(/runner/)
  expect(adviceForDisk(failure)).toContain(advice)
  expect(adviceForDisk(failure)).toMatch(/Then re-run this job\.$/)
})

test('the error about a missing parent folder names it', async () => {
  const missing = join(parent, 'missing')
  await expect(withTempFolder(missing, async () => undefined)).rejects.toThrow(
    `Can't write temporary files to ${missing}: it does not exist`,
  )
})

test('an error about files elsewhere is not blamed on the temporary folder', async () => {
  await expect(inWork('ENOENT', '/nix/store/app')()).rejects.not.toBeInstanceOf(DiskError)
})
