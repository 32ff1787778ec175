import { readRecords } from '../artifacts.ts'
import type { MergeInputs } from '../inputs.ts'
import type { JobLog } from '../job-log.ts'
import type { Result, Tools } from '../mode.ts'
import { platformOf, systemOf } from '../nix/system.ts'
import { type Annotation, placeAnnotations } from '../oci/annotation.ts'
import { type Digest, digestOf, isDigest } from '../oci/digest.ts'
import { composeIndex } from '../oci/image-index.ts'
import { OCI_INDEX } from '../oci/media-type.ts'
import { byPlatform, fits, type Platform, platformKey, printPlatform } from '../oci/platform.ts'
import { printReference, printRepository, type Repository, sameRepository } from '../oci/reference.ts'
import { type DigestRecord, parseRecord, RecordError } from '../record.ts'
import { fetchImage } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import type { Workflow } from '../workflow.ts'
import { MergeError } from './merge-error.ts'
import { summarizeMerge } from './summary.ts'
import { moveTags } from './tags.ts'

/**
 * Publishes the images of all systems under one set of tags: records are collected and checked, each image is checked
 * at the registry, the index is pushed by digest and read back, and only then tags move.
 * @throws Failure, with every tag as it was
 */
export async function merge(inputs: MergeInputs, workflow: Workflow, { registry, log }: Tools): Promise<Result> {
  const { images, tags, push } = inputs
  const handed = await collect(inputs, workflow, log)
  if (handed.length === 0 && !push) {
    log.notice('There is nothing to check: no digest was handed over, as builds with `push: false` hand over none')
    return { outputs: {}, summary: summarizeMerge([], false) }
  }
  const chosen = images.map((image) => ({ image, candidates: choose(handed, image) }))
  const indexes = await Promise.all(
    chosen.map(async ({ image, candidates }) => {
      const members = await Promise.all(candidates.map((candidate) => verify(candidate, image, registry)))
      checkMembers(members, image, inputs.systems)
      return composed(image, members, inputs.annotations, log)
    }),
  )

  if (push) {
    await Promise.all(indexes.map(({ image, index }) => putIndex(registry, image, index)))
    await moveTags(
      registry,
      tags.flatMap((tag) =>
        indexes.flatMap((one) => (sameRepository(one.image, tag.repository) ? [{ ...tag, index: one.index }] : [])),
      ),
    )
  }
  for (const { image, index, members } of indexes) {
    const platforms = members.map(({ platform }) => printPlatform(platform)).join(', ')
    log.info(`${printRepository(image)}@${index.digest}: ${platforms}`)
  }
  for (const tag of tags) log.info(`${push ? 'Published' : 'Would publish'} ${printReference(tag)}`)
  return report(indexes, inputs)
}

/** A digest that a build job has handed over, with what it says of it. */
interface Candidate {
  readonly digest: Digest
  /** Absent for a bare digest. */
  readonly record?: DigestRecord
  readonly origin: string
}

/** A candidate that the registry has, and that is what its record says. */
interface Member {
  readonly digest: Digest
  readonly mediaType: string
  readonly size: number
  readonly platform: Platform
  readonly system: string
}

interface ComposedIndex {
  readonly image: Repository
  readonly members: readonly Member[]
  readonly index: StoredManifest
}

async function collect({ digests }: MergeInputs, { tempFolder }: Workflow, log: JobLog): Promise<readonly Candidate[]> {
  if (digests === undefined) {
    const found = await log.group('Collect the digests of the run', () => readRecords(tempFolder))
    return found.map(({ text, origin }) => withRecord(parseRecord(text, origin), origin))
  }
  return digests.map((text, at) => {
    const origin = `line ${at + 1} of \`digests\``
    return isDigest(text) ? { digest: text, origin } : withRecord(parseRecord(text, origin), origin)
  })
}

function withRecord(record: DigestRecord, origin: string): Candidate {
  return { digest: record.digest, record, origin }
}

/**
 * The candidates of one image: by what their records say, whatever their artifacts are called. A bare digest says
 * nothing, and is one for every image.
 * @throws RecordError where there are none, or two for a system
 */
function choose(handed: readonly Candidate[], image: Repository): readonly Candidate[] {
  const name = printRepository(image)
  const ours = handed.filter(({ record }) => record === undefined || record.image === name)
  if (ours.length === 0) throw noRecords(handed, name)
  const different = [...new Map(ours.map((one) => [`${one.record?.system} ${one.digest}`, one])).values()]
  for (const [system, rivals] of Map.groupBy(different, ({ record }) => record?.system)) {
    if (system === undefined || rivals.length === 1) continue
    throw new RecordError({
      what: `There are ${rivals.length} images of ${name} for ${system}, and an index has one`,
      words: rivals.map(({ digest, origin }) => `${digest} in ${origin}`).join('\n'),
      help: 'Hand over one digest for each system; give each variant of an image an `image` of its own.',
    })
  }
  return different
}

