import { compareText } from '../text.ts'
import type { StoreName } from './store-name.ts'

/** A module that a compiler recorded in a program: a Go module or a Rust crate. */
export interface BinaryModule {
  /** The type of its package URL. */
  readonly type: 'golang' | 'cargo'
  readonly name: string
  /** Undefined if the program was built from a folder without a version. */
  readonly version?: string
}

/** Returns the package URL of a module. */
export function modulePurl({ type, name, version }: BinaryModule): string {
  // The specification asks for lower case in names of Go modules.
  return formatPurl(type, type === 'golang' ? name.toLowerCase() : name, version, {})
}

/**
 * Returns the package URL of a store path, in the form that syft writes. Nix has no registered type yet:
 * https://github.com/package-url/purl-spec/issues/876
 * @param hash the hash in the store path
 * @param derivation the file name of the derivation
 */
export function storePathPurl(
  { pname, version, output }: StoreName,
  hash: string,
  derivation: string | undefined,
): string {
  return formatPurl('nix', pname, version, { output, outputhash: hash, drvpath: derivation })
}

/**
 * Returns the package URL of an image.
 * @param name such as `ghcr.io/owner/app`
 */
export function imagePurl(name: string, digest: string, architecture: string): string {
  const last = name.slice(name.lastIndexOf('/') + 1)
  return formatPurl('oci', last, digest, { arch: architecture, repository_url: name })
}

/** Returns modules without duplicates, sorted by package URL. */
export function sortedModules(modules: readonly BinaryModule[]): readonly BinaryModule[] {
  return sortedByKey(modules, modulePurl)
}

/** Sorts items by their keys. Of several with the same key, keeps the one whose JSON is the lowest. */
export function sortedByKey<Item>(items: readonly Item[], keyOf: (item: Item) => string): readonly Item[] {
  const keyed = items.map((item) => ({ item, key: keyOf(item), json: JSON.stringify(item) }))
  const sorted = keyed.toSorted((one, other) => compareText(one.key, other.key) || compareText(one.json, other.json))
  return sorted.filter(({ key }, at) => key !== sorted[at - 1]?.key).map(({ item }) => item)
}

/** https://github.com/package-url/purl-spec/blob/main/docs/how-to-build.md */
function formatPurl(
  type: string,
  name: string,
  version: string | undefined,
  qualifiers: Readonly<Record<string, string | undefined>>,
): string {
  const known = Object.entries(qualifiers).filter(([, value]) => value)
  const query = known.map(([key, value = '']) => `${key}=${encodePurlPart(value)}`).toSorted()
  return [
    `pkg:${type}/${name.split('/').map(encodePurlPart).join('/')}`,
    version ? `@${encodePurlPart(version)}` : '',
    query.length > 0 ? `?${query.join('&')}` : '',
  ].join('')
}

function encodePurlPart(text: string): string {
  return encodeURIComponent(text.toWellFormed())
    .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll('%3A', ':')
}
