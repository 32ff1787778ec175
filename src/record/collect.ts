import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { RecordError } from '../errors.ts'
import { diskFailure } from '../fs/disk.ts'
import type { JobLog } from '../log.ts'
import { type Digest, isDigest } from '../oci/reference.ts'
import { NoArtifactService } from './artifact-client.ts'
import { originOfArtifact, readFoundRecord } from './artifact-name.ts'
import { type FileRecord, readRecordFiles } from './folder.ts'
import { type ArtifactChoice, readRecords } from './read-artifacts.ts'
import { type DigestRecord, parseRecord, serializeRecord } from './record.ts'

/** A digest that a build has handed over, which may go into the index. */
export interface Candidate {
  readonly digest: Digest
  /** Absent for a bare digest. */
  readonly record?: DigestRecord
  /** Where it comes from, for errors. */
  readonly origin: string
}

/** Where to collect candidates. */
export interface CollectSettings {
  /** Records or digests as text. Absent: they are in the artifacts of the run and the files of this job. */
  readonly digests?: readonly string[] | undefined
  /** Names the artifacts of other actions, which are always read. Empty: none. */
  readonly artifactPattern: string
  readonly push: boolean
}

/** The run that records belong to, and the temporary folder of its job. */
export interface CollectingRun {
  readonly run: DigestRecord['run']
  readonly tempFolder: string
  /** A folder with the records, in place of artifacts and files of the job. */
  readonly recordFolder?: string | undefined
}

/**
 * Collects what the builds have handed over.
 * @throws RecordError
 */
export async function collectCandidates(
  { digests, artifactPattern, push }: CollectSettings,
  job: CollectingRun,
  log: JobLog,
): Promise<readonly Candidate[]> {
  const listed = (digests ?? []).map((text, at) => candidateOf(text, `line ${at + 1} of \`digests\``))
  if (digests !== undefined && artifactPattern === '') return listed
  const own = digests === undefined
  if (job.recordFolder !== undefined) return own ? readRecordFolder(job.recordFolder, push) : listed
  const local = own ? await readJobRecords(job.tempFolder, job.run) : []
  const found = await collectArtifacts({ own, pattern: artifactPattern }, job, log).catch((error: unknown) => {
    // After builds with `push: false`, `digests` is empty, which looks like a missing input.
    if (own && error instanceof NoArtifactService && (local.length > 0 || !push)) return []
    throw error
  })
  return [...listed, ...local.map(candidateOfRecord), ...found]
}

/**
 * Collects what is in the artifacts of the run.
 * @throws RecordError
 */
export async function collectArtifacts(
  choice: ArtifactChoice,
  { run, tempFolder, recordFolder }: CollectingRun,
  log: JobLog,
): Promise<readonly Candidate[]> {
  if (recordFolder !== undefined) return []
  const found = await log.group('Collect the digests of the run', () => readRecords(choice, { tempFolder, log }))
  return found.map((one): Candidate => {
    if (one.kind === 'digest') return { digest: one.digest, origin: one.origin }
    const record = readFoundRecord(one, run)
    return { digest: record.digest, record, origin: originOfArtifact(one.artifact) }
  })
}

/** @throws RecordError if there are none, unless nothing is published */
async function readRecordFolder(folder: string, push: boolean): Promise<readonly Candidate[]> {
  const found = await readRecordFiles(folder)
  if (found.length > 0 || !push) return found.map(candidateOfRecord)
  throw new RecordError({
    message: `There are no digest records in ${folder}`,
    hint: 'Build the images first, with the same folder of records. Builds with `push: false` write no records.',
  })
}

function candidateOfRecord({ record, origin }: FileRecord): Candidate {
  return { digest: record.digest, record, origin }
}

/** Reads a line of `digests`, which may be of another run. */
function candidateOf(text: string, origin: string): Candidate {
  const digest = `sha256:${text.replace(/^sha256:/, '')}`
  if (isDigest(digest)) return { digest, origin }
  const record = parseRecord(text, origin)
  return { digest: record.digest, record, origin }
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
export async function readJobRecords(tempFolder: string, run: DigestRecord['run']): Promise<readonly FileRecord[]> {
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
