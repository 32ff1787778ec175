import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { unzipSync } from 'fflate'
import { messageOf, RecordError } from '../errors.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import { type Digest, isDigest } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { formatBytes, sanitizeLine } from '../text.ts'
import {
  ArtifactError,
  type ArtifactSettings,
  type CallClient,
  FEW_ATTEMPTS,
  openArtifactCalls,
} from './artifact-client.ts'
import { type FoundRecord, originOfArtifact, PREFIX } from './artifact-name.ts'

/** A digest from an artifact of another action. */
export interface FoundDigest {
  readonly kind: 'digest'
  readonly digest: Digest
  /** Where it comes from, for errors. */
  readonly origin: string
}

/** Selects artifacts of the run. */
export interface ArtifactChoice {
  /** Includes the artifacts of this action. */
  readonly own: boolean
  /** Includes artifacts of other actions whose names match; `*` matches any text. Empty: none. */
  readonly pattern: string
}

/**
 * Reads the records of all images of the run, and the digests in artifacts of other actions, whose files are named after
 * digests:
 * https://docs.docker.com/build/ci/github-actions/multi-platform/#distribute-build-across-multiple-runners
 * @throws RecordError
 */
export async function readRecords(
  { own, pattern }: ArtifactChoice,
  settings: ArtifactSettings,
): Promise<readonly (FoundRecord | FoundDigest)[]> {
  return withTempFolder(settings.tempFolder, async (folder) => {
    const calls = openArtifactCalls(settings)
    const isOwn = ({ name }: ListedArtifact) => own && name.startsWith(PREFIX)
    const isOther = ({ name }: ListedArtifact) => !name.startsWith(PREFIX) && matchesPattern(name, pattern)
    const artifacts = await calls.persist((call) => listUntilStable(call, (one) => isOwn(one) || isOther(one)))
    const records = artifacts
      .filter(isOwn)
      .map(async (one) => [await calls.persist((call) => downloadRecord(call, one, folder))])
    const digests = artifacts.filter(isOther).map((one) => calls.persist((call) => downloadDigests(call, one, folder)))
    return (await settleAll<readonly (FoundRecord | FoundDigest)[]>([...records, ...digests])).flat()
  })
}

function matchesPattern(name: string, pattern: string): boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`, 's').test(name)
}

/** Of all files of an artifact, unpacked, in bytes. */
const UNPACKED_LIMIT = 64 * 1024

/** Of artifacts as they are stored, in bytes. */
const RECORD_ARTIFACT_LIMIT = 256 * 1024

const DIGESTS_ARTIFACT_LIMIT = 1024 * 1024

export interface ListedArtifact {
  readonly id: number
  readonly name: string
  /** As it is stored, in bytes. */
  readonly size: number
  /** Of the stored archive. */
  readonly digest?: string | undefined
}

export async function listArtifacts(call: CallClient): Promise<readonly ListedArtifact[]> {
  const { artifacts } = await call(LIST, (client) => client.listArtifacts({ latest: true }))
  return artifacts
}

const LIST = 'list the artifacts of the run'

/**
 * Lists artifacts twice, and fails if the lists differ: a list may lack artifacts that were written a moment ago.
 * @throws ArtifactError, which is retried
 */
async function listUntilStable(
  call: CallClient,
  choose: (artifact: ListedArtifact) => boolean,
): Promise<readonly ListedArtifact[]> {
  const chosen = async () => (await listArtifacts(call)).filter(choose)
  const [first, second] = [await chosen(), await chosen()]
  if (fingerprint(first) === fingerprint(second)) return second
  const detail = 'two consecutive lists differ'
  throw new ArtifactError({ message: `Can't ${LIST}`, detail, hint: 'Re-run this job.' }, Number.POSITIVE_INFINITY)
}

function fingerprint(artifacts: readonly ListedArtifact[]): string {
  return JSON.stringify(artifacts.map(({ id, name, size, digest }) => [id, name, size, digest]))
}

