import type { JobLog } from '../actions/log.ts'
import type { Workflow } from '../context.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import { type Digest, isDigest } from '../oci/digest.ts'
import {
  type ArtifactChoice,
  NoArtifactService,
  originOfArtifact,
  readFoundRecord,
  readRecords,
} from '../record/artifacts.ts'
import { readJobRecords } from '../record/job-records.ts'
import { type DigestRecord, parseRecord } from '../record/record.ts'

/** A digest that a build job has handed over, with what it says of it. */
export interface Candidate {
  readonly digest: Digest
  /** Absent for a bare digest. */
  readonly record?: DigestRecord
  /** Where it is from, for errors. */
  readonly origin: string
}

/**
 * Returns what builds have handed over: the lines of `digests`, or else what is in the run's artifacts and what builds of
 * this job have left. An `artifact-pattern` names artifacts of other actions, which are read in either case.
 * @throws RecordError
 */
export async function collect(inputs: MergeInputs, workflow: Workflow, log: JobLog): Promise<readonly Candidate[]> {
  const { digests = [], artifactPattern } = inputs
  const handed = digests.map((text, at) => candidateOf(text, `line ${at + 1} of \`digests\``))
  if (inputs.digests !== undefined && artifactPattern === '') return handed
  const own = inputs.digests === undefined
  const local = own ? await readJobRecords(workflow.tempFolder, workflow.run) : []
  const found = await collectArtifacts({ own, pattern: artifactPattern }, workflow, log).catch((error: unknown) => {
    // Builds that push nothing hand over empty `digests`, which look like none.
    if (own && error instanceof NoArtifactService && (local.length > 0 || !inputs.push)) return []
    throw error
  })
  return [...handed, ...local.map(({ record, origin }) => ({ digest: record.digest, record, origin })), ...found]
}

/**
 * Reads what is in the run's artifacts.
 * @throws RecordError
 */
export async function collectArtifacts(
  choice: ArtifactChoice,
  { run, tempFolder }: Pick<Workflow, 'run' | 'tempFolder'>,
  log: JobLog,
): Promise<readonly Candidate[]> {
  const found = await log.group('Collect the digests of the run', () => readRecords(choice, tempFolder))
  return found.map((one): Candidate => {
    if (one.kind === 'digest') return { digest: one.digest, origin: one.origin }
    const record = readFoundRecord(one, run)
    return { digest: record.digest, record, origin: originOfArtifact(one.artifact) }
  })
}

/** A line of `digests`: workflows may take those from another run. */
function candidateOf(text: string, origin: string): Candidate {
  const digest = `sha256:${text.replace(/^sha256:/, '')}`
  if (isDigest(digest)) return { digest, origin }
  const record = parseRecord(text, origin)
  return { digest: record.digest, record, origin }
}
