import { storePathsInHistory } from '../image/layered-config.ts'
import { serializeShortened } from '../json.ts'
import { parseConfig } from '../oci/manifest.ts'
import { type Digest, digestOf } from '../oci/reference.ts'
import { type Labels, withLabels } from '../push/manifest.ts'
import { sanitizeLine } from '../text.ts'

/** The result of comparing a build with a published image. Equal images have no differences. */
export interface Verification {
  readonly differences: readonly Difference[]
  /** The labels that were added when the image was published, with their values. The build has none of them. */
  readonly addedLabels: Labels
}

export type Difference = LayerDifference | ConfigDifference

/** A layer that only one image has, or two layers in the same place. */
export interface LayerDifference {
  readonly part: 'layer'
  readonly published?: ComparedLayer
  readonly built?: ComparedLayer
}

export interface ComparedLayer {
  /** From 1, lowest layer first. */
  readonly number: number
  readonly diffId: Digest
  /** Absent if the history of the image names none. */
  readonly storePaths?: readonly string[]
}

export interface ConfigDifference {
  readonly part: 'config'
  /**
   * Such as `config.Env` or `config.Labels.version`. `created`: only times differ. `encoding`: the config has the same
   * content in other bytes.
   */
  readonly field: string
}

/**
 * Compares the config and the diff IDs of a build with those of a published image. Ignores the labels that were added
 * when it was published.
 * @param added the keys of these labels
 */
export function compareWithPublished(published: Buffer, built: Buffer, added: readonly string[]): Verification {
  const { labels } = parseConfig(published, 'the published config')
  // In the order of the published config, so that equal configs have equal bytes.
  const addedLabels = Object.fromEntries(Object.entries(labels).filter(([key]) => added.includes(key)))
  const expected = withLabels(built, addedLabels)
  if (digestOf(expected) === digestOf(published)) return { differences: [], addedLabels }
  const layers = compareDiffIds(comparedLayers(published), comparedLayers(expected))
  const fields = differentFields(published, expected, layers.length > 0)
  // The digests differ, so there is always a difference.
  const config = fields.length === 0 && layers.length === 0 ? ['encoding'] : fields
  return {
    differences: [...layers, ...config.map((field) => ({ part: 'config', field: sanitizeLine(field) }) as const)],
    addedLabels,
  }
}

/** The store paths by which two images differ. */
export interface StorePathDifferences {
  readonly onlyPublished: readonly string[]
  readonly onlyBuilt: readonly string[]
  /** The store paths of layers that have the same store paths but other content. */
  readonly otherContent: readonly string[]
}

/** Returns the store paths of the layers that differ. A path that is in another layer of each image does not differ. */
export function differentStorePaths(differences: readonly Difference[]): StorePathDifferences {
  const layers = differences.filter((one) => one.part === 'layer')
  const pathsOf = (which: 'published' | 'built') => new Set(layers.flatMap((one) => one[which]?.storePaths ?? []))
  const [published, built] = [pathsOf('published'), pathsOf('built')]
  const same = layers.filter((one) => one.published && one.built && sameContents(one.published, one.built))
  return {
    onlyPublished: [...published].filter((path) => !built.has(path)),
    onlyBuilt: [...built].filter((path) => !published.has(path)),
    otherContent: [...new Set(same.flatMap((one) => one.built?.storePaths ?? []))],
  }
}

/**
 * Returns the differences as a JSON array. Shortens its lists if it would be too long for a variable, and marks what is
 * incomplete: with `truncated` for the store paths of a layer, with a last element for the array.
 */
export function serializeDifferences(differences: readonly Difference[]): string {
  return serializeShortened((most) => {
    const omitted = Math.max(0, differences.length - most)
    const listed = differences.slice(0, most).map((one) => shortenDifference(one, most))
    return omitted === 0 ? listed : [...listed, { part: 'truncated', omitted }]
  })
}

function shortenDifference(difference: Difference, most: number): object {
  if (difference.part === 'config') return difference
  const { published, built } = difference
  const short = (layer: ComparedLayer) =>
    layer.storePaths === undefined || layer.storePaths.length <= most
      ? layer
      : { ...layer, storePaths: layer.storePaths.slice(0, most), truncated: true }
  return { part: 'layer', ...(published && { published: short(published) }), ...(built && { built: short(built) }) }
}

function comparedLayers(config: Buffer): readonly ComparedLayer[] {
  const { diffIds, comments } = parseConfig(config, 'the config')
  return diffIds.map((diffId, at) => {
    const storePaths = storePathsInHistory(comments[at] ?? '')
    return { number: at + 1, diffId, ...(storePaths && { storePaths }) }
  })
}