export async function downloadRecord(call: CallClient, artifact: ListedArtifact, folder: string): Promise<FoundRecord> {
  const origin = originOfArtifact(artifact.name)
  const files = await readArtifactFiles(call, artifact, RECORD_ARTIFACT_LIMIT, folder)
  const [file, ...more] = files.filter(({ path }) => path.endsWith('.json'))
  if (file === undefined || more.length > 0)
    throw new RecordError({
      message: `${origin} must contain one JSON file, but contains ${sanitizeLine(files.map(({ path }) => path).join(', ')) || 'nothing'}`,
    })
  return { kind: 'record', artifact: artifact.name, text: file.content.toString('utf8') }
}

async function downloadDigests(
  call: CallClient,
  artifact: ListedArtifact,
  folder: string,
): Promise<readonly FoundDigest[]> {
  const origin = originOfArtifact(artifact.name)
  const names = (await readArtifactFiles(call, artifact, DIGESTS_ARTIFACT_LIMIT, folder)).map(({ path }) =>
    basename(path),
  )
  const digests = names.map((name) => `sha256:${name}`).filter(isDigest)
  const odd = names.filter((name) => !isDigest(`sha256:${name}`))
  if (names.length === 0 || odd.length > 0)
    throw new RecordError({
      message: `${origin} must contain files named after digests, but contains ${sanitizeLine(odd.join(', ')) || 'nothing'}`,
      hint: 'Write one file per digest: touch "digests/${digest#sha256:}". Make sure that `artifact-pattern` matches no other artifacts.',
    })
  return digests.map((digest) => ({ kind: 'digest', digest, origin }))
}

/**
 * Downloads an artifact and reads its files, unless it is too large. Does not let the client unpack it: the job that wrote
 * it controls the names and sizes of the files, and a name with a null byte would crash this process.
 */
async function readArtifactFiles(
  call: CallClient,
  { id, name, size, digest }: ListedArtifact,
  limit: number,
  parent: string,
): Promise<readonly ZipFile[]> {
  const origin = originOfArtifact(name)
  if (size > limit)
    throw new RecordError({
      message: `Can't read ${origin}: it is too large`,
      detail: `it has ${formatBytes(size)}; the limit is ${formatBytes(limit)}`,
      hint: OTHER_ARTIFACT,
    })
  // A new folder for each attempt: an earlier download may have left part of a file.
  const folder = await mkdtemp(join(parent, `${id}-`))
  await call(`read ${origin}`, (client) => client.downloadArtifact(id, { path: folder, skipDecompress: true }))
  const [file = ''] = await readdir(folder)
  const archive = await readFile(join(folder, file))
  const received = `sha256:${createHash('sha256').update(archive).digest('hex')}`
  if (digest !== undefined && digest !== received)
    throw damagedArtifact(`its digest is ${received}, but should be ${digest}`, Number.POSITIVE_INFINITY)
  try {
    return readZip(archive, UNPACKED_LIMIT)
  } catch (error) {
    // Without a digest, the download may have damaged it.
    throw damagedArtifact(messageOf(error), digest === undefined ? FEW_ATTEMPTS : 1, error)
  }

  function damagedArtifact(detail: string, attempts: number, cause: unknown = new Error(detail)): ArtifactError {
    return new ArtifactError({ message: `Can't read ${origin}`, detail, hint: DAMAGED, cause }, attempts)
  }
}

const DAMAGED = 'Re-run the job that wrote the artifact, and then this job.'

const OTHER_ARTIFACT =
  'It does not contain a digest. Give it a name that does not begin with image-digest- and that `artifact-pattern` does not match.'

/** A file of a zip archive. */
export interface ZipFile {
  /** As in the archive: may be absolute and contain `..` or any character. */
  readonly path: string
  readonly content: Buffer
}

/**
 * Reads all files of a small zip archive into memory.
 * @param limit of the unpacked size of all files, in bytes
 * @throws Error if the files are larger or the archive is damaged
 */
export function readZip(archive: Uint8Array, limit: number): readonly ZipFile[] {
  let size = 0
  const files = unzipSync(archive, {
    // fflate unpacks no more of a file than the archive declares.
    filter({ name, originalSize }) {
      size += originalSize
      if (size > limit) throw new Error(`its unpacked size exceeds ${formatBytes(limit)}`)
      return !name.endsWith('/')
    },
  })
  return Object.entries(files).map(([path, content]) => ({ path, content: Buffer.from(content) }))
}
