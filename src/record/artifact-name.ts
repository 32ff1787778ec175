import { createHash } from 'node:crypto'
import { RecordError } from '../errors.ts'
import { sanitizeLine } from '../text.ts'
import { reservesNames } from './artifact-requests.ts'
import { type DigestRecord, parseRecord } from './record.ts'

/** The unchecked content of an artifact of this action. */
export interface FoundRecord {
  readonly kind: 'record'
  /** The artifact's name. */
  readonly artifact: string
  readonly text: string
}

/** Names an artifact in a message. Any job may have chosen the name. */
export function originOfArtifact(name: string): string {
  return `the artifact ${sanitizeLine(name)}`
}

/** The parts of a record that its artifact is named after. */
export type RecordKey = Pick<DigestRecord, 'image' | 'system' | 'variant'>

/**
 * Returns the name of the artifact for the record of an image, variant and system. Contains a hash, because different
 * images can have the same name once the characters that artifact names can't contain are replaced.
 * @param suffix distinguishes several artifacts for the same image, variant and system; 1 adds none
 */
export function artifactName({ image, system, variant }: RecordKey, suffix: number | string = 1): string {
  const readable = image.replace(/[^a-z0-9.-]+/g, '-').slice(0, 120)
  // Image names contain no spaces.
  const hashed = variant === undefined ? image : `${image} ${variant}`
  const hash = createHash('sha256').update(hashed).digest('hex').slice(0, 8)
  const parts = [readable, `${hash}${suffix === 1 ? '' : `.${suffix}`}`, variant, system]
  return `${PREFIX}${parts.filter((part) => part !== undefined).join('-')}`
}

/**
 * Reads the record of an artifact. Any job of the run can write artifacts, so checks that the record belongs there: it is
 * of this run, not of a later attempt, and in an artifact for its image and system.
 * @throws RecordError
 */
export function readFoundRecord({ artifact, text }: FoundRecord, run: DigestRecord['run']): DigestRecord {
  const record = parseRecord(text, originOfArtifact(artifact))
  assertBelongs(record, artifact, run)
  return record
}

/** @throws RecordError if a record does not belong in the artifact in which it was found */
export function assertBelongs(record: DigestRecord, artifact: string, run: DigestRecord['run']): void {
  const { image, system, variant } = record
  const wrong = [
    record.run.id === run.id
      ? []
      : `it is of run ${sanitizeLine(record.run.id).slice(0, 64)}, but this is run ${run.id}`,
    // Gitea counts attempts per job.
    record.run.attempt <= run.attempt || !reservesNames()
      ? []
      : `it is of attempt ${record.run.attempt}, but this is attempt ${run.attempt}`,
    [...numberedNames(record), jobArtifactName(record)].includes(artifact)
      ? []
      : `it is of ${image} for ${system}${variant === undefined ? '' : `, variant ${variant}`}, which belongs in ${artifactName(record)}`,
  ].flat()
  if (wrong.length === 0) return
  throw new RecordError({
    message: `The digest record in ${originOfArtifact(artifact)} does not belong there`,
    detail: wrong.join('\n'),
    hint: 'It was not written by a build of this run. Rename other artifacts of the workflow whose names begin with image-digest-, delete this artifact on the page of the run, and run this job again.',
  })
}

export const PREFIX = 'image-digest-'

/** Each attempt of a job uses up one name, or about a dozen if the service keeps failing. */
const MOST_NAMES = 60

/**
 * Returns a name that no other job uses. For services that let any job overwrite an artifact.
 */
export function jobArtifactName(record: DigestRecord): string {
  const { job, revision } = record
  const text = JSON.stringify([job.id, job.total, job.index, job.inputs, revision])
  return artifactName(record, createHash('sha256').update(text).digest('hex').slice(0, 8))
}

/**
 * Returns the names that the artifact of a record may have, in the order in which they are tried. A name may be taken by
 * another job of the same image, variant and system, or by an upload that broke off.
 */
export function numberedNames(record: RecordKey): readonly string[] {
  return Array.from({ length: MOST_NAMES }, (_, at) => artifactName(record, at + 1))
}
