import { createHash } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DefaultArtifactClient } from '@actions/artifact'
import { allOf } from './all-of.ts'
import { firstLine, messageOf, oneLine } from './failure.ts'
import { jobLog } from './job-log.ts'
import { type Digest, isDigest } from './oci/digest.ts'
import { type DigestRecord, parseRecord, printRecord, RecordError } from './record.ts'
import { ATTEMPTS, pauseForRetry } from './registry/retry.ts'
import { withTempFolder } from './temp-folder.ts'
import { printBytes } from './units.ts'
import { readZip, type ZipFile } from './zip.ts'

/** There is no artifact service that this action knows: GitHub Enterprise Server, Forgejo and Gitea have none. */
export class NoArtifactService extends RecordError {}

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
  return `the artifact ${oneLine(name)}`
}

/** Waits for so many milliseconds; there to be replaced where time must not pass. */
export type Wait = (milliseconds: number) => Promise<unknown>

/**
 * The name of the artifact that holds the record of an image and system. Part of it is readable; a hash keeps apart
 * names that look alike once the characters are gone that artifacts can't have in their names.
 * @param image the canonical name of the repository
 * @param place from 1; the others are for where the first can't be had
 */
export function artifactName(image: string, system: string, place = 1): string {
  const readable = image.replace(/[^a-z0-9.-]+/g, '-').slice(0, 120)
  const hash = createHash('sha256').update(image).digest('hex').slice(0, 8)
  return `${PREFIX}${readable}-${hash}${place === 1 ? '' : `.${place}`}-${system}`
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
  const { image, system } = record
  const wrong = [
    record.run.id === run.id ? [] : `its run is ${oneLine(record.run.id).slice(0, 64)}, and this run is ${run.id}`,
    record.run.attempt <= run.attempt ? [] : `its attempt is ${record.run.attempt}, and this attempt is ${run.attempt}`,
    candidateNames(record).includes(artifact)
      ? []
      : `it is of ${image} for ${system}, whose artifact is ${artifactName(image, system)}`,
  ].flat()
  if (wrong.length === 0) return
  throw new RecordError({
    what: `The digest record in ${originOfArtifact(artifact)} does not belong there`,
    words: wrong.join('\n'),
    help: 'No build of this run wrote it. Let nothing else in the workflow write artifacts named image-digest-…, delete this artifact on the page of the run, and run this job again.',
  })
}

/**
 * Writes a record to its artifact. One that an earlier attempt of the run has left is replaced.
 * @param retentionDays from 1 to 90
 * @param tempFolder where files may be while they are uploaded
 * @throws RecordError, also where another job of the same attempt has handed over another digest for the same system
 */
