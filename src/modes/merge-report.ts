import type { Relation } from '../actions/commits.ts'
import type { IndexAttestation } from '../attest/attest.ts'
import { compressedSize, type ImageChanges } from '../changes/image-changes.ts'
import { serializeChanges } from '../changes/report.ts'
import { commitOfRun, type Workflow } from '../context.ts'
import type { MergeInputs } from '../inputs/merge.ts'
import type { JobLog, Log } from '../log.ts'
import { type Annotation, placeAnnotations, REVISION, SOURCE } from '../oci/annotation.ts'
import { formatPlatform } from '../oci/platform.ts'
import { formatReference, formatRepository, type Repository, sameRepository } from '../oci/reference.ts'
import type { PublishedTag } from '../publish/published.ts'
import { formatLoss, plansWithLoss, type TagPlan } from '../publish/tag-plan.ts'
import type { Member } from '../publish/verify.ts'
import type { DigestRecord } from '../record/record.ts'
import type { StoredManifest } from '../registry/registry.ts'
import { sanitizeLine } from '../text.ts'
import { summarizeMerge } from './merge-summary.ts'
import type { Result } from './mode.ts'

/** Reports a merge with `push: false` after builds with `push: false`. */
export function reportNothing(log: JobLog): Result {
  const why = 'builds with `push: false` push no images and hand over no digests'
  log.notice(`Nothing to check: ${why}`)
  return { outputs: {}, summary: `### Nothing to check\n\nNo digests were handed over: ${why}.\n` }
}

/** Returns a log that skips messages it has logged before. Most of a tag plan is unchanged when tags are planned again. */
export function logOnce(log: Log): Log {
  const logged = new Set<string>()
  const once = (print: (message: string) => void) => (message: string) => {
    if (!logged.has(message)) print(message)
    logged.add(message)
  }
  return { info: once(log.info), warning: once(log.warning), debug: once(log.debug) }
}

/**
 * Warns about tags that lose a platform, that stay at a newer commit, or that may move to an older one.
 * @param head the commit of the index
 */
export function logTagPlan(
  plans: readonly TagPlan[],
  { allowOlder, push }: Pick<MergeInputs, 'allowOlder' | 'push'>,
  head: string | undefined,
  relations: Relations,
  log: Log,
): void {
  for (const plan of plansWithLoss(plans))
    log.warning(`${formatLoss(plan)}. \`allow-missing-platforms: true\` permits this.`)
  for (const { tag, before, action } of plans) {
    const name = formatReference(tag)
    const relation = before.revision === undefined ? undefined : relations.get(before.revision)
    if (action === 'skipped')
      log.warning(
        `Not moving ${name}: it points to commit ${before.revision}, which is newer than ${head}. Set \`allow-older: true\` to move it anyway.`,
      )
    else if (action === 'moved' && !allowOlder && typeof relation !== 'string')
      logUnknownOrder(`${push ? 'Moving' : 'Would move'} ${name}`, before.revision, head, relation, log)
  }
}

function logUnknownOrder(
  moving: string,
  from: string | undefined,
  to: string | undefined,
  relation: Exclude<Relation, string> | undefined,
  log: Log,
): void {
  const why = relation?.unknown ?? 'the runner did not report the commit of this run'
  if (from === undefined) log.info(`${moving}, whose current image names no commit`)
  else
    log.warning(
      `${moving} from commit ${sanitizeLine(from)} to commit ${to ?? 'unknown'} without knowing which one is newer: ${why}. Use a \`concurrency\` group for the merge job so that its runs wait for each other, or set \`allow-older: true\` to silence this warning.`,
    )
}

/** Logs what was checked of each image, and where it is copied to. */
export function logVerified(members: readonly Member[], log: Log): void {
  for (const { platform, image, absentFrom } of members) {
    const { repository, own, attestations } = image
    // The first blob is the config.
    const layers = own.blobs.length - 1
    const count = layers === 1 ? '1 layer' : `${layers} layers`
    const parts = ['manifest', 'config', ...(attestations.length > 0 ? [count, 'attestations'] : [count])]
    const copies = absentFrom.length === 0 ? '' : `; missing in ${absentFrom.map(formatRepository).join(', ')}`
    log.info(
      `Verified ${formatPlatform(platform)}: ${parts.slice(0, -1).join(', ')} and ${parts.at(-1)} exist in ${formatRepository(repository)}${copies}`,
    )
  }
}

/** The result of a tag in the log: after publishing, and with `push: false`, where no tag is overtaken. */
const TAG_RESULTS: Record<TagPlan['action'], readonly [published: string, planned?: string]> = {
  kept: ['already points to this index'],
  created: ['created', 'would be created'],
  moved: ['moved', 'would be moved'],
  skipped: ['not moved', 'would not be moved'],
  overtaken: ['updated by another run'],
}

export function logMergeResult(
  index: StoredManifest,
  members: readonly Member[],
  plans: readonly TagPlan[],
  { images, push }: Pick<MergeInputs, 'images' | 'push'>,
  log: Log,
): void {
  const platforms = members.map(({ platform }) => formatPlatform(platform)).join(', ')
  for (const image of images)
    log.info(
      `${push ? 'The index is' : 'The index would be'} ${formatRepository(image)}@${index.digest}, for ${platforms}`,
    )
  for (const { tag, action, before } of plans) {
    const [published, planned = published] = TAG_RESULTS[action]
    const from = action === 'moved' && before.stored ? ` from ${before.stored.digest}` : ''
    log.info(`${formatReference(tag)}: ${push ? published : planned}${from}`)
  }
}

