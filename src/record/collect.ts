import type { JobLog } from '../log.ts'
import { type Digest, isDigest } from '../oci/digest.ts'
import { NoArtifactService } from './artifact-client.ts'
import { originOfArtifact, readFoundRecord } from './artifact-name.ts'
import { readJobRecords } from './job-records.ts'
import { type ArtifactChoice, readRecords } from './read-artifacts.ts'
import { type DigestRecord, parseRecord } from './record.ts'

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
  const local = own ? await readJobRecords(job.tempFolder, job.run) : []
  const found = await collectArtifacts({ own, pattern: artifactPattern }, job, log).catch((error: unknown) => {
    // After builds with `push: false`, `digests` is empty, which looks like a missing input.
    if (own && error instanceof NoArtifactService && (local.length > 0 || !push)) return []
    throw error
  })
  return [...listed, ...local.map(({ record, origin }) => ({ digest: record.digest, record, origin })), ...found]
}

/**
 * Collects what is in the artifacts of the run.
 * @throws RecordError
 */
export async function collectArtifacts(
  choice: ArtifactChoice,
  { run, tempFolder }: CollectingRun,
  log: JobLog,
): Promise<readonly Candidate[]> {
  const found = await log.group('Collect the digests of the run', () => readRecords(choice, { tempFolder, log }))
  return found.map((one): Candidate => {
    if (one.kind === 'digest') return { digest: one.digest, origin: one.origin }
    const record = readFoundRecord(one, run)
    return { digest: record.digest, record, origin: originOfArtifact(one.artifact) }
  })
}

/** Reads a line of `digests`, which may be of another run. */
function candidateOf(text: string, origin: string): Candidate {
  const digest = `sha256:${text.replace(/^sha256:/, '')}`
  if (isDigest(digest)) return { digest, origin }
  const record = parseRecord(text, origin)
  return { digest: record.digest, record, origin }
}