export async function writeRecord(
  record: DigestRecord,
  retentionDays: number,
  tempFolder: string,
  wait: Wait = sleep,
): Promise<void> {
  await withTempFolder(tempFolder, async (folder) => {
    const client = await openClient()
    const file = join(folder, FILE)
    await writeFile(file, `${printRecord(record)}\n`)
    // All of it again: where it is the answer that was lost, this job's own record is there.
    await persist(async () => {
      if (!(await clear(record, client, folder))) await upload(record, client, file, retentionDays)
    }, wait)
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
  wait: Wait = sleep,
): Promise<readonly (FoundRecord | FoundDigest)[]> {
  return withTempFolder(tempFolder, async (folder) => {
    const client = await openClient()
    const artifacts = await persist(() => list(client), wait)
    const folderOf = (id: number) => join(folder, String(id))
    const records = artifacts
      .filter(({ name }) => own && name.startsWith(PREFIX))
      .map(async (one) => [await persist(() => download(client, one, folderOf(one.id)), wait)])
    const digests = artifacts
      .filter(({ name }) => !name.startsWith(PREFIX) && matches(name, pattern))
      .map((one) => persist(() => downloadDigests(client, one, folderOf(one.id)), wait))
    return (await allOf<readonly (FoundRecord | FoundDigest)[]>([...records, ...digests])).flat()
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
/** More than the attempts of a run use up, of which each repetition may use one. */
const PLACES = 20

/** Loaded only here: its code is larger than that of all the rest together. */
async function openClient(): Promise<DefaultArtifactClient> {
  const { DefaultArtifactClient } = await import('@actions/artifact')
  return new DefaultArtifactClient()
}

interface ListedArtifact {
  readonly id: number
  readonly name: string
  /** As it is stored, in bytes. */
  readonly size: number
}

async function list(client: DefaultArtifactClient): Promise<readonly ListedArtifact[]> {
  const { artifacts } = await asking('list the artifacts of the run', client.listArtifacts({ latest: true }))
  return artifacts
}

/** Returns all names that the artifact of a record may have. */
function candidateNames({ image, system }: DigestRecord): readonly string[] {
  return Array.from({ length: PLACES }, (_, at) => artifactName(image, system, at + 1))
}

/**
 * Deletes what earlier attempts of the run have left of the same image and system. Equal builds may run at once, on one
 * machine or several: an equal record stays, and what another build deletes first is as good as deleted.
 * @returns whether there is an equal record
 */
async function clear(record: DigestRecord, client: DefaultArtifactClient, folder: string): Promise<boolean> {
  const names = candidateNames(record)
  const earlier = (await list(client)).filter(({ name }) => names.includes(name))
  for (const artifact of earlier) {
    if (await isEqual(record, client, artifact, folder)) return true
    try {
      await asking(`replace the artifact ${artifact.name}`, client.deleteArtifact(artifact.name))
    } catch (error) {
      if (networkErrorIn(error) !== undefined || (await isListed(client, artifact))) throw error
    }
  }
  return false
}

async function isListed(client: DefaultArtifactClient, { id }: ListedArtifact): Promise<boolean> {
  return (await list(client)).some((artifact) => artifact.id === id)
}

/**
 * Uploads to the first place that can be had. An upload that broke off in its midst keeps its name for good: its
 * artifact is neither listed nor can it be deleted (dotnet/orleans#10961).
 */
async function upload(
  record: DigestRecord,
  client: DefaultArtifactClient,
  file: string,
  retentionDays: number,
): Promise<void> {
  const folder = dirname(file)
  for (const [at, name] of candidateNames(record).entries()) {
    try {
      await asking(`write the artifact ${name}`, client.uploadArtifact(name, [file], folder, { retentionDays }))
      return
    } catch (error) {
      if (!/\(409\)/.test(messageOf(error)) || at + 1 === PLACES) throw error
      // Another job may have written it between the look and the write.
      const rival = (await list(client)).find((artifact) => artifact.name === name)
      if (rival !== undefined && (await isEqual(record, client, rival, folder))) return
    }
  }
}

async function download(client: DefaultArtifactClient, artifact: ListedArtifact, folder: string): Promise<FoundRecord> {
  const origin = originOfArtifact(artifact.name)
  const files = await readFiles(client, artifact, RECORD_ARTIFACT_LIMIT, folder)
  const [file, ...more] = files.filter(({ path }) => path.endsWith('.json'))
  if (file === undefined || more.length > 0)
    throw new RecordError({
      what: `${origin} should hold one file of JSON, and holds ${oneLine(files.map(({ path }) => path).join(', ')) || 'nothing'}`,
    })
  return { kind: 'record', artifact: artifact.name, text: file.content.toString('utf8') }
}

async function downloadDigests(
  client: DefaultArtifactClient,
  artifact: ListedArtifact,
  folder: string,
): Promise<readonly FoundDigest[]> {
  const origin = originOfArtifact(artifact.name)
  const names = (await readFiles(client, artifact, DIGESTS_ARTIFACT_LIMIT, folder)).map(({ path }) => basename(path))
  const digests = names.map((name) => `sha256:${name}`).filter(isDigest)
  const odd = names.filter((name) => !isDigest(`sha256:${name}`))
  if (names.length === 0 || odd.length > 0)
    throw new RecordError({
      what: `${origin} should hold files named by digests, and holds ${oneLine(odd.join(', ')) || 'nothing'}`,
      help: 'Each build leaves one: touch "digests/${digest#sha256:}". Does `artifact-pattern` match other artifacts as well?',
    })
  return digests.map((digest) => ({ kind: 'digest', digest, origin }))
}

/**
 * Downloads an artifact and reads its files, unless it is too large. The client does not unpack it: the names and sizes
 * of its files are up to the job that wrote it, and a name with a null byte would end this process.
 */
async function readFiles(
  client: DefaultArtifactClient,
  { id, name, size }: ListedArtifact,
  limit: number,
  folder: string,
): Promise<readonly ZipFile[]> {
  const origin = originOfArtifact(name)
  if (size > limit)
    throw new RecordError({
      what: `Can't read ${origin}: it is too large`,
      words: `it has ${printBytes(size)}, and at most ${printBytes(limit)} are read`,
      help: OTHER_ARTIFACT,
    })
  await asking(`read ${origin}`, client.downloadArtifact(id, { path: folder, skipDecompress: true }))
  const [file = ''] = await readdir(folder)
  const archive = await readFile(join(folder, file))
  try {
    return readZip(archive, UNPACKED_LIMIT)
  } catch (error) {
    throw new RecordError({ what: `Can't read ${origin}`, words: messageOf(error), cause: error })
  }
}

const OTHER_ARTIFACT =
  'It is not the artifact of a digest. Give it a name that does not begin with image-digest- and that `artifact-pattern` does not match.'

const RIVAL_UNKNOWN =
  'It may be the record of another job of this run, so it is not replaced. Run this job again; if that does not help, and no other job builds this system, delete the artifact on the page of the run.'

/**
/**
 * Returns whether an artifact holds an equal record. An artifact that holds none may be replaced if an earlier attempt of
 * this job left it. A record of this attempt with another digest is of another job: one of the two images would be lost
 * silently. A record that does not belong there is not replaced either: somebody should find out who writes such records.
 * @throws RecordError for these two
 */
async function isEqual(
  record: DigestRecord,
  client: DefaultArtifactClient,
  artifact: ListedArtifact,
  folder: string,
): Promise<boolean> {
  const folderOfIt = join(folder, String(artifact.id))
  const earlier = await download(client, artifact, folderOfIt).then(readable, async (error: unknown) => {
    if (!(error instanceof RecordError)) throw error
    // Of what did not arrive it is not known whose it is, unless another build has deleted it in the meantime.
    if (error.cause !== undefined && (await isListed(client, artifact)))
      throw new RecordError({ ...error.parts, help: RIVAL_UNKNOWN })
  })
  // What is no record is nobody's, and nothing is lost with it.
  if (earlier === undefined) return false
  assertBelongs(earlier, artifact.name, record.run)
  if (earlier.run.attempt !== record.run.attempt) return false
  if (earlier.digest === record.digest) return printRecord(earlier) === printRecord(record)
  throw new RecordError({
    what: `Two jobs of this run have pushed an image of ${record.image} for ${record.system}`,
    words: `${earlier.digest} by the job "${oneLine(earlier.job.id)}"\n${record.digest} by the job "${record.job.id}", this one`,
    help: 'One `image` has one variant in a run: give each variant an `image` of its own.',
  })
}

function readable({ text, artifact }: FoundRecord): DigestRecord | undefined {
  try {
    return parseRecord(text, originOfArtifact(artifact))
  } catch {
    return undefined
  }
}

/**
 * Does again what a network error has broken off, which the client never does; what the service answers with 429 or 5xx
 * it sends again itself.
 */
async function persist<Result>(work: () => Promise<Result>, wait: Wait): Promise<Result> {
  for (let count = 1; ; count++) {
    try {
      return await work()
    } catch (error) {
      const code = networkErrorIn(error)
      if (count === ATTEMPTS || code === undefined) throw error
      await pauseForRetry({ why: `${firstLine(error)}: ${code}`, count, attempts: ATTEMPTS }, jobLog, wait)
    }
  }
}

/** The client wraps its NetworkError in others, so that its words are all there is to know it by. */
function networkErrorIn(error: unknown): string | undefined {
  return /Unable to make request: ([A-Z]\w*)/.exec(messageOf(error))?.[1]
}

async function asking<Result>(purpose: string, asked: Promise<Result>): Promise<Result> {
  try {
    return await asked
  } catch (error) {
    const words = messageOf(error)
    const none = /ACTIONS_(RUNTIME_TOKEN|RESULTS_URL)/.test(words) || (error as Error).name === 'GHESNotSupportedError'
    const help =
      'Hand the `record` outputs of the build jobs to `digests` of the merge; examples/workflows/without-artifacts.yml of this action shows how.'
    if (none) throw new NoArtifactService({ what: `Can't ${purpose}: there is no artifact service here`, words, help })
    throw new RecordError({ what: `Can't ${purpose}`, words, cause: error })
  }
}