function noRecords(handed: readonly Candidate[], name: string): RecordError {
  const others = [...new Set(handed.map(({ record }) => record?.image))]
  return new RecordError({
    what: `No build of this run has handed over a digest for ${name}`,
    words: others.length > 0 ? `there are digests for ${others.join(', ')}` : 'there are no digests at all',
    help: 'Let this job wait for the build jobs (`needs: build`), and give both the same `image`. Builds with `push: false` hand over nothing.',
  })
}

/** Holds what was handed over against what the registry has. */
async function verify({ digest, record, origin }: Candidate, image: Repository, registry: Registry): Promise<Member> {
  const found = await fetchImage(registry, image, digest)
  const system = record?.system ?? systemOf(found.platform)
  const name = `${printRepository(image)}@${digest}`
  if (system === undefined)
    throw new MergeError({
      what: `${name} is for ${printPlatform(found.platform)}, which is no system of Nix's`,
      words: origin,
    })
  const wanted = platformOf(system)
  if (!fits(found.platform, wanted))
    throw new MergeError({
      what: `${name} is not what its record says`,
      words: `${origin} says ${system}, which is ${printPlatform(wanted)}, and the image is for ${printPlatform(found.platform)}`,
      help: 'Nothing was published. Run the build of this system again.',
    })
  const variant = found.platform.variant ?? wanted.variant
  const platform = { os: wanted.os, architecture: wanted.architecture, ...(variant !== undefined && { variant }) }
  return { digest: found.digest, mediaType: found.mediaType, size: found.size, platform, system }
}

/** @throws MergeError where two members are for one platform, or they are not for the systems asked for */
function checkMembers(members: readonly Member[], image: Repository, systems: readonly string[]): void {
  const name = printRepository(image)
  const there = members.map(({ system }) => system)
  for (const rivals of Map.groupBy(members, ({ platform }) => platformKey(platform)).values()) {
    const [first, ...more] = rivals
    if (first === undefined || more.length === 0) continue
    throw new MergeError({
      what: `There are ${rivals.length} images of ${name} for ${printPlatform(first.platform)}, and an index has one`,
      words: rivals.map(({ digest, platform: own }) => `${digest} (${printPlatform(own)})`).join('\n'),
      help: 'Hand over one digest for each platform.',
    })
  }
  if (systems.length === 0) return
  const missing = systems.filter((system) => !there.includes(system))
  const extra = there.filter((system) => !systems.includes(system))
  if (missing.length > 0)
    throw new MergeError({
      what: `${name} lacks ${missing.join(', ')}, which \`systems\` asks for`,
      words: `there is ${there.join(', ')}`,
      help: 'Look at the build job of each missing system: it failed, was skipped, or pushed to another `image`. No tag has moved.',
    })
  if (extra.length > 0)
    throw new MergeError({
      what: `${name} has ${extra.join(', ')}, which \`systems\` does not list`,
      help: 'Add to `systems` what is to be published, or leave it out to publish all that was built. No tag has moved.',
    })
}

function composed(
  image: Repository,
  members: readonly Member[],
  annotations: readonly Annotation[],
  log: JobLog,
): ComposedIndex {
  const placed = placeAnnotations(
    annotations,
    members.map(({ platform }) => platform),
  )
  for (const text of placed.homeless)
    log.warning(
      `The annotation ${text} has no place in the index of ${printRepository(image)}, whose images are pushed already; it is left out`,
    )
  const entries = members.map((member) => ({ ...member, annotations: placed.descriptor(member.platform) }))
  const bytes = Buffer.from(composeIndex(entries, placed.index))
  return {
    image,
    members: members.toSorted(byPlatform),
    index: { bytes, digest: digestOf(bytes), mediaType: OCI_INDEX },
  }
}

/** Reads the index back, so that no tag is moved to something that can't be pulled. */
async function putIndex(
  registry: Registry,
  image: Repository,
  { bytes, digest, mediaType }: StoredManifest,
): Promise<void> {
  await registry.putManifest(image, digest, mediaType, bytes)
  const stored = await registry.getManifest(image, digest)
  if (stored !== undefined) return
  throw new MergeError({
    what: `${image.host} took the index ${printRepository(image)}@${digest}, but does not have it`,
    help: 'No tag has moved. This is a fault of the registry; run the job again.',
  })
}

function report(indexes: readonly ComposedIndex[], { tags, push }: MergeInputs): Result {
  const [first] = indexes
  if (first === undefined) throw new Error('no image, though inputs have one at least')
  const published = indexes.map(({ image, index, members }) => ({
    image: printRepository(image),
    digest: index.digest,
    tags: tags.filter(({ repository }) => sameRepository(repository, image)).map(printReference),
    platforms: members,
  }))
  const platforms = first.members.map(({ system, platform, digest }) => ({
    system,
    platform: printPlatform(platform),
    digest,
  }))
  return {
    outputs: {
      digest: first.index.digest,
      image: `${printRepository(first.image)}@${first.index.digest}`,
      tags: push ? tags.map(printReference).join('\n') : '',
      platforms: JSON.stringify(platforms),
    },
    summary: summarizeMerge(published, push),
  }
}
