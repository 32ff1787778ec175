import { HASH_LENGTH, splitStoreName } from '../sbom/store-name.ts'
import { compareText } from '../text.ts'

/** A package in an image. */
export interface Package {
  readonly name: string
  /** Absent if the name of its store path has none. */
  readonly version?: string
}

/** A package, or only some of its outputs, that one of two images has. */
export interface PackageEntry extends Package {
  /** Only the outputs that the other image lacks. Absent: it lacks the whole package. */
  readonly outputs?: readonly string[]
}

export interface PackageUpdate {
  readonly name: string
  readonly from: string
  readonly to: string
}

/** The difference between the packages of two images, sorted by name. */
export interface PackageChanges {
  readonly added: readonly PackageEntry[]
  readonly removed: readonly PackageEntry[]
  readonly updated: readonly PackageUpdate[]
  /** The number of packages with the same version in other store paths: their dependencies or build have changed. */
  readonly rebuilt: number
}

/**
 * Compares the packages in two lists of store paths. If an image has several versions of a package, pairs those that have
 * most in common: 1.1.1v and 3.0.14 become 1.1.1w and 3.0.15.
 */
export function compareStorePaths(before: readonly string[], after: readonly string[]): PackageChanges {
  const [old, current] = [packagesIn(before), packagesIn(after)]
  const names = [...new Set([...old.keys(), ...current.keys()])].sort(compareText)
  const changes = names.map((name) => compareVersionsOf(name, old.get(name) ?? NONE, current.get(name) ?? NONE))
  return {
    added: changes.flatMap(({ added }) => added),
    removed: changes.flatMap(({ removed }) => removed),
    updated: changes.flatMap(({ updated }) => updated),
    rebuilt: changes.reduce((sum, { rebuilt }) => sum + rebuilt, 0),
  }
}

/** The file names of the store paths of each output. */
type Outputs = ReadonlyMap<string, ReadonlySet<string>>
/** The outputs of each version of a package, empty if its name has none. */
type Versions = ReadonlyMap<string, Outputs>

const NONE: Versions = new Map()

function packagesIn(paths: readonly string[]): ReadonlyMap<string, Versions> {
  const files = paths.map((path) => {
    const file = path.slice(path.lastIndexOf('/') + 1)
    const { pname, version = '', output = 'out' } = splitStoreName(file.slice(HASH_LENGTH + 1), undefined)
    return { file, name: pname, version, output }
  })
  return grouped(
    files,
    ({ name }) => name,
    (ofName) =>
      grouped(
        ofName,
        ({ version }) => version,
        (ofVersion) =>
          grouped(
            ofVersion,
            ({ output }) => output,
            (same) => new Set(same.map(({ file }) => file)),
          ),
      ),
  )
}

function grouped<Item, Group>(
  items: readonly Item[],
  key: (item: Item) => string,
  collect: (group: readonly Item[]) => Group,
): ReadonlyMap<string, Group> {
  return new Map([...Map.groupBy(items, key)].map(([name, group]) => [name, collect(group)]))
}

function compareVersionsOf(name: string, before: Versions, after: Versions): PackageChanges {
  const only = (some: Versions, other: Versions) => [...some.keys()].filter((version) => !other.has(version))
  const { pairs, gone, fresh } = pairVersions(only(before, after), only(after, before))
  const entry = (version: string): Package => ({ name, ...(version !== '' && { version }) })
  const kept = [...before.keys()].filter((version) => after.has(version)).sort(byVersion)
  const outputs = kept.map((version) => ({
    entry: entry(version),
    ...compareOutputs(before.get(version) ?? new Map(), after.get(version) ?? new Map()),
  }))
  const withOutputs = (key: 'added' | 'removed') =>
    outputs.flatMap((one) => (one[key].length > 0 ? [{ ...one.entry, outputs: one[key] }] : []))
  return {
    added: [...fresh.map(entry), ...withOutputs('added')],
    removed: [...gone.map(entry), ...withOutputs('removed')],
    updated: pairs.map(([from, to]) => ({ name, from, to })),
    rebuilt: outputs.filter((one) => one.rebuilt).length,
  }
}

function compareOutputs(before: Outputs, after: Outputs) {
  const only = (some: Outputs, other: Outputs) =>
    [...some.keys()].filter((output) => !other.has(output)).sort(compareText)
  const rebuilt = [...before].some(([output, files]) => {
    const now = after.get(output)
    return now !== undefined && (files.size !== now.size || [...files].some((file) => !now.has(file)))
  })
  return { added: only(after, before), removed: only(before, after), rebuilt }
}

interface VersionPairs {
  readonly pairs: readonly (readonly [from: string, to: string])[]
  readonly gone: readonly string[]
  readonly fresh: readonly string[]
}

/** Pairs versions that begin with the same components, those with most of them first. Then pairs the rest in order. */
function pairVersions(before: readonly string[], after: readonly string[]): VersionPairs {
  // A package without a version has become another one.
  const pairable = (versions: readonly string[]) => versions.filter((version) => version !== '').sort(byVersion)
  let [gone, fresh] = [pairable(before), pairable(after)]
  const pairs: (readonly [string, string])[] = []
  for (let depth = MOST_COMPONENTS; depth >= 0; depth--) {
    const prefix = (version: string) => componentsOf(version).slice(0, depth).join('.')
    const candidates = Map.groupBy(fresh, prefix)
    const found = [...Map.groupBy(gone, prefix)].flatMap(([key, some]) =>
      some.flatMap((from, at) => {
        const to = candidates.get(key)?.[at]
        return to === undefined ? [] : [[from, to] as const]
      }),
    )
    pairs.push(...found)
    const paired = new Set(found.flat())
    gone = gone.filter((version) => !paired.has(version))
    fresh = fresh.filter((version) => !paired.has(version))
  }
  const unversioned = (versions: readonly string[]) => versions.filter((version) => version === '')
  return {
    pairs: pairs.sort(([one], [other]) => byVersion(one, other)),
    gone: [...unversioned(before), ...gone],
    fresh: [...unversioned(after), ...fresh],
  }
}

const MOST_COMPONENTS = 6

/** Returns the numbers and words of a version. */
function componentsOf(version: string): readonly string[] {
  return version.match(/\d+|[A-Za-z]+/g) ?? []
}

/** Compares the components of versions, numbers by their value. */
function byVersion(one: string, other: string): number {
  const [some, others] = [componentsOf(one), componentsOf(other)]
  for (const [at, component] of some.entries()) {
    const against = others[at]
    if (against === undefined) return 1
    const order = Number(component) - Number(against) || compareText(component, against)
    if (order !== 0) return order
  }
  return some.length - others.length || compareText(one, other)
}
