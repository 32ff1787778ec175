import * as v from 'valibot'
import { readJson } from '../json.ts'
import { type Digest, isDigest } from '../oci/reference.ts'
import type { BinaryModule } from './purl.ts'
import type { StorePathModules } from './scan.ts'
import { CREATOR, type LayerContent } from './spdx.ts'
import type { StorePathInfo } from './store-info.ts'

/** A store path as a published SBOM describes it. */
export interface PublishedStorePath extends StorePathModules {
  /** Identifies the content of the store path. Undefined if the machine that built the image did not have it. */
  readonly narHash: string | undefined
}

/** The content of a published image, as its SBOM describes it. */
export interface PublishedContent {
  readonly layers: readonly LayerContent[]
  readonly storePaths: readonly PublishedStorePath[]
}

const PACKAGE = v.object({
  SPDXID: v.string(),
  name: v.string(),
  versionInfo: v.optional(v.string()),
  primaryPackagePurpose: v.optional(v.string()),
  comment: v.optional(v.string(), ''),
  externalRefs: v.array(v.object({ referenceLocator: v.string() })),
})

const RELATIONSHIP = v.object({
  spdxElementId: v.string(),
  relationshipType: v.string(),
  relatedSpdxElement: v.string(),
})

const STATEMENT = v.object({
  predicate: v.object({
    creationInfo: v.object({ creators: v.strictTuple([v.literal(CREATOR)]) }),
    packages: v.array(PACKAGE),
    relationships: v.array(RELATIONSHIP),
  }),
})

/**
 * Returns the content that an SBOM describes.
 * @param statement as `sbomAttestation` returns it
 * @returns undefined for SBOMs of other tools, and of versions of this action that made them by other rules
 */
export function publishedContent(statement: Buffer): PublishedContent | undefined {
  const read = readJson(STATEMENT, statement)
  if (!read.ok) return undefined
  const { packages, relationships } = read.value.predicate
  const modules = new Map(packages.flatMap((one) => entryOf(one.SPDXID, moduleOf(one))))
  const contained = Map.groupBy(
    relationships.filter(({ relationshipType }) => relationshipType === 'CONTAINS'),
    ({ spdxElementId }) => spdxElementId,
  )
  const described = packages.flatMap(({ SPDXID, comment }) => {
    const [path = '', ...lines] = comment.split('\n')
    if (!path.startsWith('/')) return []
    const ofPath = (contained.get(SPDXID) ?? []).flatMap(({ relatedSpdxElement: id }) => modules.get(id) ?? [])
    const [narHash] = valuesOf('narHash', lines)
    return [{ path, narHash, modules: ofPath, layers: valuesOf('layer', lines) }]
  })
  const image = packages.find(({ primaryPackagePurpose }) => primaryPackagePurpose === 'CONTAINER')
  const layers = valuesOf('layer', image?.comment.split('\n') ?? []).filter(isDigest)
  return {
    layers: layers.map((diffId) => ({ diffId, storePaths: pathsIn(diffId, described) })),
    storePaths: described.map(({ path, narHash, modules: ofPath }) => ({ path, narHash, modules: ofPath })),
  }
}

function pathsIn(
  diffId: Digest,
  described: readonly { readonly path: string; readonly layers: readonly string[] }[],
): readonly string[] {
  return described.flatMap(({ path, layers }) => (layers.includes(diffId) ? [path] : []))
}

/** Returns the values of the lines that begin with a key and a colon. */
function valuesOf(key: string, lines: readonly string[]): readonly string[] {
  return lines.flatMap((line) => (line.startsWith(`${key}: `) ? [line.slice(key.length + 2)] : []))
}

/** Returns the published store paths that have the same content as those on this machine, by path. */
export function modulesOfSameContent(
  published: readonly PublishedContent[],
  storePaths: readonly StorePathInfo[],
): ReadonlyMap<string, StorePathModules> {
  const hashes = new Map(storePaths.flatMap(({ path, narHash }) => entryOf(path, narHash)))
  const same = published.flatMap((one) => one.storePaths).filter(({ path, narHash }) => hashes.get(path) === narHash)
  const known = same.filter(({ narHash }) => narHash !== undefined)
  return new Map(known.map(({ path, modules }) => [path, { path, modules }]))
}

function moduleOf({
  name,
  versionInfo,
  externalRefs: [purl],
}: v.InferOutput<typeof PACKAGE>): BinaryModule | undefined {
  const [, type] = /^pkg:(golang|cargo)\//.exec(purl?.referenceLocator ?? '') ?? []
  if (type !== 'golang' && type !== 'cargo') return undefined
  return { type, name, ...(versionInfo !== undefined && { version: versionInfo }) }
}

function entryOf<Value>(key: string, value: Value | undefined): readonly (readonly [string, Value])[] {
  return value === undefined ? [] : [[key, value]]
}
