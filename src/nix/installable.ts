import { NixError } from '../errors.ts'
import { placeInStore, type StorePlace } from './store-path.ts'

/** The inputs that select what to build. */
export interface InstallableInputs {
  readonly system: string
  readonly flake: string
  /** An attribute of the flake or of `file`. Empty: the value of `file` itself. */
  readonly attribute: string
  /** Replaces flake and attribute unless empty. `{system}` in it is substituted. */
  readonly installable: string
  /** A file with a Nix expression. Replaces the flake unless empty. */
  readonly file: string
  /** The user's own arguments for Nix. */
  readonly nixArgs: readonly string[]
}

/** An installable, with the options that it needs. */
export interface Installable {
  /** The options that precede it on the command line of Nix. */
  readonly options: readonly string[]
  readonly text: string
  /** For messages. */
  readonly name: string
}

/**
 * Returns the installable for the step's inputs. Follows symbolic links.
 * @param runnerSystem the system of the runner
 * @throws NixError for a path that is, or leads, inside of a store path
 */
export function installableOf(inputs: InstallableInputs, runnerSystem: string): Installable {
  const { system, flake, attribute, installable, file } = inputs
  if (file !== '')
    return {
      options: fileOptions(inputs, runnerSystem),
      text: attribute,
      name: attribute === '' ? file : `${attribute} of ${file}`,
    }
  const text =
    installable !== '' ? installable.replaceAll('{system}', system) : `${flake}#packages.${system}.${attribute}`
  refusePartOfStorePath(text)
  return { options: [], text, name: text }
}

/**
 * Returns where in the store a path leads, directly or through a link such as `result`.
 * @returns undefined for an attribute, a flake or a file with a Nix expression
 */
export function storePlaceOf({ options, text }: Pick<Installable, 'options' | 'text'>): StorePlace | undefined {
  // Without a slash, Nix takes it for a flake in the registry, even if a link of that name exists.
  if (options.length > 0 || text.includes('#') || !text.includes('/')) return undefined
  return placeInStore(text.replace(/\^[^/]*$/, ''))
}

/** Returns the flake reference in an installable. Undefined for a file. */
export function flakeOf({ options, text }: Pick<Installable, 'options' | 'text'>): string | undefined {
  return options.length > 0 ? undefined : text.replace(/#.*$/s, '').replace(/\^[^/]*$/, '') || '.'
}

/** Returns the folder of a flake reference. Undefined for a flake that Nix fetches. */
export function localFlake(reference: string): string | undefined {
  const path = reference.replace(/\?.*$/s, '').replace(/^(?:path|git\+file):(?:\/\/)?/, '')
  return path.startsWith('.') || path.startsWith('/') ? path : undefined
}

/**
 * Refuses a path inside of a store path: Nix would build the whole store path, which may contain another image. If the
 * path is a link, Nix 2.8 would even build the default package of the flake around it.
 */
function refusePartOfStorePath(text: string): void {
  const place = storePlaceOf({ options: [], text })
  if (!place?.below) return
  throw new NixError({
    message: `The input \`installable\` is "${text}", which is inside of ${place.storePath}: Nix can't build a part of a store path`,
    hint: 'Set `installable` to the attribute of the image, or to the store path itself if it contains only one image.',
  })
}

/**
 * Returns the options for a file, whose attributes do not depend on the system. The file gets the system as its argument
 * `system`, if it has one, and as `builtins.currentSystem`, unless Nix ignores that option because the user is not
 * trusted. The user's own arguments take precedence: the file of a cross-built image may mean the builder's system.
 */
function fileOptions({ file, system, nixArgs }: InstallableInputs, runnerSystem: string): readonly string[] {
  const argument = valueAfter(nixArgs, '--argstr', 'system')
  const expression = valueAfter(nixArgs, '--arg', 'system') ?? valueAfter(nixArgs, '--arg-from-file', 'system')
  const option = valueAfter(nixArgs, '--option', 'system') ?? valueAfter(nixArgs, '--system')
  // The value of an expression is unknown here.
  const current = option ?? argument ?? (expression === undefined ? system : runnerSystem)
  return [
    '--file',
    file,
    ...(argument === undefined && expression === undefined ? ['--argstr', 'system', system] : []),
    ...(current !== runnerSystem && option === undefined ? ['--option', 'system', current] : []),
    ...(current !== runnerSystem ? ['--option', 'extra-platforms', runnerSystem] : []),
  ]
}

/** Returns the argument after the last occurrence of a sequence of arguments. */
function valueAfter(args: readonly string[], ...sequence: readonly string[]): string | undefined {
  const at = args.findLastIndex((_, start) => sequence.every((word, offset) => args[start + offset] === word))
  return at < 0 ? undefined : args[at + sequence.length]
}

/** Returns the installable for an attribute of another installable, such as `copyTo` of an image. */
export function attributeOf({ options, text, name }: Installable, attribute: string): Installable {
  const plain = text.replace(/\^[^#]*$/, '')
  // The options of a file begin with `--file` and its name. An empty text is the value of the file.
  if (options.length > 0) {
    const path = plain === '' ? attribute : `${plain}.${attribute}`
    return { options, text: path, name: `${path} of ${options[1]}` }
  }
  // Without an attribute, name the default one: a dot after the flake reference would become part of the reference.
  const whole = /#./.test(plain) ? plain : `${plain.replace(/#$/, '')}#default`
  return { options, text: `${whole}.${attribute}`, name: `${name}.${attribute}` }
}
