import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { messageOf, sanitizeLine } from '../errors.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import { type Digest, isDigest } from '../oci/digest.ts'
import { settleAll } from '../settle-all.ts'
import { formatBytes } from '../units.ts'
import {
  ArtifactError,
  type CallClient,
  type CallSettings,
  FEW_ATTEMPTS,
  isGitea,
  isNameTaken,
  NoArtifactService,
  openArtifactCalls,
  reservesNames,
} from './artifact-client.ts'
import { type DigestRecord, parseRecord, RecordError, replacedBy, sameJob, serializeRecord } from './record.ts'
import { readZip, type ZipFile } from './zip.ts'

export { NoArtifactService }

/** The text of an artifact of this action, which is not checked yet. */
export interface FoundRecord {
  readonly kind: 'record'
  /** The artifact's name. */
  readonly artifact: string
  readonly text: string
}

/** A digest that another action's artifact holds. */
export interface FoundDigest {
  readonly kind: 'digest'
  readonly digest: Digest
  /** Where it is from, for errors. */
  readonly origin: string
}

/** Names an artifact in a message. Other jobs choose its name. */
export function originOfArtifact(name: string): string {
  return `the artifact ${sanitizeLine(name)}`
}

/** What an artifact is named after. */
export type RecordKey = Pick<DigestRecord, 'image' | 'system' | 'variant'>

/**
 * The name of the artifact that holds the record of an image, variant and system. Part of it is readable; a hash keeps
 * apart names that look alike once the characters are gone that artifacts can't have in their names.
 * @param place from 1, if the first can't be had; or what names the job, if the service does not reserve names
 */
export function artifactName({ image, system, variant }: RecordKey, place: number | string = 1): string {
  const readable = image.replace(/[^a-z0-9.-]+/g, '-').slice(0, 120)
  // No image name has a space in it.
  const whole = variant === undefined ? image : `${image} ${variant}`
  const hash = createHash('sha256').update(whole).digest('hex').slice(0, 8)
  const parts = [readable, `${hash}${place === 1 ? '' : `.${place}`}`, variant, system]
  return `${PREFIX}${parts.filter((part) => part !== undefined).join('-')}`
}

/**
 * Reads the record of an artifact. Any job of the run can write one, so it must belong where it was found: it is of
 * this run, not of a later attempt, and in an artifact of its image and system.
 * @throws RecordError
 */
export function readFoundRecord({ artifact, text }: FoundRecord, run: DigestRecord['run']): DigestRecord {
  const record = parseRecord(text, originOfArtifact(artifact))
  assertBelongs(record, artifact, run)
  return record
}

function assertBelongs(record: DigestRecord, artifact: string, run: DigestRecord['run']): void {
  const { image, system, variant } = record
  const wrong = [
    record.run.id === run.id ? [] : `its run is ${sanitizeLine(record.run.id).slice(0, 64)}, and this run is ${run.id}`,
    // Gitea counts the attempts of each job.
    record.run.attempt <= run.attempt || !reservesNames()
      ? []
      : `its attempt is ${record.run.attempt}, and this attempt is ${run.attempt}`,
    [...candidateNames(record), artifactName(record, placeOfJob(record))].includes(artifact)
      ? []
      : `it is of ${image} for ${system}${variant === undefined ? '' : `, variant ${variant}`}, whose artifact is ${artifactName(record)}`,
  ].flat()
  if (wrong.length === 0) return
  throw new RecordError({
    message: `The digest record in ${originOfArtifact(artifact)} does not belong there`,
    detail: wrong.join('\n'),
    hint: 'No build of this run wrote it. Let nothing else in the workflow write artifacts named image-digest-…, delete this artifact on the page of the run, and run this job again.',
  })
}

/**
 * Writes a record to its artifact. Replaces only what an earlier attempt of the same job has left: a record of another
 * job keeps its artifact, and this one gets the next name, so that merge sees both.
 * @param retentionDays from 1 to 90
 * @param tempFolder where files may be while they are uploaded
 * @throws RecordError, also where another job has handed over a record that can't be right if this one is
 */
export async function writeRecord(
  record: DigestRecord,
  retentionDays: number,
  tempFolder: string,
  settings: CallSettings = {},
): Promise<void> {
  await withTempFolder(tempFolder, async (folder) => {
    const calls = await openArtifactCalls(settings)
    const file = join(folder, FILE)
    await writeFile(file, `${serializeRecord(record)}\n`)
    const taken = new Set<string>()
    // Each repetition looks at what is there: if only an answer was lost, this job's record is there.
    await calls.persist((call) => hand({ record, file, retentionDays, taken, call }))
  })
}

/** Which of the run's artifacts are read. */
export interface ArtifactChoice {
  /** Those of this action. */
  readonly own: boolean
  /** Those of other actions with such a name, `*` standing for any text; empty: none. */
  readonly pattern: string
}

