import { posix } from 'node:path'
import * as v from 'valibot'
import { type Parsed, readJson } from '../json.ts'
import { isStorePath } from '../nix/store-path.ts'
import { sanitizeLine } from '../text.ts'
import type { TarAttributes } from './python-tar.ts'

/** A JSON object whose members keep the order that they have in the text. */
export type JsonObject = Readonly<Record<string, unknown>>

/** The attributes that all layers of store paths in an image have in common. */
export interface LayerAttributes extends TarAttributes {
  /** The folder of the Nix store, normally `/nix/store`. Each path of a layer is directly in it. */
  readonly storeDir: string
  /** The mode of the folders `/nix` and `/nix/store`, with which each layer begins. */
  readonly storeFolderMode: 0o555 | 0o755
}

/** All that determines the bytes of a layer of store paths. The content of a store path never changes. */
export interface LayerRecipe extends LayerAttributes {
  /** In the order in which the layer has them. */
  readonly paths: readonly string[]
}

/** The description from which `dockerTools.streamLayeredImage` makes an image: the JSON file that its script reads. */
export interface LayeredDescription extends LayerAttributes {
  readonly architecture: string
  readonly config: JsonObject
  /** As Python's `datetime.isoformat` prints it, such as `1970-01-01T00:00:01+00:00`. */
  readonly created: string
  readonly repoTag: string
  /** The archive of the base image. */
  readonly fromImage: string | undefined
  /** The store paths of each layer, lowest layer first. */
  readonly storeLayers: readonly (readonly string[])[]
  /** The store path that has the topmost layer as `layer.tar`, and its hash as `checksum`. */
  readonly customisationLayer: string
}

export type ParsedDescription =
  | { readonly ok: true; readonly value: LayeredDescription }
  | { readonly ok: false; readonly reason: string }

/**
 * Parses a description. Refuses one that this action would not turn into exactly the same image as the script of nixpkgs,
 * which is then to be run instead.
 * @returns a reason that completes a sentence: "Using the complete image … instead of its description, because its
 * description has the unknown key `x`"
 */
export function parseLayeredDescription(json: Buffer): ParsedDescription {
  const read = readJson(DESCRIPTION, json)
  if (!read.ok) return { ok: false, reason: reasonOf(read) }
  const reason = unsupportedNumber(json.toString()) ?? conflictingField(read.value)
  return reason === undefined ? { ok: true, value: toDescription(read.value) } : { ok: false, reason }
}

/**
 * Returns the description that a `streamLayeredImage` passes to its script. Older versions of nixpkgs have no attribute
 * for it.
 * @param script the output of `streamLayeredImage`
 * @returns undefined unless it is a shell script by `makeWrapper` that does nothing else
 */
export function descriptionInWrapper(script: string): string | undefined {
  const [, stream = '', description = ''] = WRAPPER.exec(script) ?? []
  return isStorePath(stream) && isStorePath(description) && description.endsWith('.json') ? description : undefined
}

/**
 * https://github.com/NixOS/nixpkgs/blob/master/pkgs/build-support/setup-hooks/make-wrapper.sh
 * Some versions set `argv0`, some pass an array of flags that is empty here.
 */
const WRAPPER =
  /^#! ?\/[^\s]*\/(?:ba)?sh(?: -e)?\s*\nexec(?: +-a "\$0")? +"(\/[^\s"]+)" +(\/[^\s"]+) +(?:"\$\{extraFlagsArray\[@\]\}" +)?"\$@" *\n*$/

/** The keys of every version since 2021. */
const KEYS = [
  'architecture',
  'config',
  'created',
  'customisation_layer',
  'from_image',
  'os',
  'repo_tag',
  'store_dir',
  'store_layers',
]

/**
 * The keys added in 2024. Without them, root owns all files, `created` is also the time of files, and the folders `/nix`
 * and `/nix/store` are read-only.
 */
const KEYS_OF_2024 = ['gid', 'gname', 'mtime', 'uid', 'uname']

const TEXT = v.string('is not a string')

const PATH_IN_STORE = v.pipe(TEXT, v.check(isStorePath, 'is not a store path'))

const DATE = v.pipe(
  TEXT,
  v.check((text) => text !== 'now', 'is `now`, which makes each image different'),
  v.check((text) => toSeconds(text) !== undefined, 'is not a date like 1970-01-01T00:00:01+00:00'),
)

/** Tar files before 1970 or after 2242 need another header: the field for seconds has eleven octal digits. */
const MTIME = v.pipe(
  DATE,
  v.transform((text) => toSeconds(text) ?? 0),
  v.check((seconds) => seconds >= 0 && seconds < 8 ** 11, 'is not between the years 1970 and 2242'),
)

/** jq writes the IDs as strings. */
const ID = v.pipe(
  v.union(
    [v.number(), v.pipe(v.string(), v.regex(/^(?:0|[1-9]\d{0,9})$/, 'is not a user or group ID'))],
    'is not a user or group ID',
  ),
  v.transform(Number),
  v.check((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 32, 'is not a user or group ID'),
)

const NAME = v.pipe(
  TEXT,
  v.check((text) => !/\p{Cc}/u.test(text), 'has a control character'),
)

/** Unlike the object schemas of valibot, returns the object itself, which keeps the order of its members. */
const OBJECT = v.custom<JsonObject>(isObject, 'is not an object')

const FIELDS = v.object({
  architecture: v.pipe(TEXT, v.nonEmpty('is empty')),
  config: OBJECT,
  created: DATE,
  customisation_layer: PATH_IN_STORE,
  from_image: v.nullable(TEXT),
  os: v.literal('linux', 'is not `linux`'),
  repo_tag: TEXT,
  store_dir: v.pipe(
    TEXT,
    v.check((text) => text !== '/' && text.startsWith('/') && posix.resolve(text) === text, 'is not an absolute path'),
  ),
  store_layers: v.array(v.array(PATH_IN_STORE, 'is not a list'), 'is not a list'),
  mtime: v.optional(MTIME),
  uid: v.optional(ID),
  gid: v.optional(ID),
  uname: v.optional(NAME),
  gname: v.optional(NAME),
})

type Fields = v.InferOutput<typeof FIELDS>

const DESCRIPTION = v.pipe(
  OBJECT,
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return
    const message = keyProblem(Object.keys(dataset.value)) ?? textProblem(dataset.value)
    if (message !== undefined) addIssue({ message })
  }),
  FIELDS,
)

