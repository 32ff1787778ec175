import { RecordError } from '../errors.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import type { Candidate } from '../record/collect.ts'
import { type DigestRecord, replacedBy } from '../record/record.ts'
import { sanitizeLine } from '../text.ts'

/** The inputs that say which image to publish. */
export interface WantedCandidates {
  readonly images: readonly Repository[]
  /** Empty for an image without a variant. */
  readonly variant: string
}

type Run = DigestRecord['run']

/**
 * Returns the candidates for the index: one for each system, of the image and variant to publish, and all bare digests.
 * A system has several candidates if one build was pushed to several repositories.
 * @throws RecordError if there are none, or different images for a system
 */
export function chooseCandidates(
  candidates: readonly Candidate[],
  { images, variant }: WantedCandidates,
  run: Run,
): readonly Candidate[] {
  const names = images.map(formatRepository)
  const latest = latestAttempts(candidates)
  const recorded = latest.filter(
    ({ record }) => record !== undefined && names.includes(record.image) && (record.variant ?? '') === variant,
  )
  // Prefer the record of a digest to the bare digest.
  const known = new Set(recorded.map(({ digest }) => digest))
  const bare = latest.filter(({ record, digest }) => record === undefined && !known.has(digest))
  const chosen = [...recorded, ...bare]
  if (chosen.length === 0) throw noRecordsError(candidates, names, variant, run.attempt)
  return onePerSystem(chosen, names)
}

/** Leaves out records that a later attempt of the same job replaces. */
function latestAttempts(candidates: readonly Candidate[]): readonly Candidate[] {
  const records = candidates.flatMap(({ record }) => record ?? [])
  const replaced = [...Map.groupBy(records, imageKey).values()].flatMap((some) =>
    some.flatMap((record) => replacedBy(record, some)),
  )
  return candidates.filter(({ record }) => record === undefined || !replaced.includes(record))
}

/** Equal for records of the same image, system and variant. */
function imageKey({ image, system, variant }: DigestRecord): string {
  return JSON.stringify([image, system, variant])
}

function onePerSystem(candidates: readonly Candidate[], names: readonly string[]): readonly Candidate[] {
  const different = [...new Map(candidates.map((one) => [`${one.record?.system} ${one.digest}`, one])).values()]
  return [...Map.groupBy(different, ({ record }) => record?.system)].flatMap(([system, same]) => {
    if (system === undefined || same.length === 1) return same
    // Docker may compress one build differently for each registry.
    const ofNames = names.map((name) => same.filter(({ record }) => record?.image === name))
    const paths = new Set(same.map(({ record }) => record?.storePath))
    if (paths.size === 1 && ofNames.every(({ length }) => length <= 1)) return ofNames.flat()
    throw ambiguousSystemError(system, same)
  })
}

function ambiguousSystemError(system: string, candidates: readonly Candidate[]): RecordError {
  const images = [...new Set(candidates.map(({ record }) => record?.image ?? ''))]
  const hint =
    images.length > 1
      ? 'Use a separate merge for each of these images, each with its own `image`.'
      : `If the workflow builds several images of ${images[0]}, give each its own name in the build and the merge:
  variant: debug
To publish only one of them, set \`digests\` to its records.`
  return new RecordError({
    message: `There are ${candidates.length} images of ${images.join(' and ')} for ${system}, but an index can have only one`,
    detail: candidates.map((one) => `${one.digest} in ${one.origin}`).join('\n'),
    hint: `No tag has moved. ${hint}`,
  })
}

/**
 * Checks that all jobs of the matrices that built the chosen images have handed over a record. Every record contains the
 * size of its matrix. A matrix may build several images.
 * @param candidates the records of all images
 * @throws RecordError if a record is missing
 */
export function checkComplete(chosen: readonly Candidate[], candidates: readonly Candidate[], run: Run): void {
  const all = latestAttempts(candidates).flatMap(({ record }) => record ?? [])
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
    const found = [...new Set(records.map((record) => `${record.system} of ${formatImageName(record)}`))]
    throw new RecordError({
      message: `Only ${jobs.size} of the ${total} jobs of "${sanitizeLine(id)}" ${jobs.size === 1 ? 'has' : 'have'} handed over a digest`,
      detail: `found ${found.join(', ')}`,
      hint: [
        'No tag has moved. Check the other jobs of that matrix: they failed, were skipped, pushed nothing, or built the same system twice.',
        ...rerunHint(run.attempt),
        `If they build no image, list the systems in this step:\n  systems: ${systemsOf(chosen).join(',')}`,
      ].join('\n'),
    })
  }
}

/**
 * Leaves out records of other calls of the same reusable workflow. Their jobs have the same ID and indexes, so they could
 * be counted in place of missing jobs.
 */
function withoutOtherCalls(records: readonly DigestRecord[], chosen: readonly Candidate[]): readonly DigestRecord[] {
  const own = records.filter((record) =>
    chosen.some((one) => one.record && formatImageName(one.record) === formatImageName(record)),
  )
  const isOfOtherCall = (record: DigestRecord) =>
    own.some(({ job, digest }) => job.index !== undefined && job.index === record.job.index && digest !== record.digest)
  return records.some((record) => !own.includes(record) && isOfOtherCall(record)) ? own : records
}

function formatImageName({ image, variant }: DigestRecord): string {
  return variant === undefined ? image : `${image} (variant ${variant})`
}

/** Includes the size: two calls of a reusable workflow have jobs with the same ID. */
function matrixOf({ job: { id, total } }: DigestRecord): string {
  return `${total} ${id}`
}

/** A job that pushes to several repositories writes a record for each of them, with the same system and digest. */
function matrixJobOf({ job, system, digest }: DigestRecord): string {
  return job.index === undefined ? `${system} ${digest}` : String(job.index)
}

function systemsOf(candidates: readonly Candidate[]): readonly string[] {
  return [...new Set(candidates.flatMap(({ record }) => record?.system ?? []))]
}

function noRecordsError(
  candidates: readonly Candidate[],
  names: readonly string[],
  variant: string,
  attempt: number,
): RecordError {
  const records = candidates.flatMap(({ record }) => record ?? [])
  const others = [...new Set(records.map(formatImageName))]
  const otherVariant = records.some(({ image }) => names.includes(image))
  const wanted = `${names.join(', ')}${variant === '' ? '' : ` (variant ${variant})`}`
  return new RecordError({
    message: `No build of this run has handed over a digest for ${wanted}`,
    detail: others.length > 0 ? `found digests for ${others.join(', ')}` : 'found no digests',
    hint: [
      otherVariant
        ? 'Set the same `variant` in the build and the merge of an image.'
        : 'Make this job wait for the build jobs (`needs: build`), and give both the same `image`. Builds with `push: false` hand over nothing.',
      ...rerunHint(attempt),
    ].join('\n'),
  })
}

/** Jobs that succeeded are not run again with those that failed, and their records may have expired. */
function rerunHint(attempt: number): readonly string[] {
  if (attempt <= 1) return []
  return [
    `This is a re-run (attempt ${attempt}). Digests of earlier attempts expire after the \`retention-days\` of the builds (1 by default). If they have expired, re-run all jobs.`,
  ]
}
