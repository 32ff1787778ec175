import type { Compression } from '../compress/compress.ts'
import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { isTag, parseReference, type Reference, type Repository } from '../oci/reference.ts'
import { inputOf, linesOf, readChoice, splitList, valid } from './field.ts'

/** What pushes the image: this action or Docker. */
export type PushWith = 'docker' | 'registry'

export function readPushWith(env: Environment): PushWith {
  return readChoice(env, 'push-with', ['registry', 'docker'])
}

const LEVELS = { gzip: { most: 9, usual: 4 }, zstd: { most: 19, usual: 3 } } as const

export function readCompression(env: Environment, pushWith: PushWith): Compression {
  const format = readChoice(env, 'compression', ['gzip', 'zstd'])
  const { most, usual } = LEVELS[format]
  const text = inputOf(env, 'compression-level')
  if (pushWith === 'docker' && (format !== 'gzip' || text !== ''))
    throw new InputError({
      message: `The input \`${text === '' ? 'compression' : 'compression-level'}\` needs \`push-with: registry\`: Docker chooses the compression itself`,
      hint: 'Remove `compression` and `compression-level`, or remove `push-with`.',
    })
  const level = text === '' ? usual : Number(text)
  if (Number.isInteger(level) && level >= 1 && level <= most) return { format, level }
  throw new InputError({
    message: `The input \`compression-level\` is "${text}"; for ${format}, it must be a number from 1 to ${most}`,
  })
}

export function readReuseFrom(env: Environment, images: readonly Repository[], variant = ''): readonly Reference[] {
  const given = splitList(inputOf(env, 'reuse-from'))
  // The merge of a variant publishes a tag with the name of the variant by default.
  const isDefault = given.length === 1 && given[0] === 'latest' && variant !== '' && isTag(variant)
  return (isDefault ? [variant, ...given] : given).flatMap((text) => {
    if (isTag(text)) return images.map((repository) => ({ repository, tag: text }))
    const reference = valid('reuse-from', () => parseReference(lowercaseName(text)))
    if (reference.tag !== undefined || reference.digest !== undefined) return [reference]
    throw new InputError({
      message: `The input \`reuse-from\` contains "${text}", which has no tag`,
      hint: 'Write `name:tag`, or only the tag.',
    })
  })
}

/** Makes the name in a reference lowercase, like `image` and `tags`. The tag keeps its case. */
function lowercaseName(reference: string): string {
  const [name = ''] = /^.*?(?=(:[^/@]*)?(@.*)?$)/.exec(reference) ?? []
  return name.toLowerCase() + reference.slice(name.length)
}

export function readLabels(env: Environment, pushWith: PushWith): Readonly<Record<string, string>> {
  const lines = linesOf(inputOf(env, 'labels'))
  if (lines.length > 0 && pushWith === 'docker')
    throw new InputError({
      message: 'The input `labels` needs `push-with: registry`: Docker pushes the image unchanged',
      hint: 'Remove `labels` or `push-with`, or set the labels in Nix (config.Labels).',
    })
  return Object.fromEntries(lines.map(readLabel))
}

function readLabel(line: string): readonly [string, string] {
  const equals = line.indexOf('=')
  if (equals > 0) return [line.slice(0, equals), line.slice(equals + 1)]
  throw new InputError({ message: `The input \`labels\` contains "${line}", which does not have the form key=value` })
}
