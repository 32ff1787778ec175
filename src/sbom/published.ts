import * as v from 'valibot'
import { readJson } from '../json.ts'
import type { BinaryModule } from './purl.ts'
import type { StorePathModules } from './scan.ts'
import { CREATOR } from './spdx.ts'
import type { StorePathInfo } from './store-info.ts'

/** The modules of one store path, as a published SBOM lists them. */
export interface PublishedModules extends StorePathModules {
  /** Identifies the content of the store path. */
  readonly narHash: string
}

const PACKAGE = v.object({
  SPDXID: v.string(),
  name: v.string(),
  versionInfo: v.optional(v.string()),
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
 * Returns the modules of each store path whose hash an SBOM has. For store paths without modules, the list is empty.
 * @param statement as `sbomAttestation` returns it. SBOMs of other tools, and of versions of this action that searched for
 * modules in another way, have none
 */
export function publishedModules(statement: Buffer): readonly PublishedModules[] {
  const read = readJson(STATEMENT, statement)
  if (!read.ok) return []
  const { packages, relationships } = read.value.predicate
  const modules = new Map(packages.flatMap((one) => entryOf(one.SPDXID, moduleOf(one))))
  const contents = Map.groupBy(
    relationships.filter(({ relationshipType }) => relationshipType === 'CONTAINS'),
    ({ spdxElementId }) => spdxElementId,
  )
  return packages.flatMap(({ SPDXID, comment }) => {
    const [, path, narHash] = /^(\/.+)\nnarHash: (\S+)$/.exec(comment) ?? []
    if (path === undefined || narHash === undefined) return []
    const contained = contents.get(SPDXID) ?? []
    return {
      path,
      narHash,
      modules: contained.flatMap(({ relatedSpdxElement }) => modules.get(relatedSpdxElement) ?? []),
    }
  })
}

/** Returns those of the published modules that belong to the same content as the store paths on this machine. */
export function modulesOfSameContent(
  published: readonly PublishedModules[],
  storePaths: readonly StorePathInfo[],
): readonly StorePathModules[] {
  const hashes = new Map(storePaths.map(({ path, narHash }) => [path, narHash]))
  return published.filter(({ path, narHash }) => hashes.get(path) === narHash)
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
