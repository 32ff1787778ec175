import { allOf } from '../all-of.ts'
import { oneLine } from '../failure.ts'
import type { MergeInputs } from '../inputs/inputs.ts'
import type { TagReference } from '../inputs/tags.ts'
import type { JobLog } from '../job-log.ts'
import type { Result, Tools } from '../mode.ts'
import { REVISION, SOURCE } from '../oci/annotation.ts'
import { byPlatform, printPlatform } from '../oci/platform.ts'
import { printReference, printRepository, type Repository, sameRepository } from '../oci/reference.ts'
import { copyImages } from '../registry/copy.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import type { Workflow } from '../workflow.ts'
import { choose } from './choose.ts'
import { type Candidate, collect } from './collect.ts'
import { compareCommits, type Relation } from './commits.ts'
import { compose, findSameIndex } from './compose.ts'
import { MergeError } from './merge-error.ts'
import { type PublishedTag, readTags } from './published.ts'
import { summarizeMerge } from './summary.ts'
import { describeLoss, losing, planTags, refuseLoss, type TagPlan } from './tag-plan.ts'
import { moveTags, type TagMove } from './tags.ts'
import { checkMembers, type Member, verify } from './verify.ts'

/**
 * Publishes the images of all systems under one set of tags. Records are collected and checked, each image is checked
 * at the registries, and what tags point to is looked at; then it is decided what becomes of each tag. Only after that
 * something is written: images to where they lack, the index by digest, which is read back, and the tags.
 * @throws Failure, with every tag as it was
 */
export async function merge(inputs: MergeInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { images, push } = inputs
  const { registry, log } = tools
  const origin = originOf(workflow)
  const collecting = collect(inputs, workflow, log)
  // No registry is asked in vain: it may want a login that a rehearsal, as of a pull request, does not have.
  if (!push && (await collecting).length === 0) return nothingToCheck(log)
  // The login for writing comes first, so that what is read meanwhile goes with it.
  const authorizing = push ? images.map((image) => registry.authorizePush(image)) : []
  const gathering = gather(collecting, inputs, workflow, registry)
  const looking = lookAtTags(inputs, workflow, origin, tools)
  // No error is told while others of these go on, in whose folded group it would stand.
  await allOf<unknown>([...authorizing, gathering, looking])
  const [members, [published, relations]] = await Promise.all([gathering, looking])

  const composed = compose(members, inputs.annotations, origin)
  for (const warning of composed.warnings) log.warning(warning)
  const unchanged = inputs.republish ? undefined : findSameIndex(composed, published)
  const index = unchanged ?? composed
  const platforms = members.map(({ platform }) => platform)
  const plans = planTags(published, index.digest, platforms, relations)
  if (!inputs.allowMissingPlatforms) refuseLoss(plans)
  tellPlan(plans, inputs, origin, relations, tools)

  if (push) await publish(index, members, plans, inputs, registry)
  tell(index, members, plans, inputs, tools)
  return report(index, members, plans, unchanged !== undefined, inputs)
}

function nothingToCheck(log: JobLog): Result {
  const why = 'builds with `push: false` push nothing, so that there is nothing to merge'
  log.notice(`There is nothing to check: no digest was handed over; ${why}`)
  return { outputs: {}, summary: `# Nothing to check\n\nNo digest was handed over: ${why}.\n` }
}

/** What the builds have handed over, checked. */
async function gather(
  collecting: Promise<readonly Candidate[]>,
  inputs: MergeInputs,
  workflow: Workflow,
  registry: Registry,
): Promise<readonly Member[]> {
  const candidates = choose(await collecting, inputs, workflow)
  const verified = await allOf(candidates.map((candidate) => verify(candidate, inputs.images, registry)))
  const members = withoutDoubles(verified)
  checkMembers(members, inputs.images, inputs.systems)
  return members.toSorted((one, other) => byPlatform(placeOf(one), placeOf(other)))
}

/** One digest may be of the image itself, and another of an index around it, which has its attestations. */
function withoutDoubles(members: readonly Member[]): readonly Member[] {
  const fullestLast = members.toSorted((one, other) => one.image.attestations.length - other.image.attestations.length)
  return [...new Map(fullestLast.map((member) => [`${member.system} ${member.image.digest}`, member])).values()]
}

function placeOf({ platform, image: { digest } }: Member): Parameters<typeof byPlatform>[0] {
  return { platform, digest }
}

type Relations = ReadonlyMap<string, Relation>

/** What the tags point to, and how this commit stands to theirs. */
async function lookAtTags(
  { tags, token, allowOlder }: MergeInputs,
  { api, repository }: Workflow,
  origin: Readonly<Record<string, string>>,
  { registry, http }: Tools,
): Promise<readonly [readonly PublishedTag[], Relations]> {
  const published = await readTags(registry, tags)
  const head = origin[REVISION]
  if (allowOlder || head === undefined) return [published, new Map()]
  const bases = Map.groupBy(
    published.filter(({ revision }) => revision !== undefined),
    ({ revision = '' }) => revision,
  )
  const relations = [...bases].map(async ([base, [first]]): Promise<[string, Relation]> => {
    const elsewhere = first?.source !== undefined && !sameSource(first.source, origin[SOURCE])
    if (elsewhere) return [base, { unknown: `that commit is of another repository, ${oneLine(first.source ?? '')}` }]
    return [base, await compareCommits({ api, repository, token, base, head }, http)]
  })
  return [published, new Map(await Promise.all(relations))]
}

