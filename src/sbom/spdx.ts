import { basename } from 'node:path'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import type { Digest } from '../oci/reference.ts'
import { type BinaryModule, imagePurl, modulePurl, sortedByKey, sortedModules, storePathPurl } from './purl.ts'
import type { StorePathModules } from './scan.ts'
import type { StorePathInfo } from './store-info.ts'
import { HASH_LENGTH, splitStoreName } from './store-name.ts'

/** The store paths that a layer has files of. */
export interface LayerContent {
  readonly diffId: Digest
  readonly storePaths: readonly string[]
}

/** The content of an image for one platform. */
export interface ImageContents {
  readonly image: {
    /** Without tag or digest: `ghcr.io/owner/app`. */
    readonly name: string
    /** Of the image's manifest. */
    readonly digest: Digest
    /** As in the image's config. */
    readonly created: string | undefined
  }
  readonly platform: Platform
  /** Lowest first. */
  readonly layers: readonly LayerContent[]
  /** Those of all layers, in any order. */
  readonly storePaths: readonly StorePathInfo[]
  readonly modules: readonly StorePathModules[]
}

/**
 * Returns an SPDX 2.3 document in JSON that lists the content of an image. It is deterministic: the order of the store
 * paths and modules makes no difference.
 * https://spdx.github.io/spdx-spec/v2.3/
 */
export function spdxDocument({ image, platform, layers, storePaths, modules }: ImageContents): Buffer {
  const layersOf = Map.groupBy(
    layers.flatMap(({ diffId, storePaths: paths }) => paths.map((path) => ({ path, diffId }))),
    ({ path }) => path,
  )
  const elements = [
    ...sortedByKey(storePaths, ({ path }) => path).map((info) => ({
      key: info.path,
      package: storePathPackage(
        info,
        (layersOf.get(info.path) ?? []).map(({ diffId }) => diffId),
      ),
    })),
    ...sortedModules(modules.flatMap(({ modules: of }) => of)).map((module) => ({
      key: modulePurl(module),
      package: modulePackage(module),
    })),
  ]
  const ids = uniqueIds(elements.map(({ package: { SPDXID } }) => SPDXID))
  const idOf = new Map(elements.map(({ key }, at) => [key, ids[at] ?? '']))
  const [, hash = ''] = image.digest.split(':')
  const document = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: DOCUMENT_ID,
    name: `${image.name} (${formatPlatform(platform)})`,
    documentNamespace: `https://spdx.org/spdxdocs/${encodeURIComponent(basename(image.name))}-${hash}`,
    creationInfo: { created: spdxTime(image.created), creators: [CREATOR] },
    packages: [
      imagePackage({ ...image, hash }, platform, layers),
      ...elements.map(({ package: one }, at) => ({ ...one, SPDXID: ids[at] })),
    ],
    relationships: relationshipsOf(storePaths, modules, idOf),
  }
  return Buffer.from(JSON.stringify(document))
}

/**
 * Names the rules by which the document was made, not the version of the action, so that an update of the action does not
 * change the document. Raise the number if the search finds other modules in the same files.
 */
export const CREATOR = 'Tool: nix-image-action-1'

const DOCUMENT_ID = 'SPDXRef-DOCUMENT'
const IMAGE_ID = 'SPDXRef-image'

interface SpdxPackage {
  readonly SPDXID: string
  readonly name: string
  readonly versionInfo?: string | undefined
  readonly primaryPackagePurpose?: string
  readonly downloadLocation: 'NOASSERTION'
  readonly filesAnalyzed: false
  readonly checksums?: readonly { readonly algorithm: string; readonly checksumValue: string }[]
  readonly comment?: string
  readonly externalRefs: readonly ExternalRef[]
}

interface ExternalRef {
  readonly referenceCategory: 'PACKAGE-MANAGER' | 'SECURITY'
  readonly referenceType: string
  readonly referenceLocator: string
}

/** The fields of packages whose source and files are not described. */
const NOT_ANALYZED = { downloadLocation: 'NOASSERTION', filesAnalyzed: false } as const

function imagePackage(
  { name, digest, hash }: { readonly name: string; readonly digest: string; readonly hash: string },
  { architecture }: Platform,
  layers: readonly LayerContent[],
): SpdxPackage {
  return {
    SPDXID: IMAGE_ID,
    name,
    versionInfo: digest,
    primaryPackagePurpose: 'CONTAINER',
    ...NOT_ANALYZED,
    comment: formatLayers(layers.map(({ diffId }) => diffId)),
    checksums: [{ algorithm: 'SHA256', checksumValue: hash }],
    externalRefs: [purlRef(imagePurl(name, digest, architecture))],
  }
}

