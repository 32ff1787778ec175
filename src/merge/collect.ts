import { NoArtifactService, originOfArtifact, readFoundRecord, readRecords } from '../artifacts.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import type { JobLog } from '../job-log.ts'
import { type Digest, isDigest } from '../oci/digest.ts'
import { type DigestRecord, parseRecord } from '../record.ts'
import type { Workflow } from '../workflow.ts'

/** A digest that a build job has handed over, with what it says of it. */
export interface Candidate {
  readonly digest: Digest
  /** Absent for a bare digest. */
  readonly record?: DigestRecord
  /** Where it is from, for errors. */
  readonly origin: string
}

/**
 * What builds have handed over: the lines of `digests`, and without them what is in the run's artifacts; an
 * `artifact-pattern` names artifacts of other actions, which are read in either case.
 * @throws RecordError
 */
export async function collect(
  inputs: MergeInputs,
  { run, tempFolder }: Workflow,
  log: JobLog,
): Promise<readonly Candidate[]> {
  const { digests = [], artifactPattern } = inputs
  const handed = digests.map((text, at) => candidateOf(text, `line ${at + 1} of \`digests\``))
  if (inputs.digests !== undefined && artifactPattern === '') return handed
  const own = inputs.digests === undefined
  const found = await log
    .group('Collect the digests of the run', () => readRecords({ own, pattern: artifactPattern }, tempFolder))
    .catch((error: unknown) => {
      // Builds that push nothing hand over empty `digests`, which look like none.
      if (own && !inputs.push && error instanceof NoArtifactService) return []
      throw error
    })
  const candidates = found.map((one): Candidate => {
    if (one.kind === 'digest') return { digest: one.digest, origin: one.origin }
    const record = readFoundRecord(one, run)
    return { digest: record.digest, record, origin: originOfArtifact(one.artifact) }
  })
  return [...handed, ...candidates]
}

/** A line of `digests`: workflows may take those from another run. */
function candidateOf(text: string, origin: string): Candidate {
  const digest = `sha256:${text.replace(/^sha256:/, '')}`
  if (isDigest(digest)) return { digest, origin }
  const record = parseRecord(text, origin)
  return { digest: record.digest, record, origin }
}
