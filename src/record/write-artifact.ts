import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { RecordError } from '../errors.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import { sanitizeLine } from '../text.ts'
import {
  ArtifactError,
  type ArtifactSettings,
  type CallClient,
  isNameTaken,
  openArtifactCalls,
} from './artifact-client.ts'
import { assertBelongs, type FoundRecord, jobArtifactName, numberedNames, originOfArtifact } from './artifact-name.ts'
import { isGitea, reservesNames } from './artifact-requests.ts'
import { downloadRecord, type ListedArtifact, listArtifacts } from './read-artifacts.ts'
import { type DigestRecord, parseRecord, replacedBy, sameJob, serializeRecord } from './record.ts'

/**
 * Writes a record to an artifact. Replaces artifacts of earlier attempts of the same job. Keeps those of other jobs and
 * uses the next name, so that merge reads both.
 * @param retentionDays from 1 to 90
 * @throws RecordError, also if another job has handed over a conflicting record; this record is written nevertheless
 */
export async function writeRecord(
  record: DigestRecord,
  retentionDays: number,
  settings: ArtifactSettings,
): Promise<void> {
  await withTempFolder(settings.tempFolder, async (folder) => {
    const calls = openArtifactCalls(settings)
    const file = join(folder, FILE)
    await writeFile(file, `${serializeRecord(record)}\n`)
    const taken = new Set<string>()
    // Each retry reads the artifacts again: if only the response was lost, the record has been written.
    await calls.persist((call) => writeArtifact({ record, file, retentionDays, taken, call }))
  })
}

const FILE = 'digest.json'

/** A record that is being written. */
interface Writing {
  readonly record: DigestRecord
  /** Contains the record. Downloads go to the same folder. */
  readonly file: string
  readonly retentionDays: number
  /** Names of uploads that broke off, which stay unusable. Filled while writing. */
  readonly taken: Set<string>
  readonly call: CallClient
}

/**
 * Writes a record, unless it has been written already.
 * @throws RecordError for a conflict, after writing the record
 */
async function writeArtifact(writing: Writing): Promise<void> {
  // These servers let any job overwrite an artifact. Conflicts are found by merge.
  if (!reservesNames()) return void (await uploadAs(writing, jobArtifactName(writing.record)))
  const others: OtherRecords = { names: new Set(writing.taken), conflicts: [] }
  // In the first attempt of a run, the name is rarely taken: skip the request.
  const existing = writing.record.run.attempt === 1 ? [] : await listNumbered(writing)
  if (!(await replaceEarlier(writing, existing, others))) await upload(writing, others)
  const [conflict] = others.conflicts
  if (conflict !== undefined) throw conflict
}

/** The records that other jobs have written for the same image, system and variant. */
interface OtherRecords {
  /** The names of their artifacts, and names that can't be used. */
  readonly names: Set<string>
  readonly conflicts: RecordError[]
}

/**
 * Deletes artifacts of earlier attempts of this job. Keeps an artifact with an equal record: equal builds may run at the
 * same time.
 * @returns whether an artifact contains this record
 */
async function replaceEarlier(
  writing: Writing,
  artifacts: readonly ListedArtifact[],
  others: OtherRecords,
): Promise<boolean> {
  const found: { readonly artifact: ListedArtifact; readonly content: DigestRecord | undefined }[] = []
  for (const artifact of artifacts) found.push({ artifact, content: await readExisting(writing, artifact) })
  const records = found.flatMap(({ content }) => content ?? [])
  const own = replacedBy(writing.record, records)
  let written = false
  for (const { artifact, content } of found) {
    const relation = relationTo(writing.record, content, own)
    if (relation === 'equal') written = true
    else if (relation === 'replaceable') await deleteArtifact(writing.call, artifact)
    else others.names.add(artifact.name)
    if (relation instanceof RecordError) others.conflicts.push(relation)
  }
  return written
}

/** Deletes an artifact, unless another build deletes it first. */
async function deleteArtifact(call: CallClient, artifact: ListedArtifact): Promise<void> {
  try {
    await call(`replace the artifact ${artifact.name}`, (client) => client.deleteArtifact(artifact.name))
  } catch (error) {
    if (await isListed(call, artifact)) throw error
  }
}