/** Pairs layers with the same store paths, then those in the same place. Layers that moved differ only if all others match. */
function compareDiffIds(
  published: readonly ComparedLayer[],
  built: readonly ComparedLayer[],
): readonly LayerDifference[] {
  const [gone, fresh] = [withoutLayers(published, built), withoutLayers(built, published)]
  if (gone.length === 0 && fresh.length === 0) return misplacedLayers(published, built)
  const left = new Set(fresh)
  const partners = new Map<ComparedLayer, ComparedLayer>()
  for (const matches of [sameContents, samePlace])
    for (const layer of gone) {
      const partner = partners.has(layer) ? undefined : [...left].find((one) => matches(layer, one))
      if (partner === undefined) continue
      left.delete(partner)
      partners.set(layer, partner)
    }
  return [
    ...gone.map((layer): LayerDifference => {
      const partner = partners.get(layer)
      return { part: 'layer', published: layer, ...(partner && { built: partner }) }
    }),
    ...[...left].map((layer): LayerDifference => ({ part: 'layer', built: layer })),
  ].sort((one, other) => layerNumber(one) - layerNumber(other))
}

/** Returns the number of a layer in the published image, if it has the layer. */
function layerNumber({ published, built }: LayerDifference): number {
  return published?.number ?? built?.number ?? 0
}

/** Returns the layers that another image does not have. A layer may occur several times. */
function withoutLayers(layers: readonly ComparedLayer[], others: readonly ComparedLayer[]): readonly ComparedLayer[] {
  const counts = new Map<Digest, number>()
  for (const { diffId } of others) counts.set(diffId, (counts.get(diffId) ?? 0) + 1)
  return layers.filter(({ diffId }) => {
    const count = counts.get(diffId) ?? 0
    counts.set(diffId, count - 1)
    return count <= 0
  })
}

function misplacedLayers(
  published: readonly ComparedLayer[],
  built: readonly ComparedLayer[],
): readonly LayerDifference[] {
  return published.flatMap((layer, at) => {
    const other = built[at]
    return other === undefined || other.diffId === layer.diffId
      ? []
      : [{ part: 'layer', published: layer, built: other }]
  })
}

function sameContents({ storePaths = [] }: ComparedLayer, { storePaths: others = [] }: ComparedLayer): boolean {
  return (
    storePaths.length > 0 &&
    storePaths.length === others.length &&
    JSON.stringify(storePaths) === JSON.stringify(others)
  )
}

function samePlace(one: ComparedLayer, other: ComparedLayer): boolean {
  return one.number === other.number
}

function differentFields(published: Buffer, built: Buffer, layersDiffer: boolean): readonly string[] {
  const [one, other] = [configFields(published, layersDiffer), configFields(built, layersDiffer)]
  return [...new Set([...one.keys(), ...other.keys()])].filter((field) => one.get(field) !== other.get(field)).sort()
}

interface JsonObject {
  readonly [field: string]: unknown
}

/**
 * Returns the fields of a config with their values as JSON, without the diff IDs. The keys of `config` and of its labels
 * are fields.
 * @param layersDiffer whether to omit the history, which follows from the layers
 */
function configFields(bytes: Buffer, layersDiffer: boolean): ReadonlyMap<string, string> {
  const { created, history, config, rootfs, ...others } = objectIn(JSON.parse(bytes.toString('utf8')))
  const entries = Array.isArray(history) ? history.map(objectIn) : []
  const { Labels: labels, ...settings } = objectIn(config)
  const { diff_ids: _, ...root } = objectIn(rootfs)
  const fields = {
    ...others,
    rootfs: root,
    // Tools write the same time to the history.
    created: [created, ...new Set(entries.map((entry) => entry['created']))],
    ...(!layersDiffer && { history: entries.map((entry) => ({ ...entry, created: undefined })) }),
    ...prefixed('config.', settings),
    ...prefixed('config.Labels.', objectIn(labels)),
  }
  return new Map(Object.entries(fields).map(([field, value]) => [field, canonicalJson(value)]))
}

function objectIn(value: unknown): JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {}
}

function prefixed(prefix: string, fields: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(fields).map(([key, value]) => [`${prefix}${key}`, value]))
}

/** Serializes a value with the keys of all objects sorted. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, one: unknown) => {
    if (typeof one !== 'object' || one === null || Array.isArray(one)) return one
    return Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}
