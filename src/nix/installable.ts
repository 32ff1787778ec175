import { NixError } from './nix-error.ts'
import { placeInStore, type StorePlace } from './store-path.ts'

/** What the user asked to have built. */
export interface InstallableInputs {
  readonly system: string
  readonly flake: string
  readonly attribute: string
  /** Takes the place of flake and attribute where it is not empty; `{system}` in it is replaced. */
  readonly installable: string
  /** A file of Nix expressions, in place of the flake, where it is not empty. */
  readonly file: string
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
    return { options: fileOptions(file, system, runnerSystem), text: attribute, name: `${attribute} of ${file}` }
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
    what: `The input \`installable\` is "${text}", which is within ${place.storePath}, and Nix builds no part of a store path`,
    help: 'Name the attribute of the image, or the store path itself, if it has one image in it.',
  })
}

/**
 * A file has no systems among its attributes: it is told by an argument, if it takes one, and by what
 * `builtins.currentSystem` is, which becomes the runner's own where Nix takes no other from this user.
 */
function fileOptions(file: string, system: string, runnerSystem: string): readonly string[] {
  const current =
    system === runnerSystem ? [] : ['--option', 'system', system, '--option', 'extra-platforms', runnerSystem]
  return ['--file', file, '--argstr', 'system', system, ...current]
}

/** An attribute of what is to be built, such as the program that belongs to an image. */
export function attributeOf({ options, text, name }: Installable, attribute: string): Installable {
  const plain = text.replace(/\^[^#]*$/, '')
  // Without an attribute it is the flake's default one: a dot behind a flake's reference would be part of that.
  const whole = options.length > 0 || /#./.test(plain) ? plain : `${plain.replace(/#$/, '')}#default`
  return { options, text: `${whole}.${attribute}`, name: `${name}.${attribute}` }
}
