import { compareCommits, type Relation } from '../actions/commits.ts'
import type { JobLog } from '../actions/log.ts'
import { commitOfRun, type Workflow } from '../context.ts'
import { messageOf, sanitizeLine } from '../errors.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import { fillTags, type TagReference } from '../inputs/tags.ts'
import type { Log } from '../log.ts'
import { placeAnnotations, REVISION, SOURCE } from '../oci/annotation.ts'
import { byPlatform, formatPlatform } from '../oci/platform.ts'
import { formatReference, formatRepository } from '../oci/reference.ts'
import { NOT_CANCELLABLE, untilAborted } from '../process/cancellation.ts'
import { checkComplete, choose } from '../publish/choose.ts'
import { type Candidate, collect, collectArtifacts } from '../publish/collect.ts'
import { compose, findSameIndex } from '../publish/compose.ts'
import { MergeError } from '../publish/merge-error.ts'
import { findOvertaken, moveTags, type OvertakenTag } from '../publish/move-tags.ts'
import { type PublishedTag, readTags } from '../publish/published.ts'
import { storeIndex } from '../publish/store-index.ts'
import { describeLoss, losing, planTags, refuseLoss, type TagPlan } from '../publish/tag-plan.ts'
import { checkMembers, type Member, verify } from '../publish/verify.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { shareLookUps } from '../registry/shared-look-ups.ts'
import type { TagConflict, TagMove, TagPlace } from '../registry/tags.ts'
import { settleAll } from '../settle-all.ts'
import { summarizeMerge } from './merge-summary.ts'
import type { Result, Tools } from './mode.ts'

/**
 * Publishes the images of all systems under one set of tags. Records are collected and checked, each image is checked
 * at the registries, and what tags point to is looked at; then it is decided what becomes of each tag. Only after that
 * something is written: images to where they lack, the index by digest, which is read back, and the tags.
 * @throws Failure, with every tag as it was
 */
export async function merge(inputs: MergeInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { finish, signal } = tools.cancellation ?? NOT_CANCELLABLE
  return finish(mergeImages(inputs, workflow, tools, signal))
}

async function mergeImages(
  inputs: MergeInputs,
  workflow: Workflow,
  tools: Tools,
  signal: AbortSignal,
): Promise<Result> {
  const { images, push } = inputs
  const { registry, log } = tools
  const collecting = collect(inputs, workflow, log)
  // No registry is asked in vain: it may want a login that a rehearsal, as of a pull request, does not have.
  if (!push && (await beforeTags(collecting, signal, log)).length === 0) return nothingToCheck(log)
  // First, so that what is read meanwhile is read with the same token.
  const checking = push ? settleAll(images.map((image) => registry.checkPush(image))) : Promise.resolve([])
  const choosing = collecting.then((handed) => chooseHanded(handed, inputs, workflow, log))
  const gathering = choosing.then((chosen) => gather(chosen, inputs, shareLookUps(registry)))
  const commit = choosing.then((chosen) => findBuiltCommit(chosen, inputs, workflow, log))
  const looking = commit.then((built) => {
    const tags = fillTags(inputs.tags, built.revision)
    return lookAtTags(built, { ...inputs, tags }, workflow, tools)
  })
  const reading = settleAll<unknown>([gathering, looking])
  await beforeTags(afterCheck(checking, collecting, reading), signal, log)
  const [members, built, [published, relations]] = await Promise.all([gathering, commit, looking])
  const { origin, head } = built

  const composed = compose(members, inputs.annotations, origin)
  for (const warning of composed.warnings) log.warning(warning)
  const unchanged = inputs.republish ? undefined : findSameIndex(composed, published)
  const platforms = members.map(({ platform }) => platform)
  const plan = (index: StoredManifest) => planTags(published, index.digest, platforms, relations)
  const plans = plan(unchanged ?? composed)
  if (!inputs.allowMissingPlatforms) refuseLoss(plans, 'No tag has moved.')
  const said = new Set<string>()
  logTagPlan(plans, inputs, head, relations, tools, said)
  if (!push) {
    logResult(unchanged ?? composed, members, plans, inputs, tools)
    return report(unchanged ?? composed, members, plans, unchanged !== undefined, inputs)
  }

  const storing = storeIndex(unchanged ?? composed, composed, plans, members, inputs, tools)
  const index = await beforeTags(storing, signal, log)
  const replan = async (tags: readonly TagReference[]): Promise<readonly TagPlan[]> => {
    const [now, relationsNow] = await lookAtTags(built, { ...inputs, tags }, workflow, tools)
    const again = planTags(now, index.digest, platforms, relationsNow)
    if (!inputs.allowMissingPlatforms) refuseLoss(again)
    logTagPlan(again, inputs, head, relationsNow, tools, said)
    return again
  }
  const results = await publishTags(index, plan(index), replan, tools, signal)
  logResult(index, members, results, inputs, tools)
  return report(index, members, results, index === unchanged, inputs)
}