/** Returns a line for each layer. The comments of packages name layers by their diff IDs. */
function formatLayers(diffIds: readonly Digest[]): string {
  return [...new Set(diffIds)].map((diffId) => `layer: ${diffId}`).join('\n')
}

function storePathPackage({ path, narHash, deriver }: StorePathInfo, layers: readonly Digest[]): SpdxPackage {
  const hash = basename(path).slice(0, HASH_LENGTH)
  const name = basename(path).slice(HASH_LENGTH + 1)
  const split = splitStoreName(name, deriver)
  // The hash is of an archive of the store path, not of a file that can be downloaded.
  const comment = [path, narHash && `narHash: ${narHash}`, formatLayers(layers)].filter(Boolean).join('\n')
  return {
    SPDXID: spdxId(`${hash}-${name}`),
    name: split.pname,
    versionInfo: split.version || undefined,
    ...NOT_ANALYZED,
    comment,
    externalRefs: [purlRef(storePathPurl(split, hash, deriver && basename(deriver)))],
  }
}

function modulePackage(module: BinaryModule): SpdxPackage {
  const { type, name, version } = module
  const isStandardLibrary = type === 'golang' && name === 'stdlib'
  return {
    SPDXID: spdxId([type, name, version].filter(Boolean).join('-')),
    name,
    versionInfo: version,
    ...NOT_ANALYZED,
    externalRefs: [
      purlRef(modulePurl(module)),
      ...(isStandardLibrary && version !== undefined ? [cpeRef(`cpe:2.3:a:golang:go:${version}:-:*:*:*:*:*:*`)] : []),
    ],
  }
}

function purlRef(purl: string): ExternalRef {
  return { referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl }
}

function cpeRef(cpe: string): ExternalRef {
  return { referenceCategory: 'SECURITY', referenceType: 'cpe23Type', referenceLocator: cpe }
}

interface Relationship {
  readonly spdxElementId: string
  readonly relationshipType: 'DESCRIBES' | 'CONTAINS' | 'DEPENDS_ON'
  readonly relatedSpdxElement: string
}

/** Leaves out references to store paths that are not in the image. */
function relationshipsOf(
  storePaths: readonly StorePathInfo[],
  modules: readonly StorePathModules[],
  idOf: ReadonlyMap<string, string>,
): readonly Relationship[] {
  const triples = [
    ...storePaths.map(({ path }) => [IMAGE_ID, 'CONTAINS', idOf.get(path)] as const),
    ...storePaths.flatMap(({ path, references = [] }) =>
      references
        .filter((reference) => reference !== path)
        .map((reference) => [idOf.get(path), 'DEPENDS_ON', idOf.get(reference)] as const),
    ),
    ...modules.flatMap(({ path, modules: of }) =>
      of.map((module) => [idOf.get(path), 'CONTAINS', idOf.get(modulePurl(module))] as const),
    ),
  ]
  const unique = new Map<string, Relationship>()
  for (const [from, type, to] of triples)
    if (from !== undefined && to !== undefined)
      unique.set(`${from} ${type} ${to}`, { spdxElementId: from, relationshipType: type, relatedSpdxElement: to })
  const sorted = [...unique].toSorted(([one], [other]) => (one < other ? -1 : 1)).map(([, value]) => value)
  return [{ spdxElementId: DOCUMENT_ID, relationshipType: 'DESCRIBES', relatedSpdxElement: IMAGE_ID }, ...sorted]
}

/** IDs have only letters, digits, dots and dashes. */
function spdxId(text: string): string {
  return `SPDXRef-${text.replace(/[^A-Za-z0-9.-]/g, '-')}`
}

/** Adds a number to IDs that occur again: different names can have the same ID. */
function uniqueIds(ids: readonly string[]): readonly string[] {
  const used = new Set([DOCUMENT_ID, IMAGE_ID])
  return ids.map((id) => {
    let unique = id
    for (let number = 2; used.has(unique); number++) unique = `${id}-${number}`
    used.add(unique)
    return unique
  })
}

/** Returns a time in UTC, with whole seconds. An image without a valid time gets the start of 1970. */
function spdxTime(created: string | undefined): string {
  const time = new Date(created ?? Number.NaN)
  const year = time.getUTCFullYear()
  return year >= 0 && year <= 9999 ? time.toISOString().replace(/\.\d+Z$/, 'Z') : '1970-01-01T00:00:00Z'
}