/**
 * Reads all records of the run, whichever image they are of: that is for their content to say. In artifacts of other
 * actions, each file is named by a digest:
 * https://docs.docker.com/build/ci/github-actions/multi-platform/#distribute-build-across-multiple-runners
 * @throws RecordError
 */
export async function readRecords(
  { own, pattern }: ArtifactChoice,
  tempFolder: string,
  settings: CallSettings = {},
): Promise<readonly (FoundRecord | FoundDigest)[]> {
  return withTempFolder(tempFolder, async (folder) => {
    const calls = await openArtifactCalls(settings)
    const isOwn = ({ name }: ListedArtifact) => own && name.startsWith(PREFIX)
    const isOther = ({ name }: ListedArtifact) => !name.startsWith(PREFIX) && matches(name, pattern)
    const artifacts = await calls.persist((call) => listTwice(call, (one) => isOwn(one) || isOther(one)))
    const records = artifacts
      .filter(isOwn)
      .map(async (one) => [await calls.persist((call) => download(call, one, folder))])
    const digests = artifacts.filter(isOther).map((one) => calls.persist((call) => downloadDigests(call, one, folder)))
    return (await settleAll<readonly (FoundRecord | FoundDigest)[]>([...records, ...digests])).flat()
  })
}

function matches(name: string, pattern: string): boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`, 's').test(name)
}

const PREFIX = 'image-digest-'
const FILE = 'digest.json'
/** Of all files in an artifact, unpacked, in bytes. */
const UNPACKED_LIMIT = 64 * 1024
/** Of artifacts as they are stored, compressed, in bytes: larger ones are not downloaded. */
const RECORD_ARTIFACT_LIMIT = 256 * 1024
const DIGESTS_ARTIFACT_LIMIT = 1024 * 1024
/** More than the attempts of a run use up, of which each repetition may use one: a dozen, if the service fails for long. */
const PLACES = 60

interface ListedArtifact {
  readonly id: number
  readonly name: string
  /** As it is stored, in bytes. */
  readonly size: number
  /** Of what is stored. */
  readonly digest?: string | undefined
}

async function list(call: CallClient): Promise<readonly ListedArtifact[]> {
  const { artifacts } = await call(LIST, (client) => client.listArtifacts({ latest: true }))
  return artifacts
}

const LIST = 'list the artifacts of the run'

/** Returns the artifacts that two lists in a row agree on: nothing else shows that none of them is missing. */
async function listTwice(
  call: CallClient,
  choose: (artifact: ListedArtifact) => boolean,
): Promise<readonly ListedArtifact[]> {
  const chosen = async () => (await list(call)).filter(choose)
  const [first, second] = [await chosen(), await chosen()]
  if (fingerprint(first) === fingerprint(second)) return second
  const detail = 'two lists in a row differ'
  throw new ArtifactError({ message: `Can't ${LIST}`, detail, hint: 'Re-run this job.' }, Number.POSITIVE_INFINITY)
}

function fingerprint(artifacts: readonly ListedArtifact[]): string {
  return JSON.stringify(artifacts.map(({ id, name, size, digest }) => [id, name, size, digest]))
}

/** Names a job in the artifact of its record. */
function placeOfJob({ job: { id, total, index, inputs }, revision }: DigestRecord): string {
  const text = JSON.stringify([id, total, index, inputs, revision])
  return createHash('sha256').update(text).digest('hex').slice(0, 8)
}

/** Returns all names that the artifact of a record may have, in the order in which they are tried. */
function candidateNames(record: RecordKey): readonly string[] {
  return Array.from({ length: PLACES }, (_, at) => artifactName(record, at + 1))
}

/** A record that is being written. */
interface Writing {
  readonly record: DigestRecord
  /** Holds the record. Downloads go to the same folder. */
  readonly file: string
  readonly retentionDays: number
  /** The names that can't be had for good. This job adds to them. */
  readonly taken: Set<string>
  readonly call: CallClient
}

/** Writes a record, unless it is there already. @throws RecordError for a conflict, once the record is written */
async function hand(writing: Writing): Promise<void> {
  // A name that nobody else uses: these servers let any job overwrite an artifact. merge compares the records.
  if (!reservesNames()) return void (await create(writing, artifactName(writing.record, placeOfJob(writing.record))))
  const others: OtherRecords = { names: new Set(writing.taken), conflicts: [] }
  // In the first attempt of a run, the name is nearly always free.
  const there = writing.record.run.attempt === 1 ? [] : await listOwn(writing)
  if (!(await makeRoom(writing, there, others))) await upload(writing, others)
  const [conflict] = others.conflicts
  if (conflict !== undefined) throw conflict
}