function toDescription(fields: Fields): LayeredDescription {
  return {
    architecture: fields.architecture,
    config: fields.config,
    created: fields.created,
    mtime: fields.mtime ?? toSeconds(fields.created) ?? 0,
    uid: fields.uid ?? 0,
    gid: fields.gid ?? 0,
    uname: fields.uname ?? 'root',
    gname: fields.gname ?? 'root',
    storeDir: fields.store_dir,
    storeFolderMode: fields.mtime === undefined ? 0o555 : 0o755,
    repoTag: fields.repo_tag,
    fromImage: fields.from_image ?? undefined,
    storeLayers: fields.store_layers,
    customisationLayer: fields.customisation_layer,
  }
}

function reasonOf({ problem, place }: Extract<Parsed<unknown>, { ok: false }>): string {
  return place === undefined
    ? `its description ${problem.replace(/^it /, '')}`
    : `\`${place}\` in its description ${problem}`
}

function keyProblem(keys: readonly string[]): string | undefined {
  const unknown = keys.find((key) => !KEYS.includes(key) && !KEYS_OF_2024.includes(key))
  if (unknown !== undefined) return `has the unknown key \`${sanitizeLine(unknown)}\``
  const newer = KEYS_OF_2024.some((key) => keys.includes(key))
  const missing = [...KEYS, ...(newer ? KEYS_OF_2024 : [])].find((key) => !keys.includes(key))
  return missing === undefined ? undefined : `has no key \`${missing}\``
}

/** Finds text that is not valid Unicode, and keys that JavaScript would reorder. */
function textProblem(value: unknown): string | undefined {
  if (typeof value === 'string') return value.isWellFormed() ? undefined : 'has a text with half a surrogate pair'
  if (typeof value !== 'object' || value === null) return undefined
  if (Array.isArray(value)) return firstDefined(value, textProblem)
  return firstDefined(Object.entries(value), ([key, member]) =>
    // JavaScript moves such keys to the front of an object.
    /^(?:0|[1-9]\d*)$/.test(key) ? `has the number \`${key}\` as a key` : (textProblem(key) ?? textProblem(member)),
  )
}

function firstDefined<Item, Result>(
  items: readonly Item[],
  find: (item: Item) => Result | undefined,
): Result | undefined {
  for (const item of items) {
    const found = find(item)
    if (found !== undefined) return found
  }
  return undefined
}

/**
 * Finds a number that JavaScript does not write like Python, which keeps `1.0` and has integers of any size.
 * @param json valid JSON
 */
function unsupportedNumber(json: string): string | undefined {
  for (const [token] of json.matchAll(STRING_OR_NUMBER)) {
    if (token.startsWith('"') || (/^-?\d+$/.test(token) && Number.isSafeInteger(Number(token)))) continue
    return `its description has the number ${sanitizeLine(token.slice(0, 30))}, which is not an integer that JavaScript represents exactly`
  }
  return undefined
}

const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g

/** Finds values that are valid alone, but not together. */
function conflictingField(fields: Fields): string | undefined {
  const { store_dir, store_layers, customisation_layer, from_image, config, mtime, created } = fields
  const outside = [...store_layers.flat(), customisation_layer].find((path) => posix.dirname(path) !== store_dir)
  if (outside !== undefined) return `its description has the path ${outside}, which is not directly in ${store_dir}`
  if (mtime === undefined && !v.is(MTIME, created))
    return '`created` in its description is not between the years 1970 and 2242'
  if (from_image === null) return undefined
  if (!isBelowStorePath(from_image, store_dir)) return '`from_image` in its description is not in the Nix store'
  return v.is(ENV, config['Env']) ? undefined : '`config.Env` in its description is not a list of strings'
}

const ENV = v.optional(v.array(v.string()))

function isBelowStorePath(path: string, storeDir: string): boolean {
  const [name = ''] = path.slice(storeDir.length + 1).split('/')
  return path.startsWith(`${storeDir}/`) && posix.resolve(path) === path && isStorePath(`${storeDir}/${name}`)
}

/**
 * Parses a date that Python's `datetime.fromisoformat` reads in all versions, and that `isoformat` prints the same way.
 * @returns seconds since 1970
 */
function toSeconds(text: string): number | undefined {
  const [, local, sign, hours, minutes] = ISO_DATE.exec(text) ?? []
  if (local === undefined || text.endsWith('-00:00') || text.startsWith('0000')) return undefined
  const time = Date.parse(`${local}Z`)
  // V8 accepts 30 February and 24:00.
  if (Number.isNaN(time) || new Date(time).toISOString() !== `${local}.000Z`) return undefined
  const offset = (Number(hours) * 60 + Number(minutes)) * 60
  return time / 1000 - (sign === '-' ? -offset : offset)
}

const ISO_DATE = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([+-])([01]\d|2[0-3]):([0-5]\d)$/

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
