import type { Workflow } from '../context.ts'
import { sanitizeLine } from '../errors.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import { formatRepository } from '../oci/reference.ts'
import { type DigestRecord, RecordError, replacedBy } from '../record/record.ts'
import type { Candidate } from './collect.ts'

type Wanted = Pick<MergeInputs, 'images' | 'variant'>

/**
 * Returns the candidates that go into the index: those whose records are of the images and the variant to publish,
 * whatever their artifacts are called, one for each system. A bare digest says nothing of itself, and is one of them. A
 * system has several if they are the same build in several repositories: `verify` compares those.
 * @throws RecordError if there are none, or several for a system
 */
export function choose(
  handed: readonly Candidate[],
  { images, variant }: Wanted,
  { run }: Pick<Workflow, 'run'>,
): readonly Candidate[] {
  const names = images.map(formatRepository)
  const latest = latestAttempts(handed)
  const recorded = latest.filter(
    ({ record }) => record !== undefined && names.includes(record.image) && (record.variant ?? '') === variant,
  )
  // What a record tells of is known better than by its digest alone.
  const known = new Set(recorded.map(({ digest }) => digest))
  const bare = latest.filter(({ record, digest }) => record === undefined && !known.has(digest))
  const ours = [...recorded, ...bare]
  if (ours.length === 0) throw noRecords(handed, names, variant, run.attempt)
  return onePerSystem(ours, names)
}

/** Leaves out the records that a later attempt of the same job replaces. */
function latestAttempts(handed: readonly Candidate[]): readonly Candidate[] {
  const records = handed.flatMap(({ record }) => record ?? [])
  const replaced = [...Map.groupBy(records, placeOf).values()].flatMap((some) =>
    some.flatMap((record) => replacedBy(record, some)),
  )
  return handed.filter(({ record }) => record === undefined || !replaced.includes(record))
}

function placeOf({ image, system, variant }: DigestRecord): string {
  return JSON.stringify([image, system, variant])
}

function onePerSystem(ours: readonly Candidate[], names: readonly string[]): readonly Candidate[] {
  const different = [...new Map(ours.map((one) => [`${one.record?.system} ${one.digest}`, one])).values()]
  return [...Map.groupBy(different, ({ record }) => record?.system)].flatMap(([system, rivals]) => {
    if (system === undefined || rivals.length === 1) return rivals
    // Docker may compress one build differently for each registry.
    const ofNames = names.map((name) => rivals.filter(({ record }) => record?.image === name))
    const paths = new Set(rivals.map(({ record }) => record?.storePath))
    if (paths.size === 1 && ofNames.every(({ length }) => length <= 1)) return ofNames.flat()
    throw severalForSystem(system, rivals)
  })
}

function severalForSystem(system: string, rivals: readonly Candidate[]): RecordError {
  const images = [...new Set(rivals.map(imageOf))]
  const hint =
    images.length > 1
      ? 'Publish images of different content by a merge each, with an `image` of its own.'
      : `If the workflow builds several images of ${images[0]}, give each its own name, in its build and in its merge:
  variant: debug
To publish only one of them, set \`digests\` to its records.`
  return new RecordError({
    message: `There are ${rivals.length} images of ${images.join(' and ')} for ${system}, and an index has one`,
    detail: rivals.map((one) => `${one.digest} in ${one.origin}`).join('\n'),
    hint: `No tag has moved. ${hint}`,
  })
}

function imageOf({ record }: Candidate): string {
  return record?.image ?? ''
}

/**
 * Checks that all jobs of the matrices that built the chosen images have handed over a record. Every record has the size
 * of its matrix, which may build several images.
 * @param handed all records that are known, of whatever image
 * @throws RecordError if one is missing
 */
export function checkComplete(
  chosen: readonly Candidate[],
  handed: readonly Candidate[],
  { run }: Pick<Workflow, 'run'>,
): void {
  const all = latestAttempts(handed).flatMap(({ record }) => record ?? [])
  const matrices = new Map(
    chosen.flatMap(({ record }) => (record === undefined ? [] : [[matrixOf(record), record.job]])),
  )
  for (const [matrix, { id, total = 0 }] of matrices) {
    const records = withoutOtherCalls(
      all.filter((record) => matrixOf(record) === matrix),
      chosen,
    )
    const jobs = new Set(records.map(matrixJobOf))
    if (jobs.size >= total) continue
    const there = [...new Set(records.map((record) => `${record.system} of ${nameOf(record)}`))]
    throw new RecordError({
      message: `Only ${jobs.size} of the ${total} jobs of "${sanitizeLine(id)}" ${jobs.size === 1 ? 'has' : 'have'} handed over a digest`,
      detail: `there is ${there.join(', ')}`,
      hint: [
        'Look at the other jobs of that matrix: they failed, were skipped, or pushed nothing, or two of them built the same system. No tag has moved.',
        ...ofRerun(run.attempt),
        `If they build no image, tell this step which systems there are:\n  systems: ${systemsOf(chosen).join(',')}`,
      ].join('\n'),
    })
  }
}

/**
 * Leaves out the records of other calls of a reusable workflow. Their jobs have the same ID and the same indexes, so a
 * job of them could be counted in place of one that is missing.
 */
function withoutOtherCalls(records: readonly DigestRecord[], chosen: readonly Candidate[]): readonly DigestRecord[] {
  const own = records.filter((record) => chosen.some((one) => one.record && nameOf(one.record) === nameOf(record)))
  const isOfOtherCall = (record: DigestRecord) =>
    own.some(({ job, digest }) => job.index !== undefined && job.index === record.job.index && digest !== record.digest)
  return records.some((record) => !own.includes(record) && isOfOtherCall(record)) ? own : records
}

function nameOf({ image, variant }: DigestRecord): string {
  return variant === undefined ? image : `${image} (variant ${variant})`
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

function noRecords(
  handed: readonly Candidate[],
  names: readonly string[],
  variant: string,
  attempt: number,
): RecordError {
  const records = handed.flatMap(({ record }) => record ?? [])
  const others = [...new Set(records.map(nameOf))]
  const otherVariant = records.some(({ image }) => names.includes(image))
  const wanted = `${names.join(', ')}${variant === '' ? '' : ` (variant ${variant})`}`
  return new RecordError({
    message: `No build of this run has handed over a digest for ${wanted}`,
    detail: others.length > 0 ? `there are digests for ${others.join(', ')}` : 'there are no digests at all',
    hint: [
      otherVariant
        ? 'Give the build and the merge of an image the same `variant`.'
        : 'Let this job wait for the build jobs (`needs: build`), and give both the same `image`. Builds with `push: false` hand over nothing.',
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