function sameSource(one: string, other = ''): boolean {
  const plain = (url: string) => url.replace(/(\.git)?\/*$/, '').toLowerCase()
  return plain(one) === plain(other)
}

/** The annotations that tell where the run's commit is from. */
function originOf({ revision, source }: Workflow): Readonly<Record<string, string>> {
  return { ...(revision !== '' && { [REVISION]: revision }), ...(source !== '' && { [SOURCE]: source }) }
}

/** What the user has to know of the tags before they move. */
function tellPlan(
  plans: readonly TagPlan[],
  { allowOlder }: MergeInputs,
  { [REVISION]: head }: Readonly<Record<string, string>>,
  relations: Relations,
  { log }: Tools,
): void {
  for (const plan of losing(plans)) log.warning(`${describeLoss(plan)}, which \`allow-missing-platforms\` allows`)
  for (const { tag, before, action } of plans) {
    const name = printReference(tag)
    const relation = before.revision === undefined ? undefined : relations.get(before.revision)
    if (action === 'skipped')
      log.warning(
        `${name} is left alone: it is of the commit ${before.revision}, and this run's, ${head}, is behind that one. \`allow-older: true\` moves it all the same.`,
      )
    else if (action === 'moved' && !allowOlder && typeof relation !== 'string')
      log.info(`${name}: whether it is of a later commit is not known: ${relation?.unknown ?? whyNone(head)}`)
  }
}

function whyNone(head: string | undefined): string {
  return head === undefined ? 'the runner does not say which commit this run is of' : 'it names none'
}

async function publish(
  index: StoredManifest,
  members: readonly Member[],
  plans: readonly TagPlan[],
  { images }: MergeInputs,
  registry: Registry,
): Promise<void> {
  await copyImages(
    registry,
    members.flatMap(({ image, absentFrom }) => absentFrom.map((to) => ({ image, to }))),
  )
  const moves = plans
    .filter(({ action }) => action === 'created' || action === 'moved')
    .map(({ tag, before }) => ({ tag, before: before.stored }))
  const without = images.filter(
    (image) => !plans.some(({ tag, action }) => action === 'kept' && sameRepository(tag.repository, image)),
  )
  await Promise.all(without.map((image) => registry.putManifest(image, index.digest, index.mediaType, index.bytes)))
  const [, checked] = await Promise.all([
    Promise.all(without.map((image) => readBack(registry, image, index))),
    Promise.all(
      plans.flatMap(({ tag, before, action }) =>
        action === 'skipped' ? [] : checkStill(registry, { tag, before: before.stored }, index),
      ),
    ),
  ])
  const published = checked.filter(({ moved }) => moved).map(({ tag }) => tag)
  await moveTags(
    registry,
    moves.filter(({ tag }) => !published.includes(tag)),
    index,
    published,
  )
}

/** So that no tag is moved to something that can't be pulled. */
async function readBack(registry: Registry, image: Repository, { digest }: StoredManifest): Promise<void> {
  if ((await registry.getManifest(image, digest, { written: true })) !== undefined) return
  throw new MergeError({
    what: `${image.host} took the index ${printRepository(image)}@${digest}, but does not have it`,
    help: 'No tag has moved. This is a fault of the registry; run the job again.',
  })
}

/**
 * Checks that a tag is as it was when it was decided what becomes of it, or that another run has moved it to the same
 * index in the meantime, as the same merge in several jobs of a matrix does.
 */
async function checkStill(
  registry: Registry,
  { tag, before }: TagMove,
  index: StoredManifest,
): Promise<{ readonly tag: TagReference; readonly moved: boolean }> {
  const now = await registry.findDigest(tag.repository, tag.tag)
  if (now === before?.digest) return { tag, moved: false }
  if (now === index.digest) return { tag, moved: true }
  throw new MergeError({
    what: `${printReference(tag)} was moved by somebody else while this job ran`,
    words: `it was ${before?.digest ?? 'not there'}, and is ${now ?? 'gone'}`,
    help: 'No tag has moved. Run this job again, and let runs wait for each other, which a `concurrency` group of the workflow does.',
  })
}

const VERBS = {
  kept: ['is that already', 'is that already'],
  created: ['is new', 'would be new'],
  moved: ['is moved to it', 'would be moved to it'],
  skipped: ['is left alone', 'would be left alone'],
} as const

function tell(
  index: StoredManifest,
  members: readonly Member[],
  plans: readonly TagPlan[],
  { images, push }: MergeInputs,
  { log }: Tools,
): void {
  const platforms = members.map(({ platform }) => printPlatform(platform)).join(', ')
  for (const image of images) log.info(`${printRepository(image)}@${index.digest}: ${platforms}`)
  for (const { tag, action } of plans) log.info(`${printReference(tag)} ${VERBS[action][push ? 0 : 1]}`)
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
  const standing = plans.filter(({ action }) => action !== 'skipped')
  const there = unchanged || plans.some(({ action }) => action === 'kept')
  const changed = !there || plans.some(({ action }) => action === 'moved')
  const platforms = members.map(({ system, platform, image: { digest } }) => ({ system, platform, digest }))
  return {
    outputs: {
      digest: index.digest,
      image: `${printRepository(first)}@${index.digest}`,
      tags: push ? standing.map(({ tag }) => printReference(tag)).join('\n') : '',
      'skipped-tags': skipped.map(({ tag }) => printReference(tag)).join('\n'),
      changed: String(changed),
      platforms: JSON.stringify(platforms.map((one) => ({ ...one, platform: printPlatform(one.platform) }))),
    },
    summary: summarizeMerge({ digest: index.digest, plans, platforms, pushed: push, changed }),
  }
}
