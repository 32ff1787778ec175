import { compareCommits } from '../actions/commits.ts'
import type { IndexAttestation } from '../attest/attest.ts'
import { compareMembers } from '../changes/image-changes.ts'
import { logChanges } from '../changes/report.ts'
import type { Workflow } from '../context.ts'
import { MergeError, messageOf } from '../errors.ts'
import type { MergeInputs } from '../inputs/merge.ts'
import { fillTags } from '../inputs/tags.ts'
import { type JobLog, type Log, withProgress } from '../log.ts'
import type { TagReference } from '../oci/reference.ts'
import { NOT_CANCELLABLE, untilAborted } from '../process/cancellation.ts'
import { settleAll } from '../promises.ts'
import { checkComplete, chooseCandidates } from '../publish/choose.ts'
import { compose, findSameIndex } from '../publish/compose.ts'
import { publishTags } from '../publish/publish-tags.ts'
import { type PublishedTag, readPublishedTags } from '../publish/published.ts'
import { storeIndex } from '../publish/store-index.ts'
import {
  assertImmutableTagsKept,
  assertNoPlatformLost,
  immutableFirst,
  planTags,
  type TagPlan,
} from '../publish/tag-plan.ts'
import { type Member, verifyCandidates } from '../publish/verify.ts'
import { type Candidate, collectArtifacts, collectCandidates } from '../record/collect.ts'
import { shareLookUps } from '../registry/client.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { prepareAttestation } from './merge-attest.ts'
import {
  type BuiltCommit,
  findBuiltCommit,
  logMergeResult,
  logOnce,
  logTagPlan,
  logVerified,
  newerCommits,
  type Relations,
  relateCommits,
  reportMerge,
  reportNothing,
} from './merge-report.ts'
import type { Result, Tools } from './mode.ts'

/**
 * Publishes the images of all systems as one multi-platform image. First only reads: collects and checks the records,
 * verifies each image at the registries, composes the index and plans what happens to each tag. Then writes: copies
 * images to repositories that lack them, stores the index by digest and reads it back, attests it if asked to, and moves the
 * tags.
 * @throws ActionError. Until tags move, every tag is as it was; after that, the error says where each tag is
 */
export async function merge(inputs: MergeInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { deferExit, signal } = tools.cancellation ?? NOT_CANCELLABLE
  return deferExit(mergeImages(inputs, workflow, tools, signal))
}

async function mergeImages(
  inputs: MergeInputs,
  workflow: Workflow,
  tools: Tools,
  signal: AbortSignal,
): Promise<Result> {
  const { registry, log } = tools
  const attestIndex = prepareAttestation(inputs, workflow, tools)
  const collecting = collectCandidates(inputs, workflow, log)
  // Skip registry requests when there is nothing to verify: pull requests may not be logged in.
  if (!inputs.push && (await beforeTags(collecting, signal, log)).length === 0) return reportNothing(log)
  const found = await beforeTags(readAndVerify(collecting, inputs, workflow, tools), signal, log)
  const { members, commit, published, relations, reader } = found
  logVerified(members, log)

  const composed = compose(members, inputs.annotations, commit.origin)
  for (const warning of composed.warnings) log.warning(warning)
  const unchanged = inputs.republish
    ? undefined
    : findSameIndex(composed, immutableFirst(published, inputs.immutableTags))
  const platforms = members.map(({ platform }) => platform)
  const plan = (index: StoredManifest) => planTags(published, index.digest, platforms, newerCommits(relations))
  const plans = plan(unchanged ?? composed)
  assertImmutableTagsKept(plans, (unchanged ?? composed).digest, inputs, 'No tag has moved.')
  if (!inputs.allowMissingPlatforms) assertNoPlatformLost(plans, 'No tag has moved.')
  const once = logOnce(log)
  logTagPlan(plans, inputs, commit.head, relations, once)
  // Before any tag moves: a registry may delete images without tags.
  const comparing = compareMembers(reader, members, published, (unchanged ?? composed).digest, log)
  // Not awaited if the merge fails earlier.
  comparing.catch(() => undefined)
  const report = async (
    index: StoredManifest,
    results: readonly TagPlan[],
    attestation?: IndexAttestation,
  ): Promise<Result> => {
    const changes = await unlessCancelled(comparing, signal)
    logMergeResult(index, members, results, inputs, log)
    if (changes !== undefined) logChanges(changes, log)
    return reportMerge(index, members, results, { unchanged: index === unchanged, changes, attestation }, inputs)
  }
  if (!inputs.push) return report(unchanged ?? composed, plans)

  const store = () =>
    storeIndex(registry, inputs.images, { index: unchanged ?? composed, composed, plans, members }, log)
  const storing = withProgress(log, 'copying images and pushing the index', store)
  const index = await beforeTags(storing, signal, log)
  const attestation = attestIndex && (await beforeTags(attestIndex(index, members), signal, log))
  const replan = async (tags: readonly TagReference[]): Promise<readonly TagPlan[]> => {
    const now = await readTags(tags, commit, inputs, workflow, tools)
    const again = planTags(now.published, index.digest, platforms, newerCommits(now.relations))
    assertImmutableTagsKept(again, index.digest, inputs)
    if (!inputs.allowMissingPlatforms) assertNoPlatformLost(again)
    logTagPlan(again, inputs, commit.head, now.relations, once)
    return again
  }
  const final = plan(index)
  // The registry may have got a Docker manifest list in place of the index.
  assertImmutableTagsKept(final, index.digest, inputs, 'No tag has moved.')
  const results = await publishTags(registry, index, final, { replan, signal, log }).catch((error: unknown) => {
    // run() logs no error for a cancelled step, so log it here.
    if (signal.aborted) log.error(messageOf(error))
    throw error
  })
  return report(index, results, attestation)
}

