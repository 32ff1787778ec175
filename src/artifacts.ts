import { createHash } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DefaultArtifactClient } from '@actions/artifact'
import { allOf } from './all-of.ts'
import { firstLine, messageOf, oneLine } from './failure.ts'
import { jobLog } from './job-log.ts'
import { type DigestRecord, parseRecord, printRecord, RecordError } from './record.ts'
import { ATTEMPTS, pauseForRetry } from './registry/retry.ts'
import { withTempFolder } from './temp-folder.ts'

/** There is no artifact service that this action knows: GitHub Enterprise Server, Forgejo and Gitea have none. */
export class NoArtifactService extends RecordError {}

/** A record as an artifact holds it, not yet believed. */
export interface FoundRecord {
  /** Where it is from, for errors. */
  readonly origin: string
  readonly text: string
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
    // All of it again: where it is the answer that was lost, this job's own record is there, and is replaced.
    await persist(async () => {
      await clear(record, client, folder)
      await upload(record, client, file, retentionDays)
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
 * Reads all records of the run, whichever image they are of: that is for their content to say. Of other actions'
 * artifacts each file that is named by a digest is one:
 * https://docs.docker.com/build/ci/github-actions/multi-platform/#distribute-build-across-multiple-runners
 * @throws RecordError
 */
export async function readRecords(
  { own, pattern }: ArtifactChoice,
  tempFolder: string,
  wait: Wait = sleep,
): Promise<readonly FoundRecord[]> {
  return withTempFolder(tempFolder, async (folder) => {
    const client = await openClient()
    const artifacts = await persist(() => list(client), wait)
    const folderOf = (id: number) => join(folder, String(id))
    const records = artifacts
      .filter(({ name }) => own && name.startsWith(PREFIX))
      .map(async ({ id, name }) => [await persist(() => download(client, id, name, folderOf(id)), wait)])
    const digests = artifacts
      .filter(({ name }) => !name.startsWith(PREFIX) && matches(name, pattern))
      .map(({ id, name }) => persist(() => downloadDigests(client, id, name, folderOf(id)), wait))
    return (await allOf<readonly FoundRecord[]>([...records, ...digests])).flat()
  })
}

function matches(name: string, pattern: string): boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`, 's').test(name)
}

const PREFIX = 'image-digest-'
const FILE = 'digest.json'
const RECORD_LIMIT = 64 * 1024
/** More than the attempts of a run use up, of which each repetition may use one. */
const PLACES = 20

/** Loaded only here: its code is larger than that of all the rest together. */
async function openClient(): Promise<DefaultArtifactClient> {
  const { DefaultArtifactClient } = await import('@actions/artifact')
  return new DefaultArtifactClient()
}

async function list(client: DefaultArtifactClient): Promise<readonly { readonly id: number; readonly name: string }[]> {
  const { artifacts } = await asking('list the artifacts of the run', client.listArtifacts({ latest: true }))
  return artifacts
}

function placesOf({ image, system }: DigestRecord): readonly string[] {
  return Array.from({ length: PLACES }, (_, at) => artifactName(image, system, at + 1))
}

/** Deletes what earlier attempts of the run have left of the same image and system. */
async function clear(record: DigestRecord, client: DefaultArtifactClient, folder: string): Promise<void> {
  const places = placesOf(record)
  const earlier = (await list(client)).filter(({ name }) => places.includes(name))
  for (const { id, name } of earlier) {
    await refuseRival(record, client, id, name, folder)
    await asking(`replace the artifact ${name}`, client.deleteArtifact(name))
  }
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
  for (const [at, name] of placesOf(record).entries()) {
    try {
      await asking(`write the artifact ${name}`, client.uploadArtifact(name, [file], folder, { retentionDays }))
      return
    } catch (error) {
      if (!/\(409\)/.test(messageOf(error)) || at + 1 === PLACES) throw error
      // Another job may have written it between the look and the write.
      const rival = (await list(client)).find((artifact) => artifact.name === name)
      if (rival !== undefined) await refuseRival(record, client, rival.id, name, folder)
    }
  }
}

async function download(client: DefaultArtifactClient, id: number, name: string, folder: string): Promise<FoundRecord> {
  const origin = `the artifact ${name}`
  await asking(`read ${origin}`, client.downloadArtifact(id, { path: folder }))
  const files = await readdir(folder, { recursive: true, withFileTypes: true })
  const [file, ...more] = files.filter((entry) => entry.isFile() && entry.name.endsWith('.json'))
  if (file === undefined || more.length > 0)
    throw new RecordError({
      what: `${origin} should hold one file of JSON, and holds ${oneLine(files.map(({ name }) => name).join(', ')) || 'nothing'}`,
    })
  const path = join(file.parentPath, file.name)
  if ((await stat(path)).size > RECORD_LIMIT)
    throw new RecordError({ what: `${origin} is too large for a digest record` })
  return { origin, text: await readFile(path, 'utf8') }
}

async function downloadDigests(
  client: DefaultArtifactClient,
  id: number,
  name: string,
  folder: string,
): Promise<readonly FoundRecord[]> {
  const origin = `the artifact ${name}`
  await asking(`read ${origin}`, client.downloadArtifact(id, { path: folder }))
  const files = await readdir(folder, { recursive: true, withFileTypes: true })
  const names = files.filter((entry) => entry.isFile()).map((entry) => entry.name)
  const odd = names.filter((file) => !/^[0-9a-f]{64}$/.test(file))
  if (names.length === 0 || odd.length > 0)
    throw new RecordError({
      what: `${origin} should hold files named by digests, and holds ${oneLine(odd.join(', ')) || 'nothing'}`,
      help: 'Each build leaves one: touch "digests/${digest#sha256:}". Does `artifact-pattern` match other artifacts as well?',
    })
  return names.map((file) => ({ origin, text: `sha256:${file}` }))
}

const RIVAL_UNKNOWN =
  'It may be the record of another job of this run, so it is not replaced. Run this job again; if that does not help, and no other job builds this system, delete the artifact on the page of the run.'

/** A record of this attempt with another digest is another job's: one of the two images would be lost in silence. */
async function refuseRival(
  record: DigestRecord,
  client: DefaultArtifactClient,
  id: number,
  name: string,
  folder: string,
): Promise<void> {
  const earlier = await download(client, id, name, join(folder, String(id))).then(readable, (error: unknown) => {
    if (!(error instanceof RecordError)) throw error
    // Of what did not arrive it is not known whose it is.
    if (error.cause !== undefined) throw new RecordError({ ...error.parts, help: RIVAL_UNKNOWN })
  })
  // What is no record is nobody's, and nothing is lost with it.
  if (earlier === undefined || earlier.run.attempt !== record.run.attempt || earlier.digest === record.digest) return
  throw new RecordError({
    what: `Two jobs of this run have pushed an image of ${record.image} for ${record.system}`,
    words: `${earlier.digest} by the job "${oneLine(earlier.job.id)}"\n${record.digest} by the job "${record.job.id}", this one`,
    help: 'One `image` has one variant in a run: give each variant an `image` of its own.',
  })
}

function readable({ text, origin }: FoundRecord): DigestRecord | undefined {
  try {
    return parseRecord(text, origin)
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
