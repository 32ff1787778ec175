import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { formatRepository, parseReference, type Reference } from '../oci/reference.ts'
import {
  checkNixArg,
  lowercaseName,
  noticesOfIgnored,
  readFile,
  readFileAttribute,
  readFlake,
  readSystem,
  rejectOption,
} from './build.ts'
import { inputOf, linesOf, readBoolean, type StepInputs, valid } from './field.ts'

/** The inputs of a step with `mode: verify`. */
export interface VerifyInputs extends StepInputs {
  readonly mode: 'verify'
  /** The published image, with a tag or a digest. */
  readonly reference: Reference
  readonly system: string
  readonly flake: string
  readonly attribute: string
  readonly installable: string
  /** A file of Nix expressions, used in place of the flake. Empty: use the flake. */
  readonly file: string
  readonly nixArgs: readonly string[]
}

export function readVerifyInputs(env: Environment): VerifyInputs {
  const reference = readPublishedReference(env)
  const file = readFile(env)
  return {
    mode: 'verify',
    reference,
    system: readSystem(env),
    flake: readFlake(env),
    attribute: readFileAttribute(env, file),
    installable: rejectOption('installable', inputOf(env, 'installable')),
    file,
    nixArgs: linesOf(inputOf(env, 'nix-args')).map(checkNixArg),
    summary: readBoolean(env, 'summary', true),
    notices: noticesOfIgnored(env),
    notes: [],
  }
}

function readPublishedReference(env: Environment): Reference {
  const [name, ...more] = linesOf(inputOf(env, 'image'))
  if (name === undefined)
    throw new InputError({ message: 'The input `image` is missing', hint: `Add the published image:\n${EXAMPLE}` })
  if (more.length > 0)
    throw new InputError({
      message: `The input \`image\` names ${more.length + 1} images, but \`mode: verify\` verifies one`,
      hint: 'Name one image. To verify others, add a step for each.',
    })
  const reference = valid('image', () => parseReference(lowercaseName(name)))
  if (reference.tag !== undefined || reference.digest !== undefined) return reference
  throw new InputError({
    message: `The input \`image\` is "${formatRepository(reference.repository)}", which has no tag or digest`,
    hint: `\`mode: verify\` needs to know which image to verify:\n${EXAMPLE}`,
  })
}

const EXAMPLE = '  image: ghcr.io/${{ github.repository }}:1.2.3'
