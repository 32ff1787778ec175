import { basename } from 'node:path'

/** The parts of a store path's name. `glibc-2.40-66-bin` is the output `bin` of glibc 2.40-66. */
export interface StoreName {
  /** The name of the package. */
  readonly pname: string
  readonly version: string | undefined
  /** Undefined if it is unknown. */
  readonly output: string | undefined
}

/**
 * Splits the name of a store path.
 * @param deriver the store path of its derivation. Its name has no output, so that the split is exact. Without it, only
 * the names of outputs that are usual in nixpkgs are recognized.
 */
export function splitStoreName(name: string, deriver: string | undefined): StoreName {
  const derivation =
    deriver &&
    basename(deriver)
      .slice(HASH_LENGTH + 1)
      .replace(/\.drv$/, '')
  if (derivation === name) return { ...splitVersion(name), output: 'out' }
  if (derivation && name.startsWith(`${derivation}-`))
    return { ...splitVersion(derivation), output: name.slice(derivation.length + 1) }
  const split = splitVersion(name)
  const [, version, output] = USUAL_OUTPUT.exec(split.version ?? '') ?? []
  return output === undefined ? { ...split, output: undefined } : { pname: split.pname, version, output }
}

/** The length of the hash in a store path. */
export const HASH_LENGTH = 32

/**
 * https://nixos.org/manual/nixpkgs/stable/#multiple-output-file-type-groups, with those of common packages such as glibc.
 * A version may end in another word, such as `-beta`.
 */
const USUAL_OUTPUT =
  /^(.*\d.*)-(bin|data|debug|dev|devdoc|devman|dist|doc|getent|info|lib|libgcc|man|modules|plugins|py|python|scripts|static|terminfo|tools)$/

/** Splits like `builtins.parseDrvName`: before the first dash that is followed by a character other than a letter. */
function splitVersion(name: string): { readonly pname: string; readonly version: string | undefined } {
  const [, pname = name, version] = /^(.+?)-([^A-Za-z].*)$/s.exec(name) ?? []
  return { pname, version }
}
