import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { readJobRecords, writeJobRecord } from '../../src/record/collect.ts'
import type { DigestRecord } from '../../src/record/record.ts'
import { makeRecord } from '../support/record.ts'

const run = { id: '42', attempt: 2 }
const record: DigestRecord = makeRecord({ run })

let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'job-records-'))
})

afterEach(() => rm(folder, { recursive: true }))

test('all records of a job are found, whatever they are of', async () => {
  const records = [record, { ...record, variant: 'debug' }, { ...record, digest: `sha256:${'2'.repeat(64)}` } as const]
  for (const one of records) await writeJobRecord(one, folder)
  const found = await readJobRecords(folder, run)
  expect(found.map((one) => one.record)).toEqual(expect.arrayContaining(records))
  expect(found).toHaveLength(records.length)
})

test('a job without builds has none', async () => {
  expect(await readJobRecords(folder, run)).toEqual([])
})

test('what other runs and attempts have left on the runner does not count', async () => {
  await writeJobRecord({ ...record, run: { id: '41', attempt: 2 } }, folder)
  await writeJobRecord({ ...record, run: { id: '42', attempt: 1 } }, folder)
  expect(await readJobRecords(folder, run)).toEqual([])
})

test('a folder that can’t be written to is an error that names it', async () => {
  const missing = join(folder, 'missing')
  await expect(writeJobRecord(record, missing)).rejects.toThrow(`Can't write the digest record to ${missing}/`)
})
