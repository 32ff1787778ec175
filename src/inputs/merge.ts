import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { type Annotation, parseAnnotation } from '../oci/annotation.ts'
import type { TagReference } from '../oci/reference.ts'
import {
  type CommonInputs,
  inputOf,
  linesOf,
  readBoolean,
  readCommonInputs,
  readSystems,
  readVariant,
  type VariantInputs,
  valid,
} from './field.ts'
import { readMetadata, readTagsInput } from './tags.ts'

/** The inputs of a step with `mode: merge`. */
export interface MergeInputs extends CommonInputs, VariantInputs {
  readonly mode: 'merge'
  /** At least one, all different. They may contain `{sha}`. */
  readonly tags: readonly TagReference[]
  readonly annotations: readonly Annotation[]
  /** The systems that the image must have. Empty: those of the records. */
  readonly systems: readonly string[]
  /** Records or digests as text. Undefined: they are in the artifacts of the run. */
  readonly digests: readonly string[] | undefined
  /** Names artifacts of other actions whose files are named after digests; `*` matches any text. Empty: none. */
  readonly artifactPattern: string
  /** Whether a tag may lose a platform. */
  readonly allowMissingPlatforms: boolean
  /** Whether a tag may move to an older commit. */
  readonly allowOlder: boolean
  /** Whether to publish a new index if nothing has changed. */
  readonly republish: boolean
  /** Tags that must keep their content, once they exist: `*` matches any text, `?` any character. */
  readonly immutableTags: readonly string[]
  /** Whether to sign and attach provenance. */
  readonly attest: boolean
  /** For the API of the Git host. May be empty. */
  readonly token: string
}

export function readMergeInputs(env: Environment): MergeInputs {
  const common = readCommonInputs(env)
  const metadata = readMetadata(env)
  const annotations = linesOf(inputOf(env, 'annotations'))
  const variant = readVariant(env)
  const { tags, notices } = readTagsInput(env, common.images, metadata, variant)
  return {
    ...common,
    mode: 'merge',
    variant,
    // Notices about tags are irrelevant if nothing is published.
    notices: common.push ? [...common.notices, ...notices] : common.notices,
    tags,
    annotations: (annotations.length > 0 ? annotations : (metadata?.annotations ?? [])).flatMap((text) =>
      valid('annotations', () => parseAnnotation(text)),
    ),
    systems: readSystems(env),
    digests: readDigests(env, common.push),
    artifactPattern: inputOf(env, 'artifact-pattern'),
    allowMissingPlatforms: readBoolean(env, 'allow-missing-platforms', false),
    allowOlder: readBoolean(env, 'allow-older', false),
    republish: readBoolean(env, 'republish', false),
    immutableTags: linesOf(inputOf(env, 'immutable-tags')).map(checkTagGlob),
    attest: readBoolean(env, 'attest', false),
    token: inputOf(env, 'token'),
  }
}

/** @throws InputError if no tag can match */
function checkTagGlob(pattern: string): string {
  if (/^[\w*?][\w.*?-]{0,127}$/.test(pattern)) return pattern
  throw new InputError({
    message: `The input \`immutable-tags\` contains "${pattern}", which matches no tag`,
    hint: 'Write one pattern per line, without the name of the image. "*" matches any text, "?" any character:\n  immutable-tags: |\n    v*\n    1.*',
  })
}

function readDigests(env: Environment, push: boolean): readonly string[] | undefined {
  const digests = linesOf(inputOf(env, 'digests'))
  if (digests.length > 0) return digests
  // A missing input is not even an empty line.
  if ((env.INPUT_DIGESTS ?? '') === '') return undefined
  // Builds with `push: false` have no records.
  if (!push) return []
  throw new InputError({
    message: 'The input `digests` contains only empty lines',
    hint: 'Check whether the builds failed or pushed nothing. The runner also drops outputs that contain a secret: if the name of the image contains one, such as a user name, store it in `vars` instead of `secrets`.',
  })
}
