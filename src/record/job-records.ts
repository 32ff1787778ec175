import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { diskFailure } from '../fs/disk.ts'
import { type DigestRecord, parseRecord, serializeRecord } from './record.ts'

/** A record that a build has written for a merge in the same job. */
export interface JobRecord {
  readonly record: DigestRecord
  /** Where it comes from, for errors. */
  readonly origin: string
}

/** In the runner's temporary folder, which the steps of a job share. */
const FOLDER = 'nix-image-action-records'

/**
 * Writes a record for a merge in the same job, which then needs no artifact service.
 * @param tempFolder `RUNNER_TEMP`
 */
export async function writeJobRecord(record: DigestRecord, tempFolder: string): Promise<void> {
  const folder = join(tempFolder, FOLDER)
  const hash = createHash('sha256').update(serializeRecord(record)).digest('hex')
  const file = join(folder, `${hash}.json`)
  try {
    await mkdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
    await writeFile(file, `${serializeRecord(record)}\n`)
  } catch (error) {
    throw await diskFailure(`Can't write the digest record to ${file}`, tempFolder, error)
  }
}

/**
 * Reads the records of builds in this job.
 * @param run this run; ignores files of earlier jobs on the runner
 * @throws RecordError if one is not valid
 */
export async function readJobRecords(tempFolder: string, run: DigestRecord['run']): Promise<readonly JobRecord[]> {
  const folder = join(tempFolder, FOLDER)
  const names = await readdir(folder).catch(() => [])
  const files = names.filter((name) => name.endsWith('.json')).map((name) => join(folder, name))
  const texts = await Promise.all(files.map(async (file) => ({ file, text: await readFile(file, 'utf8') })))
  return texts.flatMap(({ file, text }) => {
    const origin = `the file ${basename(file)} of this job`
    const record = parseRecord(text, origin)
    return record.run.id === run.id && record.run.attempt === run.attempt ? [{ record, origin }] : []
  })
}
