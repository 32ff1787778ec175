import * as v from 'valibot'
import { RecordError } from '../errors.ts'
import { readJson } from '../json.ts'
import { RESOURCE, type ResourceDescriptor } from '../nix/flake-lock.ts'
import { isStorePath } from '../nix/store-path.ts'
import { platformOf } from '../nix/system.ts'
import { isLayerFormat, isManifestType, type LayerFormat } from '../oci/manifest.ts'
import { fits, formatPlatform, PLATFORM, type Platform } from '../oci/platform.ts'
import { DIGEST, type Digest, formatRepository, parseReference } from '../oci/reference.ts'
import { isCommitId } from '../process/git.ts'

/** What build hands over to merge: the image of one system. */
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
  /** The keys of the labels that build added. Absent: unknown. */
  readonly labels?: readonly string[] | undefined
  /** The requested compression, if some layers kept another one. */
  readonly compression?: LayerFormat | undefined
  /** Distinguishes several images of one repository in a run. Absent if the build has no `variant`. */
  readonly variant?: string | undefined
  /** The manifest of the attestation with the image's SBOM. Absent if it has none. */
  readonly sbom?: Digest | undefined
  /** The commit that was built. Absent if it is unknown. */
  readonly revision?: string | undefined
  /** The URL of the repository that has the commit. Absent if it is unknown. */
  readonly source?: string | undefined
  /** The path of the derivation that was evaluated. Absent if it is unknown. */
  readonly derivation?: string | undefined
  /** The locked inputs of the flake. Absent if they are unknown. */
  readonly inputs?: readonly ResourceDescriptor[] | undefined
  readonly job: {
    readonly id: string
    /** The number of jobs in the matrix, if known. */
    readonly total?: number | undefined
    /** The index of the job in the matrix, from 0. */
    readonly index?: number | undefined
    /** A hash of the inputs that determine what is built. Distinguishes the jobs of two calls of a reusable workflow. */
    readonly inputs?: string | undefined
  }
  readonly run: { readonly id: string; readonly attempt: number }
}

/**
 * Reports whether a record replaces one of an earlier attempt for the same image, system and variant, because the same job
 * wrote both. Compares the inputs as well: the calls of a reusable workflow have jobs with the same ID and matrix index.
 */
function replaces(later: DigestRecord, earlier: DigestRecord): boolean {
  if (later.run.id !== earlier.run.id || later.run.attempt <= earlier.run.attempt) return false
  if (later.digest === earlier.digest) return true
  const sameInputs = sameJob(later, earlier) && later.job.inputs === earlier.job.inputs
  return sameInputs && (later.storePath === earlier.storePath || later.revision === earlier.revision)
}

/**
 * Returns the records that a record for the same image, system and variant replaces. If indistinguishable jobs have built
 * different images in one attempt, none of them is replaced.
 */
export function replacedBy(later: DigestRecord, earlier: readonly DigestRecord[]): readonly DigestRecord[] {
  const replaced = earlier.filter((one) => replaces(later, one))
  const attempts = Map.groupBy(replaced, ({ run }) => run.attempt)
  const contested = [...attempts.values()].some((some) => new Set(some.map(({ digest }) => digest)).size > 1)
  return contested ? replaced.filter(({ digest }) => digest === later.digest) : replaced
}

/** Reports whether two records name the same job of a workflow. Within one attempt, they contradict each other. */
export function sameJob({ job: one }: DigestRecord, { job: other }: DigestRecord): boolean {
  return one.id === other.id && one.total === other.total && one.index === other.index
}

/** Reports whether a text is a valid `variant`. */
export function isVariant(text: string): boolean {
  return /^[a-z0-9._-]{1,64}$/.test(text)
}

/** Returns a record as one line of JSON. */
export function serializeRecord(record: DigestRecord): string {
  return JSON.stringify(record)
}

/**
 * Parses a record. Validates each field, because another job has written it. Ignores unknown fields.
 * @param origin where the record comes from, for the error: `the artifact image-digest-…`
 * @throws RecordError
 */
export function parseRecord(text: string, origin: string): DigestRecord {
  const result = readJson(RECORD, text)
  if (!result.ok) {
    const { place, problem } = result
    throw invalidRecord(origin, place === undefined ? problem : `"${place}": ${problem}`)
  }
  const { platform, system } = result.value
  const expected = platformOf(system)
  if (!fits(platform, expected))
    throw invalidRecord(
      origin,
      `"platform" is ${formatPlatform(platform)}, but ${system} is ${formatPlatform(expected)}`,
    )
  return result.value
}

function invalidRecord(origin: string, why: string): RecordError {
  return new RecordError({
    message: `The digest record in ${origin} is not valid`,
    detail: why,
    hint: 'Use the same version of this action in build and merge. Rename other artifacts whose names begin with image-digest-.',
  })
}

const RECORD = v.object({
  schema: v.literal(1, 'is not 1, the only supported version'),
  image: v.pipe(v.string(), v.check(isImageName, 'is not the name of an image'), v.transform(canonicalName)),
  system: v.pipe(v.string(), v.check(isSystem, 'is not a supported system')),
  platform: PLATFORM,
  digest: DIGEST,
  mediaType: v.pipe(v.string(), v.check(isManifestType, 'is not the media type of an image manifest')),
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
  storePath: v.pipe(v.string(), v.regex(/^\/[^\p{Cc}]*$/u, 'is not an absolute path')),
  labels: v.optional(v.array(v.string())),
  compression: v.optional(v.custom<LayerFormat>(isLayerFormat, 'is not a layer compression')),
  variant: v.optional(v.pipe(v.string(), v.check(isVariant, 'is not the name of a variant'))),
  revision: v.optional(v.pipe(v.string(), v.check(isCommitId, 'is not a commit ID'))),
  source: v.optional(
    v.pipe(v.string(), v.regex(/^https?:\/\/[^\s\p{Cc}@?#/]+(\/[^\s\p{Cc}?#]*)?$/u, 'is not the URL of a repository')),
  ),
  sbom: v.optional(DIGEST),
  derivation: v.optional(v.pipe(v.string(), v.check(isStorePath, 'is not a store path'))),
  inputs: v.optional(v.array(RESOURCE)),
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
