import { MergeError } from '../errors.ts'
import { formatPlatform, type Platform, platformKey } from '../oci/platform.ts'
import { type Digest, formatReference, type TagReference } from '../oci/reference.ts'
import { sanitizeLine } from '../text.ts'
import type { PublishedTag } from './published.ts'

/** The decision of a merge about a tag. */
export interface TagPlan {
  readonly tag: TagReference
  readonly before: PublishedTag
  /**
   * `kept`: the tag points to the index already. `created`, `moved`: the merge points it to the index. `skipped`: the
   * tag points to a newer commit and stays there. `overtaken`: another run has moved the tag after this merge did.
   */
  readonly action: 'kept' | 'created' | 'moved' | 'skipped' | 'overtaken'
  /** What an overtaken tag points to now. Undefined if it was deleted. */
  readonly now?: Digest | undefined
  /** Platforms that only the new index has. */
  readonly gained: readonly Platform[]
  /** Platforms that only the image the tag points to has. */
  readonly lost: readonly Platform[]
}

/**
 * Decides what to do with each tag.
 * @param index the digest of the new index
 * @param newer the published commits that are newer than that of the index
 */
export function planTags(
  published: readonly PublishedTag[],
  index: Digest,
  platforms: readonly Platform[],
  newer: ReadonlySet<string>,
): readonly TagPlan[] {
  return published.map((before) => ({
    tag: before.tag,
    before,
    action: actionFor(before, index, newer),
    gained: before.stored === undefined ? [] : platformsWithout(platforms, before.platforms),
    lost: platformsWithout(before.platforms, platforms),
  }))
}

function actionFor({ stored, revision }: PublishedTag, index: Digest, newer: ReadonlySet<string>): TagPlan['action'] {
  if (stored === undefined) return 'created'
  if (stored.digest === index) return 'kept'
  return revision !== undefined && newer.has(revision) ? 'skipped' : 'moved'
}

function platformsWithout(platforms: readonly Platform[], others: readonly Platform[]): readonly Platform[] {
  const keys = new Set(others.map(platformKey))
  return platforms.filter((platform) => !keys.has(platformKey(platform)))
}

/** Returns the plans of tags that lose a platform when they move. */
export function plansWithLoss(plans: readonly TagPlan[]): readonly TagPlan[] {
  return plans.filter(
    ({ action, lost, before }) => action === 'moved' && (lost.length > 0 || before.unreadable !== undefined),
  )
}

/**
 * Checks that no tag loses a platform.
 * @param state where the tags are, for the error
 * @throws MergeError
 */
export function assertNoPlatformLost(plans: readonly TagPlan[], state = ''): void {
  const [first, ...more] = plansWithLoss(plans)
  if (first === undefined) return
  throw new MergeError({
    message:
      first.before.unreadable === undefined
        ? `${formatReference(first.tag)} would lose ${first.lost.map(formatPlatform).join(', ')}`
        : `${formatReference(first.tag)} may lose a platform: the index it points to can't be read`,
    detail: [first, ...more].map(formatLoss).join('\n'),
    hint: `${state} Check whether the build of that platform failed or is missing from the matrix. To remove the platform from the tag, set in this step:\n  allow-missing-platforms: true`.trimStart(),
  })
}

interface ImmutableTags {
  /** Patterns: `*` matches any text, `?` any character. */
  readonly immutableTags: readonly string[]
  readonly republish: boolean
}

/**
 * Checks that every existing tag that matches a pattern points to the index already. A tag with a newer commit must not
 * be skipped either: users would miss that this run's image has not been published under it.
 * @param state where the tags are, for the error
 * @throws MergeError
 */
export function assertImmutableTagsKept(
  plans: readonly TagPlan[],
  index: Digest,
  { immutableTags, republish }: ImmutableTags,
  state = '',
): void {
  const changed = plans.filter(
    ({ tag, action }) => (action === 'moved' || action === 'skipped') && matchesAny(tag.tag, immutableTags),
  )
  const [first] = changed
  if (first === undefined) return
  const patterns = immutableTags.filter((pattern) => changed.some(({ tag }) => matchesAny(tag.tag, [pattern])))
  const force = republish ? ' If the images are the same, remove `republish`.' : ''
  throw new MergeError({
    message: `${formatReference(first.tag)} exists with other content, and \`immutable-tags\` does not let it change`,
    detail: [...changed.map(formatTarget), `the index of this run is ${index}`].join('\n'),
    hint: `${state} Publish this image under a new tag, or remove the tag from \`tags\`.${force} To replace its content, delete the tag at the registry, or remove ${patterns.join(', ')} from \`immutable-tags\`.`.trimStart(),
  })
}

function formatTarget({ tag, before: { stored, revision } }: TagPlan): string {
  const commit = revision === undefined ? '' : ` (commit ${sanitizeLine(revision)})`
  return `${formatReference(tag)} points to ${stored?.digest}${commit}`
}

/**
 * Returns tags with those that match a pattern first, so that an index with the same content is looked for there before
 * it is looked for at tags that may move.
 */
export function immutableFirst(
  published: readonly PublishedTag[],
  patterns: readonly string[],
): readonly PublishedTag[] {
  const rank = ({ tag }: PublishedTag) => (matchesAny(tag.tag, patterns) ? 0 : 1)
  return published.toSorted((one, other) => rank(one) - rank(other))
}

function matchesAny(tag: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => globExpression(pattern).test(tag))
}

function globExpression(pattern: string): RegExp {
  const escaped = pattern.replaceAll('.', '\\.').replaceAll('?', '.').replace(/\*+/g, '.*')
  return new RegExp(`^${escaped}$`)
}

/** Returns a line that says which platforms a tag loses. */
export function formatLoss({ tag, before, lost }: TagPlan): string {
  if (before.unreadable !== undefined) return before.unreadable
  return `${formatReference(tag)} has ${before.platforms.map(formatPlatform).join(', ')}; this run did not build ${lost.map(formatPlatform).join(', ')}`
}