/** Waits for a comparison. A cancelled step goes on without it. */
async function unlessCancelled<Value>(work: Promise<Value>, signal: AbortSignal): Promise<Value | undefined> {
  const cancelled = () => new MergeError({ message: 'The step was cancelled' })
  return untilAborted<Value | undefined>(work, signal, cancelled).catch((error: unknown) => {
    if (signal.aborted) return undefined
    throw error
  })
}

/** Waits for work done before any tag moves; stops waiting if the step is cancelled. */
async function beforeTags<Value>(work: Promise<Value>, signal: AbortSignal, log: Log): Promise<Value> {
  const cancelled = () => new MergeError({ message: 'The step was cancelled' })
  try {
    return await untilAborted(work, signal, cancelled)
  } catch (error) {
    if (signal.aborted) log.info('Cancelled: no tag has moved')
    throw error
  }
}

/** Everything a merge reads before it writes. */
interface Findings extends TagState {
  readonly members: readonly Member[]
  readonly commit: BuiltCommit
  /** A client that reads nothing again of what the merge has read by digest. */
  readonly reader: Registry
}

/** What tags point to, and how the new commit relates to theirs. */
interface TagState {
  readonly published: readonly PublishedTag[]
  readonly relations: Relations
}

/**
 * Checks that this job may push, verifies the images and reads the tags, all in parallel. Reports missing push access
 * first, but only after the candidates are collected: the error would be hidden inside their collapsed log group.
 */
async function readAndVerify(
  collecting: Promise<readonly Candidate[]>,
  inputs: MergeInputs,
  workflow: Workflow,
  tools: Tools,
): Promise<Findings> {
  const { registry, log } = tools
  const reader = shareLookUps(registry)
  // Before any other request, so that all of them share the token for pushing.
  const checking = inputs.push ? settleAll(inputs.images.map((image) => registry.checkPush(image))) : Promise.resolve()
  const choosing = collecting.then((candidates) => chooseComplete(candidates, inputs, workflow, log))
  const verifying = choosing.then((chosen) => verifyCandidates(chosen, inputs, reader))
  const reading = choosing.then(async (chosen) => {
    const records = chosen.flatMap(({ record }) => record ?? [])
    const commit = findBuiltCommit(records, inputs.annotations, workflow, log)
    const tags = fillTags(inputs.tags, commit.revision)
    return { commit, ...(await readTags(tags, commit, inputs, workflow, { ...tools, registry: reader })) }
  })
  const all = settleAll<unknown>([verifying, reading])
  all.catch(() => undefined)
  try {
    await checking
  } catch (error) {
    await Promise.allSettled([collecting])
    throw error
  }
  await all
  return { members: await verifying, reader, ...(await reading) }
}

/** Chooses the images of the index, and checks that no job of a matrix is missing. */
async function chooseComplete(
  candidates: readonly Candidate[],
  inputs: MergeInputs,
  workflow: Workflow,
  log: JobLog,
): Promise<readonly Candidate[]> {
  const chosen = chooseCandidates(candidates, inputs, workflow.run)
  // `systems` lists what must be there, whatever the size of the matrix.
  if (inputs.systems.length > 0) return chosen
  try {
    checkComplete(chosen, candidates, workflow.run)
  } catch (error) {
    if (inputs.digests === undefined) throw error
    // `digests` may leave out the records of other images that jobs of the matrix have built.
    const others = await collectArtifacts({ own: true, pattern: '' }, workflow, log).catch(() => [])
    checkComplete(chosen, [...candidates, ...others], workflow.run)
  }
  return chosen
}

async function readTags(
  tags: readonly TagReference[],
  { origin, head }: BuiltCommit,
  { token, allowOlder }: MergeInputs,
  { api, repository }: Workflow,
  { registry, http, ...tools }: Tools,
): Promise<TagState> {
  const published = await readPublishedTags(registry, tags)
  if (allowOlder || head === undefined) return { published, relations: new Map() }
  const compare = (base: string) =>
    tools.compareCommits?.(base, head) ?? compareCommits({ api, repository, token, base, head }, http)
  return { published, relations: await relateCommits(published, origin, compare) }
}
