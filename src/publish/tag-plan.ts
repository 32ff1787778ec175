import type { Relation } from '../actions/commits.ts'
import type { TagReference } from '../inputs/tags.ts'
import type { Digest } from '../oci/digest.ts'
import { formatPlatform, type Platform, platformKey } from '../oci/platform.ts'
import { formatReference } from '../oci/reference.ts'
import { MergeError } from './merge-error.ts'
import type { PublishedTag } from './published.ts'

/** What is to become of a tag. */
export interface TagPlan {
  readonly tag: TagReference
  readonly before: PublishedTag
  /**
   * `kept`: it points to the index already. `created`, `moved`: it is to. `skipped`: it points to the image of a commit
   * after this one, and stays there. `overtaken`: it was one of the others, and then another run moved it.
   */
  readonly action: 'kept' | 'created' | 'moved' | 'skipped' | 'overtaken'
  /** What an overtaken tag points to. Undefined if it was deleted. */
  readonly now?: Digest | undefined
  /** Platforms that the tag has with the new index and had not, and the other way round. */
  readonly gained: readonly Platform[]
  readonly lost: readonly Platform[]
}

/**
 * Decides for each tag what becomes of it.
 * @param index the digest of what tags are to point to
 * @param relations how this run's commit stands to each published one
 */
export function planTags(
  published: readonly PublishedTag[],
  index: Digest,
  platforms: readonly Platform[],
  relations: ReadonlyMap<string, Relation>,
): readonly TagPlan[] {
  return published.map((before) => ({
    tag: before.tag,
    before,
    action: actionFor(before, index, relations),
    gained: before.stored === undefined ? [] : without(platforms, before.platforms),
    lost: without(before.platforms, platforms),
  }))
}

function actionFor(
  { stored, revision }: PublishedTag,
  index: Digest,
  relations: ReadonlyMap<string, Relation>,
): TagPlan['action'] {
  if (stored === undefined) return 'created'
  if (stored.digest === index) return 'kept'
  return revision !== undefined && relations.get(revision) === 'behind' ? 'skipped' : 'moved'
}

function without(platforms: readonly Platform[], others: readonly Platform[]): readonly Platform[] {
  const keys = new Set(others.map(platformKey))
  return platforms.filter((platform) => !keys.has(platformKey(platform)))
}

/** The tags that would lose a platform by being moved. */
export function losing(plans: readonly TagPlan[]): readonly TagPlan[] {
  return plans.filter(
    ({ action, lost, before }) => action === 'moved' && (lost.length > 0 || before.unreadable !== undefined),
  )
}

/**
 * Lets no tag lose a platform that it has.
 * @param state where the tags are, for the error
 * @throws MergeError where one would
 */
export function refuseLoss(plans: readonly TagPlan[], state = ''): void {
  const [first, ...more] = losing(plans)
  if (first === undefined) return
  throw new MergeError({
    message:
      first.before.unreadable === undefined
        ? `${formatReference(first.tag)} would lose ${first.lost.map(formatPlatform).join(', ')}, which it has now`
        : `Whether ${formatReference(first.tag)} would lose a platform is not known: its index can't be read`,
    detail: [first, ...more].map(describeLoss).join('\n'),
    hint: `${state} Did the build of that platform fail, or is it no longer in the matrix? If it is to go, say so in this step:\n  allow-missing-platforms: true`.trimStart(),
  })
}

/** One line on what a tag would lose. */
export function describeLoss({ tag, before, lost }: TagPlan): string {
  if (before.unreadable !== undefined) return before.unreadable
  return `${formatReference(tag)} has ${before.platforms.map(formatPlatform).join(', ')}; not built: ${lost.map(formatPlatform).join(', ')}`
}