/**
 * Waits for the check that this job may push, and then for all that is read beside it. A login that may not write is
 * reported before everything is read, but never within the folded group in which records are collected.
 */
async function afterCheck(
  checking: Promise<unknown>,
  collecting: Promise<unknown>,
  reading: Promise<unknown>,
): Promise<void> {
  reading.catch(() => undefined)
  try {
    await checking
  } catch (error) {
    await Promise.allSettled([collecting])
    throw error
  }
  await reading
}

/** Waits for work that moves no tag, until the step is cancelled. */
async function beforeTags<Result>(work: Promise<Result>, signal: AbortSignal, log: Log): Promise<Result> {
  try {
    return await untilAborted(work, signal, cancelled)
  } catch (error) {
    if (signal.aborted) log.info('Cancelled: no tag has moved')
    throw error
  }
}

function cancelled(): MergeError {
  return new MergeError({ message: 'The step was cancelled' })
}

function nothingToCheck(log: JobLog): Result {
  const why = 'builds with `push: false` push nothing, so that there is nothing to merge'
  log.notice(`There is nothing to check: no digest was handed over; ${why}`)
  return { outputs: {}, summary: `# Nothing to check\n\nNo digest was handed over: ${why}.\n` }
}

/** Chooses what goes into the index, and checks that no job of a matrix is missing. */
async function chooseHanded(
  handed: readonly Candidate[],
  inputs: MergeInputs,
  workflow: Workflow,
  log: JobLog,
): Promise<readonly Candidate[]> {
  const chosen = choose(handed, inputs, workflow)
  // The user knows better than the matrix which systems there are.
  if (inputs.systems.length > 0) return chosen
  try {
    checkComplete(chosen, handed, workflow)
  } catch (error) {
    if (inputs.digests === undefined) throw error
    // Whoever picks records leaves out those of other images: their jobs have handed over as well.
    const others = await collectArtifacts({ own: true, pattern: '' }, workflow, log).catch(() => [])
    checkComplete(chosen, [...handed, ...others], workflow)
  }
  return chosen
}

/** Checks the chosen images at the registries. */
async function gather(
  candidates: readonly Candidate[],
  inputs: MergeInputs,
  registry: Registry,
): Promise<readonly Member[]> {
  const verified = await settleAll(candidates.map((candidate) => verify(candidate, inputs.images, registry)))
  const members = withoutDoubles(verified)
  checkMembers(members, inputs.images, inputs.systems)
  return members.toSorted((one, other) => byPlatform(placeOf(one), placeOf(other)))
}

/**
 * Leaves one of several members that are the same image: one digest may be of the image itself, and another of an index
 * around it, which has its attestations; Docker may have compressed an image differently for each repository.
 */
function withoutDoubles(members: readonly Member[]): readonly Member[] {
  const fullestLast = members.toSorted((one, other) => one.image.attestations.length - other.image.attestations.length)
  const byDigest = new Map(fullestLast.map((member) => [`${member.system} ${member.image.digest}`, member]))
  const byContent = Map.groupBy(byDigest.values(), ({ system, image }) => `${system} ${image.configDigest}`)
  return [...byContent.values()].flatMap((same) => (hasOnePerRepository(same) ? same.slice(0, 1) : same))
}

function hasOnePerRepository(members: readonly Member[]): boolean {
  return new Set(members.map(({ image }) => formatRepository(image.repository))).size === members.length
}

function placeOf({ platform, image: { digest } }: Member): Parameters<typeof byPlatform>[0] {
  return { platform, digest }
}

type Relations = ReadonlyMap<string, Relation>

