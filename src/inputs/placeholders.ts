import { InputError } from '../errors.ts'
import { isTag } from '../oci/reference.ts'

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
