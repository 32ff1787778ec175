import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { readRecordFiles, writeRecordFile } from '../../src/record/folder.ts'
import { makeRecord } from '../support/record.ts'

let folder: string
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), 'records-')), 'new', 'records')
})
afterEach(() => rm(join(folder, '../..'), { recursive: true }))

const record = makeRecord({})

test('records travel through a folder, which is created for the first one', async () => {
  const others = [
    { ...record, variant: 'debug' },
    { ...record, image: 'ghcr.io/owner/other' },
  ]
  for (const one of [record, ...others]) await writeRecordFile(one, folder)
  const found = await readRecordFiles(folder)
  expect(found.map((one) => one.record)).toEqual(expect.arrayContaining([record, ...others]))
  expect(found).toHaveLength(3)
})

test('a new build of the same image and system replaces its record', async () => {
  await writeRecordFile(record, folder)
  const later = { ...record, digest: `sha256:${'2'.repeat(64)}` } as const
  const file = await writeRecordFile(later, folder)
  expect(await readdir(folder)).toHaveLength(1)
  expect(await readRecordFiles(folder)).toEqual([{ record: later, origin: `the file ${file}` }])
})

test('a missing folder has no records, and other files are none', async () => {
  expect(await readRecordFiles(folder)).toEqual([])
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'README'), '')
  expect(await readRecordFiles(folder)).toEqual([])
})

test('a file that is not a record is an error that names it', async () => {
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'a.json'), '{}')
  await expect(readRecordFiles(folder)).rejects.toThrow(`The digest record in the file ${folder}/a.json is not valid`)
})

test('a folder that can’t be written to is an error that names the file', async () => {
  await expect(writeRecordFile(record, '/dev/null/records')).rejects.toThrow(
    "Can't write the digest record to /dev/null/records/",
  )
})
