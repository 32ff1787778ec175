import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { formatRepository, parseReference, type Repository } from '../oci/reference.ts'
import { isVariant } from '../record/record.ts'
import { inputOf, linesOf, readBoolean, uniqueBy, valid } from './field.ts'

/** The inputs of all modes. */
export interface CommonInputs {
  /** At least one, all different. */
  readonly images: readonly Repository[]
  /** `false`: build and check everything, but publish nothing. */
  readonly push: boolean
  /** Messages about how the inputs were read, shown as annotations. */
  readonly notices: readonly string[]
  /** Messages about how the inputs were read, shown in the log. */
  readonly notes: readonly string[]
}

/** The input that build and merge share. */
export interface VariantInputs {
  /** Distinguishes several images of one repository in a run. Empty if there is only one. */
  readonly variant: string
}

export function readCommonInputs(env: Environment): CommonInputs {
  const names = linesOf(inputOf(env, 'image'))
  if (names.length === 0)
    throw new InputError({
      message: 'The input `image` is missing',
      hint: 'Add the name of the image, without a tag:\n  image: ghcr.io/${{ github.repository }}',
    })
  const lowered = names.filter((name) => name !== name.toLowerCase())
  const listed = names.find((name) => name.includes(','))
  if (listed !== undefined)
    throw new InputError({
      message: `The input \`image\` is not valid: "${listed}" contains a comma`,
      hint: 'Write one name per line, without commas.',
    })
  const images = names.map((name) => valid('image', () => readImageName(name)))
  return {
    images: uniqueBy(images, formatRepository),
    push: readBoolean(env, 'push', true),
    notices: [],
    notes: lowered.map((name) => `Using "${name.toLowerCase()}" for "${name}": image names are lowercase`),
  }
}

function readImageName(name: string): Repository {
  const { repository, tag, digest } = parseReference(name.toLowerCase())
  if (tag === undefined && digest === undefined) return repository
  throw new InputError({
    message: `The input \`image\` is "${name}", which has a ${tag === undefined ? 'digest' : 'tag'}`,
    hint: `Remove it: \`image: ${formatRepository(repository)}\`. Set tags in \`tag\` (build) or \`tags\` (merge).`,
  })
}

export function readVariant(env: Environment): string {
  const variant = inputOf(env, 'variant')
  if (variant === '' || isVariant(variant)) return variant
  throw new InputError({
    message: `The input \`variant\` is "${variant}"; it must have at most 64 characters: lowercase letters, digits, ".", "_" and "-"`,
  })
}
