import { oneLine } from '../failure.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import { printRepository } from '../oci/reference.ts'
import { type DigestRecord, RecordError } from '../record.ts'
import type { Workflow } from '../workflow.ts'
import type { Candidate } from './collect.ts'

/**
 * The candidates that go into the index: those whose records are of the images to publish, whatever their artifacts are
 * called, one for each system. A bare digest says nothing of itself, and is one of them.
 * @throws RecordError where there are none, two for a system, or fewer than the build's matrix has jobs
 */
export function choose(
  handed: readonly Candidate[],
  { images, systems }: Pick<MergeInputs, 'images' | 'systems'>,
  { run }: Pick<Workflow, 'run'>,
): readonly Candidate[] {
  const names = images.map(printRepository)
  const latest = latestAttempts(handed)
  const recorded = latest.filter(({ record }) => record !== undefined && names.includes(record.image))
  // What a record tells of is known better than by its digest alone.
  const known = new Set(recorded.map(({ digest }) => digest))
  const bare = latest.filter(({ record, digest }) => record === undefined && !known.has(digest))
  const ours = [...recorded, ...bare]
  if (ours.length === 0) throw noRecords(handed, names, run.attempt)
  const chosen = onePerSystem(ours, names)
  // Whoever lists the systems knows better than the matrix.
  if (systems.length === 0) checkComplete(chosen, latest, run.attempt)
  return chosen
}

/** Of the records that attempts of one run have left for an image and system those of the last. */
function latestAttempts(handed: readonly Candidate[]): readonly Candidate[] {
  const byPlace = Map.groupBy(handed, ({ record }) => record && `${record.run.id} ${record.image} ${record.system}`)
  return [...byPlace].flatMap(([place, rivals]) => {
    if (place === undefined) return rivals
    const last = Math.max(...rivals.map(({ record }) => record?.run.attempt ?? 0))
    return rivals.filter(({ record }) => record?.run.attempt === last)
  })
}

function onePerSystem(ours: readonly Candidate[], names: readonly string[]): readonly Candidate[] {
  const different = [...new Map(ours.map((one) => [`${one.record?.system} ${one.digest}`, one])).values()]
  return [...Map.groupBy(different, ({ record }) => record?.system)].flatMap(([system, rivals]) => {
    if (system === undefined || rivals.length === 1) return rivals
    // Docker may compress one build differently for each registry: it is one image all the same, and goes to all.
    const ofNames = names.map((name) => rivals.filter(({ record }) => record?.image === name))
    const paths = new Set(rivals.map(({ record }) => record?.storePath))
    if (paths.size === 1 && ofNames.every(({ length }) => length <= 1)) return ofNames.flat().slice(0, 1)
    throw new RecordError({
      what: `There are ${rivals.length} images of ${[...new Set(rivals.map(imageOf))].join(' and ')} for ${system}, and an index has one`,
      words: rivals.map((one) => `${one.digest} in ${one.origin}`).join('\n'),
      help: 'Hand over one digest for each system. Images of different content need a merge each, with an `image` of its own.',
    })
  })
}

function imageOf({ record }: Candidate): string {
  return record?.image ?? ''
}

/** Every record carries the size of its matrix, which may build several images. */
function checkComplete(chosen: readonly Candidate[], latest: readonly Candidate[], attempt: number): void {
  const all = latest.flatMap(({ record }) => record ?? [])
  const matrices = new Map(
    chosen.flatMap(({ record }) => (record === undefined ? [] : [[matrixOf(record), record.job]])),
  )
  for (const [matrix, { id, total = 0 }] of matrices) {
    const records = all.filter((record) => matrixOf(record) === matrix)
    const jobs = new Set(records.map(matrixJobOf))
    if (jobs.size >= total) continue
    const there = [...new Set(records.map(({ image, system }) => `${system} of ${image}`))]
    throw new RecordError({
      what: `Only ${jobs.size} of the ${total} jobs of "${oneLine(id)}" ${jobs.size === 1 ? 'has' : 'have'} handed over a digest`,
      words: `there is ${there.join(', ')}`,
      help: [
        'Look at the other jobs of that matrix: they failed, were skipped, or pushed nothing, or two of them built the same system. No tag has moved.',
        ...ofRerun(attempt),
        `If they build no image, tell this step which systems there are:\n  systems: ${systemsOf(chosen).join(',')}`,
      ].join('\n'),
    })
  }
}

/** A workflow that is called twice has two matrices whose jobs have one id: their sizes tell them apart, if anything. */
function matrixOf({ job: { id, total } }: DigestRecord): string {
  return `${total} ${id}`
}

/** A job with several images leaves a record for each of them: the same digest of the same system. */
function matrixJobOf({ job, system, digest }: DigestRecord): string {
  return job.index === undefined ? `${system} ${digest}` : String(job.index)
}

function systemsOf(candidates: readonly Candidate[]): readonly string[] {
  return [...new Set(candidates.flatMap(({ record }) => record?.system ?? []))]
}

function noRecords(handed: readonly Candidate[], names: readonly string[], attempt: number): RecordError {
  const others = [...new Set(handed.flatMap(({ record }) => record?.image ?? []))]
  return new RecordError({
    what: `No build of this run has handed over a digest for ${names.join(', ')}`,
    words: others.length > 0 ? `there are digests for ${others.join(', ')}` : 'there are no digests at all',
    help: [
      'Let this job wait for the build jobs (`needs: build`), and give both the same `image`. Builds with `push: false` hand over nothing.',
      ...ofRerun(attempt),
    ].join('\n'),
  })
}

/** Jobs that had succeeded don't run again with those that failed, and what they had handed over may have gone. */
function ofRerun(attempt: number): readonly string[] {
  if (attempt <= 1) return []
  return [
    `This is a re-run (attempt ${attempt}): what earlier attempts handed over is kept for the \`retention-days\` of the builds, 1 if they don't say. If it has expired, re-run all jobs.`,
  ]
}
