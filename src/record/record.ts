import * as v from 'valibot'
import { ActionError } from '../errors.ts'
import { readJson } from '../json.ts'
import { platformOf } from '../nix/system.ts'
import type { Digest } from '../oci/digest.ts'
import { isLayerFormat, isManifestType, type LayerFormat } from '../oci/media-type.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { formatRepository, parseReference } from '../oci/reference.ts'
import { DIGEST, PLATFORM } from '../oci/schema.ts'

/** A digest record, or the set of them, that merge can't go by. */
export class RecordError extends ActionError {
  override readonly name = 'RecordError'
}

/** What build hands to merge about one system's image, and all that it hands over. */
export interface DigestRecord {
  readonly schema: 1
  /** The canonical name of the repository. */
  readonly image: string
  readonly system: string
  readonly platform: Platform
  readonly digest: Digest
  readonly mediaType: string
  /** Of the manifest, in bytes. */
  readonly size: number
  readonly storePath: string
  /** The keys of the labels that build added to what the store path has. Absent: who made the record does not say. */
  readonly labels?: readonly string[] | undefined
  /** What layers were to be compressed with, where some were left as they came, compressed by another. */
  readonly compression?: LayerFormat | undefined
  /** Keeps apart several images of one repository in a run. Absent if the build has no `variant`. */
  readonly variant?: string | undefined
  /** The commit that was built. Absent if it is unknown. */
  readonly revision?: string | undefined
  readonly job: {
    readonly id: string
    /** How many jobs the matrix has, where the runner told. */
    readonly total?: number | undefined
    /** Which of them this one is, from 0. */
    readonly index?: number | undefined
    /** A hash of the inputs that say what to build. Tells apart the jobs of a reusable workflow that is called twice. */
    readonly inputs?: string | undefined
  }
  readonly run: { readonly id: string; readonly attempt: number }
}

/**
 * Reports whether a record takes the place of one that an earlier attempt of the run left for the same image, system and
 * variant: the same job wrote both. A job that built something else than before is only known by all that says what it
 * builds, because the calls of a reusable workflow have jobs with the same ID and matrix index.
 */
function replaces(later: DigestRecord, earlier: DigestRecord): boolean {
  if (later.run.id !== earlier.run.id || later.run.attempt <= earlier.run.attempt) return false
  if (later.digest === earlier.digest) return true
  const sameInputs = sameJob(later, earlier) && later.job.inputs === earlier.job.inputs
  return sameInputs && (later.storePath === earlier.storePath || later.revision === earlier.revision)
}

/**
 * Returns the records that another one of the same place replaces. If jobs that can't be told apart have left different
 * images in one attempt, none is replaced: which of them is of which job is unknown.
 */
export function replacedBy(later: DigestRecord, earlier: readonly DigestRecord[]): readonly DigestRecord[] {
  const replaced = earlier.filter((one) => replaces(later, one))
  const attempts = Map.groupBy(replaced, ({ run }) => run.attempt)
  const contested = [...attempts.values()].some((some) => new Set(some.map(({ digest }) => digest)).size > 1)
  return contested ? replaced.filter(({ digest }) => digest === later.digest) : replaced
}

/** Reports whether two records name the same job of a workflow. In one attempt, only one of them can be right. */
export function sameJob({ job: one }: DigestRecord, { job: other }: DigestRecord): boolean {
  return one.id === other.id && one.total === other.total && one.index === other.index
}

/** A name that may be the `variant` of a record. */
export function isVariant(text: string): boolean {
  return /^[a-z0-9._-]{1,64}$/.test(text)
}

/** A full commit ID of Git. */
export function isCommitId(text: string): boolean {
  return /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(text)
}

/** The record as one line of JSON. */
export function serializeRecord(record: DigestRecord): string {
  return JSON.stringify(record)
}

/**
 * Reads a record. It is data from another job: each field is checked. Fields that it does not know are passed over.
 * @param origin where it is from, for the error: `the artifact image-digest-…`
 * @throws RecordError
 */
export function parseRecord(text: string, origin: string): DigestRecord {
  const result = readJson(RECORD, text)
  if (!result.ok) {
    const { place, problem } = result
    throw invalid(origin, place === undefined ? problem : `"${place}": ${problem}`)
  }
  const { platform, system } = result.value
  const expected = platformOf(system)
  if (!fits(platform, expected))
    throw invalid(origin, `"platform" is ${formatPlatform(platform)}, and ${system} is ${formatPlatform(expected)}`)
  return result.value
}

function invalid(origin: string, why: string): RecordError {
  return new RecordError({
    message: `The digest record in ${origin} is not valid`,
    detail: why,
    hint: 'Use the same version of this action in build and merge, and let nothing else write artifacts named image-digest-….',
  })
}

const RECORD = v.object({
  schema: v.literal(1, 'is not 1, the one version that is known'),
  image: v.pipe(v.string(), v.check(isImageName, 'is not the name of an image'), v.transform(canonicalName)),
  system: v.pipe(v.string(), v.check(isSystem, 'is not a system that images can be for')),
  platform: PLATFORM,
  digest: DIGEST,
  mediaType: v.pipe(v.string(), v.check(isManifestType, 'is not the media type of an image manifest')),
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
  storePath: v.pipe(v.string(), v.regex(/^\/[^\p{Cc}]*$/u, 'is no path')),
  labels: v.optional(v.array(v.string())),
  compression: v.optional(v.custom<LayerFormat>(isLayerFormat, 'is no compression of layers')),
  variant: v.optional(v.pipe(v.string(), v.check(isVariant, 'is not the name of a variant'))),
  revision: v.optional(v.pipe(v.string(), v.check(isCommitId, 'is not the ID of a commit'))),
  job: v.object({
    id: v.string(),
    inputs: v.optional(v.string()),
    total: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(1))),
    index: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(0))),
  }),
  run: v.object({ id: v.string(), attempt: v.pipe(v.number(), v.safeInteger(), v.minValue(1)) }),
})

function isImageName(text: string): boolean {
  try {
    const { tag, digest } = parseReference(text)
    return tag === undefined && digest === undefined
  } catch {
    return false
  }
}

function canonicalName(text: string): string {
  return formatRepository(parseReference(text).repository)
}

function isSystem(text: string): boolean {
  try {
    return platformOf(text) !== undefined
  } catch {
    return false
  }
}