/** Lists the artifacts that have one of the names of a record. */
async function listNumbered({ record, call }: Writing): Promise<readonly ListedArtifact[]> {
  const names = numberedNames(record)
  return (await listArtifacts(call)).filter(({ name }) => names.includes(name))
}

async function isListed(call: CallClient, { id }: ListedArtifact): Promise<boolean> {
  return (await listArtifacts(call)).some((artifact) => artifact.id === id)
}

/**
 * Uploads under the first free name. An upload that broke off keeps its name: its artifact is neither listed nor can it be
 * deleted (dotnet/orleans#10961).
 */
async function upload(writing: Writing, others: OtherRecords): Promise<void> {
  const { call, taken } = writing
  let refusal: unknown
  for (const name of numberedNames(writing.record)) {
    if (others.names.has(name)) continue
    refusal = await uploadAs(writing, name)
    if (refusal === undefined) return
    const existing = (await listArtifacts(call)).find((artifact) => artifact.name === name)
    if (existing === undefined) {
      taken.add(name)
      continue
    }
    if (await replaceEarlier(writing, [existing], others)) return
    if (others.names.has(name)) continue
    refusal = await uploadAs(writing, name)
    if (refusal === undefined) return
  }
  throw refusal
}

/** @returns the error if the name is taken */
async function uploadAs({ call, file, retentionDays }: Writing, name: string): Promise<unknown> {
  try {
    // Gitea rounds the remaining time down to whole days.
    const options = { retentionDays: isGitea() ? retentionDays + 1 : retentionDays }
    await call(`write the artifact ${name}`, (client) => client.uploadArtifact(name, [file], dirname(file), options))
    return undefined
  } catch (error) {
    if (!isNameTaken(error)) throw error
    return error
  }
}

const NOT_REPLACED =
  'It may contain the record of another job of this run, so it is not replaced. Run this job again. If that does not help and no other job builds this system, delete the artifact on the page of the run.'

/**
 * Reads the record of an artifact.
 * @returns undefined if it contains no record, so that it can be replaced
 * @throws RecordError, also for a record that does not belong in the artifact
 */
async function readExisting(
  { record, call, file }: Writing,
  artifact: ListedArtifact,
): Promise<DigestRecord | undefined> {
  const found = await downloadRecord(call, artifact, dirname(file)).then(parseIfValid, async (error: unknown) => {
    if (!(error instanceof RecordError)) throw error
    // An artifact that can't be downloaded may be another job's, unless it has been deleted in the meantime.
    if (!(error instanceof ArtifactError) || !(await isListed(call, artifact))) return undefined
    throw new ArtifactError({ ...error.parts, hint: NOT_REPLACED }, error.attempts, error.retryAfter)
  })
  if (found !== undefined) assertBelongs(found, artifact.name, record.run)
  return found
}

/**
 * Compares a record with what an artifact contains.
 * @param own the records of earlier attempts of the same job
 * @returns `other` for a record of another job, an error for one that contradicts the new record
 */
function relationTo(
  record: DigestRecord,
  found: DigestRecord | undefined,
  own: readonly DigestRecord[],
): 'equal' | 'replaceable' | 'other' | RecordError {
  if (found === undefined || own.includes(found)) return 'replaceable'
  if (isDeepStrictEqual(found, record)) return 'equal'
  if (found.digest === record.digest) return 'replaceable'
  return sameJob(record, found) ? conflictError(record, found) : 'other'
}

/** Returns the error for two jobs that the runner calls the same, but that have built different images. */
function conflictError(record: DigestRecord, found: DigestRecord): RecordError {
  const { image, system } = record
  return new RecordError({
    message: `Two jobs of this run have pushed an image of ${image} for ${system}`,
    detail: `${found.digest} by the job "${sanitizeLine(found.job.id)}"${formatAttempt(found)}\n${record.digest} by the job "${record.job.id}", this one`,
    hint: `If the workflow builds several images of ${image}, give each its own name in the build and the merge:
  variant: debug
If a single job has built a different commit than in an earlier attempt, change nothing. In both cases, start a new run: this run keeps both records.`,
  })
}

function formatAttempt({ run }: DigestRecord): string {
  return run.attempt === 1 ? '' : `, attempt ${run.attempt}`
}

export function parseIfValid({ text, artifact }: FoundRecord): DigestRecord | undefined {
  try {
    return parseRecord(text, originOfArtifact(artifact))
  } catch {
    return undefined
  }
}