/** What is known of the artifacts that other jobs have written for the same image, system and variant. */
interface OtherRecords {
  readonly names: Set<string>
  readonly conflicts: RecordError[]
}

/**
 * Deletes what earlier attempts of this job have left in artifacts that have its names. Equal builds may run at once, on
 * one machine or several: an equal record stays.
 * @returns whether this very record is there
 */
async function makeRoom(
  writing: Writing,
  artifacts: readonly ListedArtifact[],
  others: OtherRecords,
): Promise<boolean> {
  const found: { readonly artifact: ListedArtifact; readonly held: DigestRecord | undefined }[] = []
  for (const artifact of artifacts) found.push({ artifact, held: await readRival(writing, artifact) })
  const records = found.flatMap(({ held }) => held ?? [])
  const own = replacedBy(writing.record, records)
  let written = false
  for (const { artifact, held } of found) {
    const relation = compare(writing.record, held, own)
    if (relation === 'equal') written = true
    else if (relation === 'replaceable') await remove(writing.call, artifact)
    else others.names.add(artifact.name)
    if (relation instanceof RecordError) others.conflicts.push(relation)
  }
  return written
}

/** Deletes an artifact, unless another build deletes it first. */
async function remove(call: CallClient, artifact: ListedArtifact): Promise<void> {
  try {
    await call(`replace the artifact ${artifact.name}`, (client) => client.deleteArtifact(artifact.name))
  } catch (error) {
    if (await isListed(call, artifact)) throw error
  }
}

/** Lists the artifacts that have one of the names of a record. */
async function listOwn({ record, call }: Writing): Promise<readonly ListedArtifact[]> {
  const names = candidateNames(record)
  return (await list(call)).filter(({ name }) => names.includes(name))
}

async function isListed(call: CallClient, { id }: ListedArtifact): Promise<boolean> {
  return (await list(call)).some((artifact) => artifact.id === id)
}

/**
 * Uploads under the first name that can be had. An upload that broke off in its midst keeps its name for good: its
 * artifact is neither listed nor can it be deleted (dotnet/orleans#10961).
 */
async function upload(writing: Writing, others: OtherRecords): Promise<void> {
  const { call, taken } = writing
  let refusal: unknown
  for (const name of candidateNames(writing.record)) {
    if (others.names.has(name)) continue
    refusal = await create(writing, name)
    if (refusal === undefined) return
    const there = (await list(call)).find((artifact) => artifact.name === name)
    if (there === undefined) {
      taken.add(name)
      continue
    }
    if (await makeRoom(writing, [there], others)) return
    if (others.names.has(name)) continue
    refusal = await create(writing, name)
    if (refusal === undefined) return
  }
  throw refusal
}

/** Uploads under a name. @returns the error if the name is taken */
async function create({ call, file, retentionDays }: Writing, name: string): Promise<unknown> {
  try {
    // Gitea rounds the time that is left down to whole days.
    const options = { retentionDays: isGitea() ? retentionDays + 1 : retentionDays }
    await call(`write the artifact ${name}`, (client) => client.uploadArtifact(name, [file], dirname(file), options))
    return undefined
  } catch (error) {
    if (!isNameTaken(error)) throw error
    return error
  }
}

async function download(call: CallClient, artifact: ListedArtifact, folder: string): Promise<FoundRecord> {
  const origin = originOfArtifact(artifact.name)
  const files = await readFiles(call, artifact, RECORD_ARTIFACT_LIMIT, folder)
  const [file, ...more] = files.filter(({ path }) => path.endsWith('.json'))
  if (file === undefined || more.length > 0)
    throw new RecordError({
      message: `${origin} should hold one file of JSON, and holds ${sanitizeLine(files.map(({ path }) => path).join(', ')) || 'nothing'}`,
    })
  return { kind: 'record', artifact: artifact.name, text: file.content.toString('utf8') }
}

async function downloadDigests(
  call: CallClient,
  artifact: ListedArtifact,
  folder: string,
): Promise<readonly FoundDigest[]> {
  const origin = originOfArtifact(artifact.name)
  const names = (await readFiles(call, artifact, DIGESTS_ARTIFACT_LIMIT, folder)).map(({ path }) => basename(path))
  const digests = names.map((name) => `sha256:${name}`).filter(isDigest)
  const odd = names.filter((name) => !isDigest(`sha256:${name}`))
  if (names.length === 0 || odd.length > 0)
    throw new RecordError({
      message: `${origin} should hold files named by digests, and holds ${sanitizeLine(odd.join(', ')) || 'nothing'}`,
      hint: 'Each build leaves one: touch "digests/${digest#sha256:}". Does `artifact-pattern` match other artifacts as well?',
    })
  return digests.map((digest) => ({ kind: 'digest', digest, origin }))
}

