import { NixError } from './nix-error.ts'
import { isStorePath } from './store-path.ts'

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
 * @param runnerSystem the system of the machine
 * @throws NixError for a path below a store path
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

/** Of a path below a store path Nix builds the whole, and another image in it could be taken for the one that was named. */
function refuseBelow(text: string): void {
  const [, storePath = '', below] = /^(.*?\/[0-9a-df-np-sv-z]{32}-[^/#]+)\/+([^/#]+[^#]*)$/.exec(text) ?? []
  if (below === undefined || !isStorePath(storePath)) return
  throw new NixError({
    what: `The input \`installable\` is "${text}", and Nix builds ${storePath}, with all that is in it`,
    help: 'Name the store path itself, if it has one image in it, or the attribute of the image.',
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
