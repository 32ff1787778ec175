import * as v from 'valibot'
import { readJson } from '../json.ts'
import {
  formatReference,
  formatRepository,
  parseReference,
  type Reference,
  type Repository,
  sameRepository,
  tagProblem,
} from '../oci/reference.ts'
import {
  type Environment,
  fillPlaceholders,
  InputError,
  inputOf,
  isTagPattern,
  listOf,
  uniqueBy,
  valid,
  withSampleSha,
} from './field.ts'

/** A tag to publish, in one of `images`. */
export interface TagReference extends Reference {
  readonly tag: string
}

/**
 * Replaces `{sha}` in tags by the short form of a commit.
 * @param revision the full commit ID, or empty if it is unknown
 * @throws InputError if a tag has `{sha}` and the commit is unknown
 */
export function fillTags(tags: readonly TagReference[], revision: string): readonly TagReference[] {
  const filled = tags.map((one) => ({
    ...one,
    tag: fillPlaceholders('tags', one.tag, { revision }),
  }))
  return uniqueBy(filled, formatReference)
}

/**
 * The tags to publish: those of the input, else those of docker/metadata-action, else the usual ones. They still have
 * `{sha}`: which commit was built is in the records.
 * @throws InputError where there is none for an image, or one is for another
 */
export function readTags(
  env: Environment,
  images: readonly Repository[],
  metadata: Metadata | undefined,
  variant: string,
): { readonly tags: readonly TagReference[]; readonly notices: readonly string[] } {
  const given = listOf(inputOf(env, 'tags'))
  const own = given.length > 0 || metadata?.tags === undefined
  const usual = usualTags(env, variant)
  const texts = given.length > 0 ? given : (metadata?.tags ?? usual.texts)
  const all = texts.flatMap((text) => readTagReferences(fillPlaceholders('tags', text, { variant }), images))
  const foreign = all.filter((one) => !images.some((image) => sameRepository(image, one.repository)))
  if (own && foreign[0] !== undefined)
    throw new InputError({
      message: `The input \`tags\` has ${formatReference(foreign[0])}, which is none of the images of \`image\``,
      hint: `Add ${formatRepository(foreign[0].repository)} to \`image\`, or write the tag alone.`,
    })
  const tags = uniqueBy(
    all.filter((one) => !foreign.includes(one)),
    formatReference,
  )
  if (tags.length > 0) {
    checkEachTagged(images, tags)
    return { tags, notices: texts === usual.texts ? usual.notices : [] }
  }
  throw new InputError({
    message: 'There is no tag to publish: docker/metadata-action gave none for the images of `image`',
    detail: foreign.length > 0 ? `it gave ${foreign.map(formatReference).join(', ')}` : 'it gave no tags at all',
    hint: 'Let `images` of docker/metadata-action and `image` of this step name the same repositories, and its `tags` have a rule for this event; or set `tags` here.',
  })
}

/** Those of runs for what may yet be turned down: pull requests, and the queue in which they wait to be merged. */
const BEFORE_MERGE = /^(pull_request(_target)?|merge_group)$/

/** The tags where none are given: users who pull `latest` don't expect what nobody has merged yet. */
function usualTags(
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

/** An image without a tag would be published where nobody finds it. */
function checkEachTagged(images: readonly Repository[], tags: readonly TagReference[]): void {
  const untagged = images.find((image) => !tags.some(({ repository }) => sameRepository(repository, image)))
  if (untagged === undefined) return
  throw new InputError({
    message: `There is no tag for ${formatRepository(untagged)}`,
    hint: 'Write a tag alone, so that it goes to every image, or let `images` of docker/metadata-action name this one too.',
  })
}

function readTagReferences(text: string, images: readonly Repository[]): readonly TagReference[] {
  if (isTagPattern(text)) return images.map((repository) => ({ repository, tag: text }))
  if (!text.includes(':'))
    throw new InputError({
      message: `The input \`tags\` is not valid: ${tagProblem(text)}`,
      hint: 'For the names of branches use docker/metadata-action, which makes tags of them; for another repository write `name:tag`.',
    })
  const colon = text.lastIndexOf(':')
  const { repository, tag, digest } = valid('tags', () =>
    parseReference(text.slice(0, colon).toLowerCase() + withSampleSha(text.slice(colon))),
  )
  if (tag !== undefined && digest === undefined) return [{ repository, tag: text.slice(colon + 1) }]
  throw new InputError({
    message: `The input \`tags\` has "${text}", which has no tag`,
    hint: 'Write `name:tag`, or the tag alone.',
  })
}

/** What docker/metadata-action gives for an image. */
export interface Metadata {
  readonly tags: readonly string[] | undefined
  readonly annotations: readonly string[] | undefined
}

const METADATA = v.object({ tags: v.optional(v.array(v.string())), annotations: v.optional(v.array(v.string())) })

/**
 * Reads what docker/metadata-action, run in an earlier step of the job, has left.
 * @throws InputError where it is something else
 */
export function readMetadata(env: Environment): Metadata | undefined {
  const json = env.DOCKER_METADATA_OUTPUT_JSON ?? ''
  if (json === '') return undefined
  const result = readJson(METADATA, json)
  if (result.ok) return { tags: result.value.tags, annotations: result.value.annotations }
  throw new InputError({
    message: 'The variable DOCKER_METADATA_OUTPUT_JSON is not what docker/metadata-action writes',
    detail: result.place === undefined ? result.problem : `${result.place}: ${result.problem}`,
    hint: 'Nothing but docker/metadata-action should set it; a step before this one does.',
  })
}