/**
 * Downloads an artifact and reads its files, unless it is too large. The client does not unpack it: the names and sizes
 * of its files are up to the job that wrote it, and a name with a null byte would end this process.
 */
async function readFiles(
  call: CallClient,
  { id, name, size, digest }: ListedArtifact,
  limit: number,
  parent: string,
): Promise<readonly ZipFile[]> {
  const origin = originOfArtifact(name)
  if (size > limit)
    throw new RecordError({
      message: `Can't read ${origin}: it is too large`,
      detail: `it has ${formatBytes(size)}, and at most ${formatBytes(limit)} are read`,
      hint: OTHER_ARTIFACT,
    })
  // A new one for each attempt: an earlier download may have left part of a file.
  const folder = await mkdtemp(join(parent, `${id}-`))
  await call(`read ${origin}`, (client) => client.downloadArtifact(id, { path: folder, skipDecompress: true }))
  const [file = ''] = await readdir(folder)
  const archive = await readFile(join(folder, file))
  const received = `sha256:${createHash('sha256').update(archive).digest('hex')}`
  if (digest !== undefined && digest !== received)
    throw damaged(`what arrived is ${received}, and should be ${digest}`, Number.POSITIVE_INFINITY)
  try {
    return readZip(archive, UNPACKED_LIMIT)
  } catch (error) {
    // Without a digest, the download may be what has damaged it.
    throw damaged(messageOf(error), digest === undefined ? FEW_ATTEMPTS : 1, error)
  }

  function damaged(detail: string, attempts: number, cause: unknown = new Error(detail)): ArtifactError {
    return new ArtifactError({ message: `Can't read ${origin}`, detail, hint: DAMAGED, cause }, attempts)
  }
}

const DAMAGED = 'Re-run the job that wrote it, and then this job.'

const OTHER_ARTIFACT =
  'It is not the artifact of a digest. Give it a name that does not begin with image-digest- and that `artifact-pattern` does not match.'

const RIVAL_UNKNOWN =
  'It may be the record of another job of this run, so it is not replaced. Run this job again; if that does not help, and no other job builds this system, delete the artifact on the page of the run.'

/**
 * Reads the record of an artifact that has one of the names. A record that does not belong there is an error: somebody
 * should find out who writes such records.
 * @returns undefined for what holds no record, and may be replaced: nothing is lost with it
 * @throws RecordError
 */
async function readRival({ record, call, file }: Writing, artifact: ListedArtifact): Promise<DigestRecord | undefined> {
  const found = await download(call, artifact, dirname(file)).then(readable, async (error: unknown) => {
    if (!(error instanceof RecordError)) throw error
    // Of what did not arrive it is not known whose it is, unless another build has deleted it in the meantime.
    if (!(error instanceof ArtifactError) || !(await isListed(call, artifact))) return undefined
    throw new ArtifactError({ ...error.parts, hint: RIVAL_UNKNOWN }, error.attempts, error.retryAfter)
  })
  if (found !== undefined) assertBelongs(found, artifact.name, record.run)
  return found
}

/**
 * Compares what an artifact holds with the record that is to be written.
 * @param own the records that earlier attempts of the same job have left
 * @returns `other` for another job's record, an error for one that can't be right if the new one is
 */
function compare(
  record: DigestRecord,
  found: DigestRecord | undefined,
  own: readonly DigestRecord[],
): 'equal' | 'replaceable' | 'other' | RecordError {
  if (found === undefined || own.includes(found)) return 'replaceable'
  if (serializeRecord(found) === serializeRecord(record)) return 'equal'
  if (found.digest === record.digest) return 'replaceable'
  return sameJob(record, found) ? conflictOf(record, found) : 'other'
}

/** The error of two jobs that the runner calls the same, and that have built different images. */
function conflictOf(record: DigestRecord, found: DigestRecord): RecordError {
  const { image, system } = record
  return new RecordError({
    message: `Two jobs of this run have pushed an image of ${image} for ${system}`,
    detail: `${found.digest} by the job "${sanitizeLine(found.job.id)}"${ofAttempt(found)}\n${record.digest} by the job "${record.job.id}", this one`,
    hint: `If the workflow builds several images of ${image}, give each its own name in this step and in its merge, such as
  variant: debug
or an \`image\` of its own. If it is one job, which has built another commit than in an earlier attempt, nothing is wrong. In both cases, start a new run: this one keeps both records.`,
  })
}

function ofAttempt({ run }: DigestRecord): string {
  return run.attempt === 1 ? '' : `, attempt ${run.attempt}`
}

function readable({ text, artifact }: FoundRecord): DigestRecord | undefined {
  try {
    return parseRecord(text, originOfArtifact(artifact))
  } catch {
    return undefined
  }
}