/** What the tags point to, and how this commit stands to theirs. */
async function lookAtTags(
  { origin, head }: BuiltCommit,
  { tags, token, allowOlder }: MergeInputs,
  { api, repository }: Workflow,
  { registry, http }: Tools,
): Promise<readonly [readonly PublishedTag[], Relations]> {
  const published = await readTags(registry, tags)
  if (allowOlder || head === undefined) return [published, new Map()]
  const bases = Map.groupBy(
    published.filter(({ revision }) => revision !== undefined),
    ({ revision = '' }) => revision,
  )
  const relations = [...bases].map(async ([base, [first]]): Promise<[string, Relation]> => {
    const elsewhere = first?.source !== undefined && !sameSource(first.source, origin[SOURCE])
    if (elsewhere)
      return [base, { unknown: `that commit is of another repository, ${sanitizeLine(first.source ?? '')}` }]
    return [base, await compareCommits({ api, repository, token, base, head }, http)]
  })
  return [published, new Map(await Promise.all(relations))]
}

function sameSource(one: string, other = ''): boolean {
  const plain = (url: string) => url.replace(/(\.git)?\/*$/, '').toLowerCase()
  return plain(one) === plain(other)
}

/** The commit that the images were built from. */
interface BuiltCommit {
  /** Empty if it is unknown. */
  readonly revision: string
  /** The annotations that say where the images are from, unless the user's say otherwise. */
  readonly origin: Readonly<Record<string, string>>
  /** The revision that the index will have, which decides the order of commits. */
  readonly head: string | undefined
}

function findBuiltCommit(
  chosen: readonly Candidate[],
  { annotations }: MergeInputs,
  workflow: Workflow,
  log: JobLog,
): BuiltCommit {
  const revision = builtRevision(chosen, workflow, log)
  const { source } = workflow
  const origin = { ...(revision !== '' && { [REVISION]: revision }), ...(source !== '' && { [SOURCE]: source }) }
  const head = { ...origin, ...placeAnnotations(annotations, []).index }[REVISION]
  return { revision, origin, head }
}

/** Returns the commit that the builds name, and warns if they name several. Records without one are of the run's. */
function builtRevision(chosen: readonly Candidate[], workflow: Workflow, log: JobLog): string {
  const ofRun = commitOfRun(workflow)
  const records = chosen.flatMap(({ record }) => record ?? [])
  const byCommit = Map.groupBy(records, ({ revision = ofRun }) => revision)
  const [first = ofRun, ...more] = [...byCommit.keys()]
  if (more.length === 0) return first
  const revision = byCommit.has(ofRun) ? ofRun : first
  const systems = [...byCommit].map(([commit, some]) => `${some.map(({ system }) => system).join(', ')}: ${commit}`)
  log.warning(
    `The images are of different commits:\n${systems.map((line) => `  ${line}`).join('\n')}\nThe index names ${revision}. Check out the same commit in all build jobs.`,
  )
  return revision
}

/** What the user has to know of the tags before they move. */
function logTagPlan(
  plans: readonly TagPlan[],
  { allowOlder, push }: MergeInputs,
  head: string | undefined,
  relations: Relations,
  { log: everything }: Tools,
  said: Set<string>,
): void {
  const log = sayOnce(everything, said)
  for (const plan of losing(plans)) log.warning(`${describeLoss(plan)}, which \`allow-missing-platforms\` allows`)
  for (const { tag, before, action } of plans) {
    const name = formatReference(tag)
    const relation = before.revision === undefined ? undefined : relations.get(before.revision)
    if (action === 'skipped')
      log.warning(
        `${name} is left alone: it is of the commit ${before.revision}, and this run's, ${head}, is behind that one. \`allow-older: true\` moves it all the same.`,
      )
    else if (action === 'moved' && !allowOlder && typeof relation !== 'string')
      logUnknownOrder(`${push ? 'Moving' : 'Would move'} ${name}`, before.revision, head, relation, log)
  }
}

/** A log without the messages that it had before: after another run has moved a tag, most of the plan is as it was. */
function sayOnce(log: Log, said: Set<string>): Log {
  const once = (print: (message: string) => void) => (message: string) => {
    if (!said.has(message)) print(message)
    said.add(message)
  }
  return { info: once(log.info), warning: once(log.warning), debug: once(log.debug) }
}

/** Logs that a tag moves, though it may be of a newer commit than this run. */
function logUnknownOrder(
  moving: string,
  from: string | undefined,
  to: string | undefined,
  relation: Exclude<Relation, string> | undefined,
  log: Log,
): void {
  const why = relation?.unknown ?? 'the runner does not name the commit of this run'
  if (from === undefined) log.info(`${moving}, which names no commit`)
  else
    log.warning(
      `${moving} from commit ${sanitizeLine(from)} to commit ${to ?? 'unknown'}, though it is unknown which of them is newer: ${why}. Use a \`concurrency\` group for the merge job so that its runs wait for each other, or set \`allow-older: true\` to silence this warning.`,
    )
}

/** @returns what has become of each tag */
async function publishTags(
  index: StoredManifest,
  planned: readonly TagPlan[],
  planAgain: (tags: readonly TagReference[]) => Promise<readonly TagPlan[]>,
  { registry, log }: Tools,
  signal: AbortSignal,
): Promise<readonly TagPlan[]> {
  let plans = planned
  const replan = async ({ parts }: TagConflict, done: readonly TagPlace[]) => {
    log.info(`${parts.message}: ${parts.detail}. Reading the tags again`)
    const tags = plans.map(({ tag }) => tag)
    const again = await planAgain(tags.filter((tag) => !done.includes(tag)))
    plans = plans.map((plan) => again.find(({ tag }) => tag === plan.tag) ?? plan)
    return movesOf(again)
  }
  await moveTags(registry, movesOf(planned), index, { replan, signal }).catch((error: unknown) => {
    // A step that is cancelled ends without an error otherwise.
    if (signal.aborted) log.error(messageOf(error))
    throw error
  })
  // A tag that was overtaken belongs to another run, which reports it.
  const looking = findOvertaken(registry, movesOf(plans), index, log)
  const overtaken = await untilAborted(looking, signal, cancelled).catch((error: unknown) => {
    if (!signal.aborted) throw error
    log.info('Cancelled: all tags have moved')
    return []
  })
  return plans.map((plan) => withOutcome(plan, overtaken))
}

function movesOf(plans: readonly TagPlan[]): readonly TagMove[] {
  return plans.filter(({ action }) => action !== 'skipped').map(({ tag, before }) => ({ tag, before: before.stored }))
}

function withOutcome(plan: TagPlan, overtaken: readonly OvertakenTag[]): TagPlan {
  const found = overtaken.find(({ tag }) => tag === plan.tag)
  return found === undefined ? plan : { ...plan, action: 'overtaken', now: found.now }
}

const VERBS = {
  kept: ['is that already', 'is that already'],
  created: ['is new', 'would be new'],
  moved: ['is moved to it', 'would be moved to it'],
  skipped: ['is left alone', 'would be left alone'],
  overtaken: ['was updated by another run', 'would be updated by another run'],
} as const

function logResult(
  index: StoredManifest,
  members: readonly Member[],
  plans: readonly TagPlan[],
  { images, push }: MergeInputs,
  { log }: Tools,
): void {
  const platforms = members.map(({ platform }) => formatPlatform(platform)).join(', ')
  for (const image of images) log.info(`${formatRepository(image)}@${index.digest}: ${platforms}`)
  for (const { tag, action } of plans) log.info(`${formatReference(tag)} ${VERBS[action][push ? 0 : 1]}`)
}

function report(
  index: StoredManifest,
  members: readonly Member[],
  plans: readonly TagPlan[],
  unchanged: boolean,
  { images, push }: MergeInputs,
): Result {
  const [first] = images
  if (first === undefined) throw new Error('no image, though inputs have one at least')
  const skipped = plans.filter(({ action }) => action === 'skipped')
  const overtaken = plans.some(({ action }) => action === 'overtaken')
  const standing = plans.filter(({ action }) => action !== 'skipped' && action !== 'overtaken')
  const there = unchanged || plans.some(({ action }) => action === 'kept')
  const lost = overtaken && standing.every(({ action }) => action === 'kept')
  const changed = !lost && (!there || plans.some(({ action }) => action === 'moved'))
  const platforms = members.map(({ system, platform, image: { digest } }) => ({ system, platform, digest }))
  return {
    outputs: {
      digest: index.digest,
      image: `${formatRepository(first)}@${index.digest}`,
      tags: push ? standing.map(({ tag }) => formatReference(tag)).join('\n') : '',
      'skipped-tags': skipped.map(({ tag }) => formatReference(tag)).join('\n'),
      changed: String(changed),
      platforms: JSON.stringify(platforms.map((one) => ({ ...one, platform: formatPlatform(one.platform) }))),
    },
    summary: summarizeMerge({ digest: index.digest, plans, platforms, pushed: push, changed }),
  }
}