/** An index, and what a merge found out about it. */
export interface MergeFacts {
  /** Whether the index was published before this run. */
  readonly unchanged: boolean
  /** Against what the first existing tag pointed to. */
  readonly changes: ImageChanges | undefined
  readonly attestation: IndexAttestation | undefined
}

/** Returns the outputs and the summary of a merge. */
export function reportMerge(
  index: StoredManifest,
  members: readonly Member[],
  plans: readonly TagPlan[],
  { unchanged, changes, attestation }: MergeFacts,
  { images, push }: Pick<MergeInputs, 'images' | 'push'>,
): Result {
  const [first] = images
  if (first === undefined) throw new Error('inputs name at least one image')
  const skipped = plans.filter(({ action }) => action === 'skipped')
  const overtaken = plans.some(({ action }) => action === 'overtaken')
  const published = plans.filter(({ action }) => action !== 'skipped' && action !== 'overtaken')
  const existed = unchanged || plans.some(({ action }) => action === 'kept')
  const allOvertaken = overtaken && published.every(({ action }) => action === 'kept')
  const changed = !allOvertaken && (!existed || plans.some(({ action }) => action === 'moved'))
  const platforms = members.map(({ platform, image }) => ({
    platform,
    digest: image.digest,
    size: compressedSize(image),
  }))
  const inIndex = members.map(({ system, platform, image: { digest } }) => ({
    system,
    platform: formatPlatform(platform),
    digest,
  }))
  return {
    outputs: {
      digest: index.digest,
      name: formatRepository(first),
      image: `${formatRepository(first)}@${index.digest}`,
      tags: push ? published.map(({ tag }) => formatReference(tag)).join('\n') : '',
      'skipped-tags': skipped.map(({ tag }) => formatReference(tag)).join('\n'),
      changed: String(changed),
      platforms: JSON.stringify(inIndex),
      changes: serializeChanges(changes),
      ...(attestation && { attestation: attestation.digest }),
    },
    summary: summarizeMerge({
      index: images.map((image) => `${formatRepository(image)}@${index.digest}`),
      plans,
      platforms,
      pushed: push,
      changed,
      changes,
      attestation,
    }),
    ...(push && { artifacts: images.map((image) => artifactOf(image, published, index)) }),
  }
}

/** Returns the reference of the index in a repository, with a tag if one points to it: other images may be there, too. */
function artifactOf(image: Repository, published: readonly TagPlan[], { digest }: StoredManifest): string {
  const plan = published.find(({ tag }) => sameRepository(tag.repository, image))
  return `${plan === undefined ? formatRepository(image) : formatReference(plan.tag)}@${digest}`
}

/** The commit that the images were built from. */
export interface BuiltCommit {
  /** Empty if it is unknown. */
  readonly revision: string
  /** Annotations for the commit and its repository. The user's annotations take precedence. */
  readonly origin: Readonly<Record<string, string>>
  /** The revision that the index names. Determines whether a tag moves to a newer or an older commit. */
  readonly head: string | undefined
}

/** Returns the commit that the records name. Warns if they name several. */
export function findBuiltCommit(
  records: readonly DigestRecord[],
  annotations: readonly Annotation[],
  workflow: Workflow,
  log: Log,
): BuiltCommit {
  const revision = builtRevision(records, workflow, log)
  const { source } = workflow
  const origin = { ...(revision !== '' && { [REVISION]: revision }), ...(source !== '' && { [SOURCE]: source }) }
  const head = { ...origin, ...placeAnnotations(annotations, []).index }[REVISION]
  return { revision, origin, head }
}

/** Assumes the commit of the run for records that name none. */
function builtRevision(records: readonly DigestRecord[], workflow: Workflow, log: Log): string {
  const ofRun = commitOfRun(workflow)
  const byCommit = Map.groupBy(records, ({ revision = ofRun }) => revision)
  const [first = ofRun, ...more] = [...byCommit.keys()]
  if (more.length === 0) return first
  const revision = byCommit.has(ofRun) ? ofRun : first
  const systems = [...byCommit].map(([commit, some]) => `${some.map(({ system }) => system).join(', ')}: ${commit}`)
  log.warning(
    `The images were built from different commits:\n${systems.map((line) => `  ${line}`).join('\n')}\nThe index names ${revision}. Check out the same commit in all build jobs.`,
  )
  return revision
}

/** How the commit of the index relates to each published commit. */
export type Relations = ReadonlyMap<string, Relation>

/** Compares the commit of the index with the commit of each published tag. */
export async function relateCommits(
  published: readonly PublishedTag[],
  origin: BuiltCommit['origin'],
  compare: (base: string) => Promise<Relation>,
): Promise<Relations> {
  const bases = Map.groupBy(
    published.filter(({ revision }) => revision !== undefined),
    ({ revision = '' }) => revision,
  )
  const relations = [...bases].map(async ([base, [first]]): Promise<[string, Relation]> => {
    const source = first?.source
    if (source !== undefined && !sameSource(source, origin[SOURCE]))
      return [base, { unknown: `commit ${sanitizeLine(base)} is from another repository, ${sanitizeLine(source)}` }]
    return [base, await compare(base)]
  })
  return new Map(await Promise.all(relations))
}

function sameSource(one: string, other = ''): boolean {
  const plain = (url: string) => url.replace(/(\.git)?\/*$/, '').toLowerCase()
  return plain(one) === plain(other)
}

/** Returns the published commits that are newer than the commit of the index. */
export function newerCommits(relations: Relations): ReadonlySet<string> {
  return new Set([...relations].flatMap(([commit, relation]) => (relation === 'behind' ? [commit] : [])))
}
