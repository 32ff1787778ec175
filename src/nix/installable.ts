import { NixError } from './nix-error.ts'
import { placeInStore, type StorePlace } from './store-path.ts'

/** What the user asked to have built. */
export interface InstallableInputs {
  readonly system: string
  readonly flake: string
  /** Of `file`, empty is the value of the file itself. */
  readonly attribute: string
  /** Takes the place of flake and attribute where it is not empty; `{system}` in it is replaced. */
  readonly installable: string
  /** A file of Nix expressions, in place of the flake, where it is not empty. */
  readonly file: string
  /** The user's own arguments for Nix. */
  readonly nixArgs: readonly string[]
}

/** What Nix is told to build. */
export interface Installable {
  /** What comes before it on Nix's command line. */
  readonly options: readonly string[]
  readonly text: string
  /** For people. */
  readonly name: string
}

/**
 * What Nix is to build, by the step's inputs. Looks where links on the disk lead.
 * @param runnerSystem the system of the machine
 * @throws NixError for a path within a store path, whether by its own words or by a link
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
  refuseBelow(text)
  return { options: [], text, name: text }
}

/**
 * Where a path leads to in the store, by itself or by a link such as `result`.
 * @returns nothing for what names an attribute, a flake or a file of Nix expressions
 */
export function placeOf({ options, text }: Pick<Installable, 'options' | 'text'>): StorePlace | undefined {
  // Without a slash it is a flake of the registry to Nix, even where there is a link of that name.
  if (options.length > 0 || text.includes('#') || !text.includes('/')) return undefined
  return placeInStore(text.replace(/\^[^/]*$/, ''))
}

/**
 * Of a path within a store path Nix builds the whole, and another image in it could be taken for the one that was
 * named. Where a link leads there, Nix 2.8 even builds the default package of the flake around it.
 */
function refuseBelow(text: string): void {
  const place = placeOf({ options: [], text })
  if (!place?.below) return
  throw new NixError({
    message: `The input \`installable\` is "${text}", which is within ${place.storePath}, and Nix builds no part of a store path`,
    hint: 'Name the attribute of the image, or the store path itself, if it has one image in it.',
  })
}

/**
 * Returns the options for a file, which has no systems among its attributes: it gets an argument `system`, if it takes
 * one, and `builtins.currentSystem`, which stays the runner's own if Nix takes no other from this user. Both are what
 * the user's own arguments for Nix say, if they say so: a cross-built image's file may call the builder's system that.
 */
function fileOptions({ file, system, nixArgs }: InstallableInputs, runnerSystem: string): readonly string[] {
  const argument = valueAfter(nixArgs, '--argstr', 'system')
  const expression = valueAfter(nixArgs, '--arg', 'system') ?? valueAfter(nixArgs, '--arg-from-file', 'system')
  const option = valueAfter(nixArgs, '--option', 'system') ?? valueAfter(nixArgs, '--system')
  // The value of an expression is not known here.
  const current = option ?? argument ?? (expression === undefined ? system : runnerSystem)
  return [
    '--file',
    file,
    ...(argument === undefined && expression === undefined ? ['--argstr', 'system', system] : []),
    ...(current !== runnerSystem && option === undefined ? ['--option', 'system', current] : []),
    ...(current !== runnerSystem ? ['--option', 'extra-platforms', runnerSystem] : []),
  ]
}

/** Returns the argument that follows others, the last time that they are there. */
function valueAfter(args: readonly string[], ...detail: readonly string[]): string | undefined {
  const at = args.findLastIndex((_, start) => detail.every((word, offset) => args[start + offset] === word))
  return at < 0 ? undefined : args[at + detail.length]
}

/** Returns an attribute of what is to be built, such as the program that belongs to an image. */
export function attributeOf({ options, text, name }: Installable, attribute: string): Installable {
  const plain = text.replace(/\^[^#]*$/, '')
  // A file's options begin with `--file` and its name. An empty text is the file's own value.
  if (options.length > 0) {
    const path = plain === '' ? attribute : `${plain}.${attribute}`
    return { options, text: path, name: `${path} of ${options[1]}` }
  }
  // Without an attribute it is the flake's default one: a dot behind a flake's reference would be part of that.
  const whole = /#./.test(plain) ? plain : `${plain.replace(/#$/, '')}#default`
  return { options, text: `${whole}.${attribute}`, name: `${name}.${attribute}` }
}
