import * as v from 'valibot'
import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { readJson } from '../json.ts'
import {
  formatReference,
  formatRepository,
  isTag,
  parseReference,
  type Repository,
  sameRepository,
  type TagReference,
  tagProblem,
} from '../oci/reference.ts'
import { inputOf, splitList, uniqueBy, valid } from './field.ts'

/**
 * Replaces `{sha}` in tags with the short ID of a commit.
 * @param revision the full commit ID, or empty if it is unknown
 * @throws InputError if a tag contains `{sha}` and the commit is unknown
 */
export function fillTags(tags: readonly TagReference[], revision: string): readonly TagReference[] {
  const filled = tags.map((one) => ({
    ...one,
    tag: fillPlaceholders('tags', one.tag, { revision }),
  }))
  return uniqueBy(filled, formatReference)
}

/**
 * Returns the tags to publish: from the input, from docker/metadata-action, or the defaults. They may contain `{sha}`: the
 * commit is known only once the records are read.
 * @throws InputError if an image has no tag, or a tag is for another image
 */
export function readTagsInput(
  env: Environment,
  images: readonly Repository[],
  metadata: Metadata | undefined,
  variant: string,
): { readonly tags: readonly TagReference[]; readonly notices: readonly string[] } {
  const given = splitList(inputOf(env, 'tags'))
  const own = given.length > 0 || metadata?.tags === undefined
  const defaults = defaultTags(env, variant)
  const texts = given.length > 0 ? given : (metadata?.tags ?? defaults.texts)
  const all = texts.flatMap((text) => readTagReferences(fillPlaceholders('tags', text, { variant }), images))
  const foreign = all.filter((one) => !images.some((image) => sameRepository(image, one.repository)))
  if (own && foreign[0] !== undefined)
    throw new InputError({
      message: `The input \`tags\` contains ${formatReference(foreign[0])}, which is not in \`image\``,
      hint: `Add ${formatRepository(foreign[0].repository)} to \`image\`, or write only the tag.`,
    })
  const tags = uniqueBy(
    all.filter((one) => !foreign.includes(one)),
    formatReference,
  )
  if (tags.length > 0) {
    checkEachTagged(images, tags)
    return { tags, notices: texts === defaults.texts ? defaults.notices : [] }
  }
  throw new InputError({
    message: 'No tags to publish: docker/metadata-action created none for `image`',
    detail: foreign.length > 0 ? `it created ${foreign.map(formatReference).join(', ')}` : 'it created no tags',
    hint: 'Use the same repositories in `images` of docker/metadata-action and `image` of this step, and add a rule for this event to its `tags`. Or set `tags` in this step.',
  })
}

/** Events for changes that are not merged yet: pull requests and merge queues. */
const BEFORE_MERGE = /^(pull_request(_target)?|merge_group)$/

/** Returns the default tags. `latest` is published only for merged changes. */
function defaultTags(
  { GITHUB_EVENT_NAME: event = '' }: Environment,
  variant: string,
): {
  readonly texts: readonly string[]
  readonly notices: readonly string[]
} {
  const [main, ofCommit] = variant === '' ? ['latest', '{sha}'] : [variant, `{sha}-${variant}`]
  if (!BEFORE_MERGE.test(event)) return { texts: [main, ofCommit], notices: [] }
  const notice = `Not publishing the tag ${main}: this run is for a change that is not merged yet (${event}). To publish it anyway, add to this step:\n  tags: ${main}`
  return { texts: [ofCommit], notices: [notice] }
}

/** @throws InputError */
function checkEachTagged(images: readonly Repository[], tags: readonly TagReference[]): void {
  const untagged = images.find((image) => !tags.some(({ repository }) => sameRepository(repository, image)))
  if (untagged === undefined) return
  throw new InputError({
    message: `No tag to publish for ${formatRepository(untagged)}`,
    hint: 'Write a tag without a name to publish it for every image, or add this image to `images` of docker/metadata-action.',
  })
}

function readTagReferences(text: string, images: readonly Repository[]): readonly TagReference[] {
  if (isTagPattern(text)) return images.map((repository) => ({ repository, tag: text }))
  if (!text.includes(':'))
    throw new InputError({
      message: `The input \`tags\` is not valid: ${tagProblem(text)}`,
      hint: 'To create tags from branch names, use docker/metadata-action. For another repository, write `name:tag`.',
    })
  const colon = text.lastIndexOf(':')
  const { repository, tag, digest } = valid('tags', () =>
    parseReference(text.slice(0, colon).toLowerCase() + withSampleSha(text.slice(colon))),
  )
  if (tag !== undefined && digest === undefined) return [{ repository, tag: text.slice(colon + 1) }]
  throw new InputError({
    message: `The input \`tags\` contains "${text}", which has no tag`,
    hint: 'Write `name:tag`, or only the tag.',
  })
}

/** The output of docker/metadata-action. */
export interface Metadata {
  readonly tags: readonly string[] | undefined
  readonly annotations: readonly string[] | undefined
}

const METADATA = v.object({ tags: v.optional(v.array(v.string())), annotations: v.optional(v.array(v.string())) })

/**
 * Reads the output of docker/metadata-action in an earlier step of the job.
 * @throws InputError if it is not valid
 */
export function readMetadata(env: Environment): Metadata | undefined {
  const json = env.DOCKER_METADATA_OUTPUT_JSON ?? ''
  if (json === '') return undefined
  const result = readJson(METADATA, json)
  if (result.ok) return { tags: result.value.tags, annotations: result.value.annotations }
  throw new InputError({
    message: 'The variable DOCKER_METADATA_OUTPUT_JSON is not valid output of docker/metadata-action',
    detail: result.place === undefined ? result.problem : `${result.place}: ${result.problem}`,
    hint: 'Find the earlier step that sets this variable. Only docker/metadata-action may set it.',
  })
}

/** Values for placeholders in tags. Empty: unknown. Absent: the placeholder is kept. */
export interface Placeholders {
  /** The full commit ID. `{sha}` is its first seven digits. */
  readonly revision?: string
  readonly variant?: string
  readonly system?: string
}

/**
 * Replaces `{sha}`, `{variant}` and `{system}` in a tag.
 * @throws InputError if a value is unknown
 */
export function fillPlaceholders(input: string, pattern: string, { revision, variant, system }: Placeholders): string {
  const values = { sha: revision?.slice(0, 7), variant, system }
  return Object.entries(values).reduce((text, [name, value]) => {
    const placeholder = `{${name}}`
    if (value === undefined || !text.includes(placeholder)) return text
    if (value === '') throw unknownValue(input, name)
    return text.replaceAll(placeholder, value)
  }, pattern)
}

/** Reports whether a text is a tag once its `{sha}` is replaced. */
export function isTagPattern(text: string): boolean {
  return isTag(withSampleSha(text))
}

/** Returns the tag for a sample commit, for validation. */
export function withSampleSha(pattern: string): string {
  return pattern.replaceAll('{sha}', '0123456')
}

function unknownValue(input: string, name: string): InputError {
  if (name === 'variant')
    return new InputError({
      message: `The input \`${input}\` contains {variant}, but the input \`variant\` is empty`,
      hint: 'Set `variant` to the name of the image, or remove {variant}.',
    })
  return new InputError({
    message: `The input \`${input}\` contains {${name}}, but the commit is unknown`,
    detail: 'GITHUB_SHA is empty, and the source is not in a Git work tree',
    hint: 'Remove {sha} from the tag.',
  })
}
