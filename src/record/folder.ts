import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, RecordError } from '../errors.ts'
import { diskFailure } from '../fs/disk.ts'
import { artifactName } from './artifact-name.ts'
import { type DigestRecord, parseRecord, serializeRecord } from './record.ts'

/** A record from a file. */
export interface FileRecord {
  readonly record: DigestRecord
  /** Where it comes from, for errors. */
  readonly origin: string
}

/**
 * Writes a record to a file of a folder, which is created if it is missing. Replaces the record of an earlier build of the
 * same image, variant and system.
 * @returns the path of the file
 * @throws DiskError
 */
export async function writeRecordFile(record: DigestRecord, folder: string): Promise<string> {
  const file = join(folder, `${artifactName(record)}.json`)
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(file, `${serializeRecord(record)}\n`)
    return file
  } catch (error) {
    throw await diskFailure(`Can't write the digest record to ${file}`, folder, error)
  }
}

/**
 * Reads all records in a folder. Returns none if it does not exist.
 * @throws RecordError if a file can't be read or is not valid
 */
export async function readRecordFiles(folder: string): Promise<readonly FileRecord[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw unreadable(folder, error)
  })
  const files = names.filter((name) => name.endsWith('.json')).sort()
  return Promise.all(
    files.map(async (name) => {
      const file = join(folder, name)
      const text = await readFile(file, 'utf8').catch((error: unknown) => {
        throw unreadable(file, error)
      })
      const origin = `the file ${file}`
      return { record: parseRecord(text, origin), origin }
    }),
  )
}

function unreadable(path: string, error: unknown): RecordError {
  return new RecordError({
    message: `Can't read the digest records in ${path}`,
    detail: messageOf(error),
    cause: error,
  })
}
