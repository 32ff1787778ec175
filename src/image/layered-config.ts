import * as v from 'valibot'
import { readJson } from '../json.ts'
import { isStorePath } from '../nix/store-path.ts'
import type { ImageConfig } from '../oci/manifest.ts'
import { DIGEST, type Digest, digestOf } from '../oci/reference.ts'
import type { LayeredDescription, LayerRecipe } from './layered-description.ts'

/** A layer in the image's config, with the paths that its history names. */
export interface ConfigLayer {
  readonly diffId: Digest
  readonly paths: readonly string[]
}

/** The parts of a base image that an image built on it takes over. */
export interface BaseImage {
  /** Lowest layer first. The path of each is its name in the archive. */
  readonly layers: readonly ConfigLayer[]
  readonly env: readonly string[]
}

export type ParsedBase =
  | { readonly ok: true; readonly value: BaseImage }
  | { readonly ok: false; readonly reason: string }

/**
 * Returns the image's config in exactly the bytes that the script of nixpkgs writes, so that its digest is the same.
 * @param layers the layers above the base image, lowest first
 */
export function layeredConfig(
  description: LayeredDescription,
  layers: readonly ConfigLayer[],
  base?: BaseImage,
): Buffer {
  const { created, architecture, config } = description
  const all = [...(base?.layers ?? []), ...layers]
  const env = base === undefined ? [] : mergedEnv([...base.env, ...parseEnv(config['Env'])])
  return pythonJson({
    created,
    architecture,
    os: 'linux',
    config: env.length === 0 ? config : { ...config, Env: env },
    rootfs: { diff_ids: all.map(({ diffId }) => diffId), type: 'layers' },
    history: all.map(({ paths }) => ({ created, comment: historyComment(paths) })),
  })
}

/**
 * Parses the documents of a base image.
 * @param manifest the archive's `manifest.json`
 * @param config the image config that the manifest names
 * @returns a reason for an archive that the script does not accept, or that it would write in another way
 */
export function parseBaseImage(manifest: Buffer, config: Buffer): ParsedBase {
  const names = readJson(BASE_MANIFEST, manifest)
  if (!names.ok) return unsupportedBase('`manifest.json`', names)
  const read = readJson(BASE_CONFIG, config)
  if (!read.ok) return unsupportedBase('config', read)
  const layers = names.value.flatMap((image) => image.Layers)
  const { rootfs, config: runtime } = read.value
  if (layers.length !== rootfs.diff_ids.length)
    return { ok: false, reason: `its base image has ${layers.length} layers and ${rootfs.diff_ids.length} diff IDs` }
  return {
    ok: true,
    value: {
      layers: rootfs.diff_ids.map((diffId, at) => ({ diffId, paths: layers.slice(at, at + 1) })),
      env: runtime.Env,
    },
  }
}

/**
 * The version of the bytes of a layer. Raise it with any change of the code that writes layers that changes the bytes
 * for the same recipe: otherwise, layers that were published before the change are reused in place of the new ones.
 */
export const RECIPE_VERSION = 1

/** Returns the digest that identifies a recipe. Equal digests mean equal layers. */
export function recipeDigest(recipe: LayerRecipe): Digest {
  const { mtime, uid, gid, uname, gname, storeDir, storeFolderMode, paths } = recipe
  const parts = ['store paths', RECIPE_VERSION, storeDir, storeFolderMode, mtime, uid, gid, uname, gname, paths]
  return digestOf(Buffer.from(JSON.stringify(parts)))
}

/**
 * Returns the store paths that the history of an image gives for a layer, in their order.
 * @param comment such as `store paths: ['/nix/store/…', '/nix/store/…']`
 * @returns undefined for the comment of any other tool, and of a layer of a base image
 */
export function storePathsInHistory(comment: string): readonly string[] | undefined {
  const [, list] = /^store paths: \[(.*)\]$/.exec(comment) ?? []
  if (list === undefined || list === '') return list === '' ? [] : undefined
  const quoted = list.split(', ')
  const paths = quoted.map((text) => text.slice(1, -1))
  return quoted.every((text, at) => text === `'${paths[at]}'`) && paths.every(isStorePath) ? paths : undefined
}

/**
 * Reports whether a store path in the history of an image is that of the topmost layer, whose files are in the root folder
 * of the image: the store path itself is not part of the image.
 * https://github.com/NixOS/nixpkgs/blob/master/pkgs/build-support/docker/default.nix (streamLayeredImage)
 */
export function isRootLayer(storePath: string): boolean {
  return storePath.endsWith('-customisation-layer')
}

/**
 * Returns the store paths that the history of an image names, without the layer of files for the root folder.
 * @returns undefined if it names none, as in an image that nix2container or another tool made
 */
export function storePathsIn({ comments }: Pick<ImageConfig, 'comments'>): readonly string[] | undefined {
  const layers = comments.flatMap((comment) => {
    const paths = comment === undefined ? undefined : storePathsInHistory(comment)
    return paths === undefined ? [] : [paths]
  })
  if (layers.length === 0) return undefined
  return layers.flat().filter((path) => !isRootLayer(path))
}

/** Reports whether the history of an image names the store paths of each layer, and at least one store path. */
export function namesAllStorePaths({ comments, diffIds }: Pick<ImageConfig, 'comments' | 'diffIds'>): boolean {
  const named = comments.every((comment) => comment !== undefined && storePathsInHistory(comment) !== undefined)
  return named && comments.length === diffIds.length && (storePathsIn({ comments }) ?? []).length > 0
}

function historyComment(paths: readonly string[]): string {
  return `store paths: [${paths.map(pythonString).join(', ')}]`
}

/** Names that Python's `repr` prints the same way in all versions. The script strips a slash at the end. */
const LAYER_NAME = v.pipe(
  v.string('is not a string'),
  v.regex(/^[ -~]*[ -.0-~]$/, 'is not a file name of printable ASCII characters'),
)

const BASE_MANIFEST = v.pipe(
  v.array(v.object({ Layers: v.array(LAYER_NAME, 'is not a list') }, 'is not an object'), 'is not a list'),
  v.length(1, 'does not have exactly one image'),
)

const STRINGS = v.array(v.string('is not a string'), 'is not a list')

const BASE_CONFIG = v.object(
  {
    config: v.object({ Env: v.optional(STRINGS, []) }, 'is not an object'),
    rootfs: v.object({ diff_ids: v.array(DIGEST, 'is not a list') }, 'is not an object'),
  },
  'is not an object',
)

const parseEnv = v.parser(v.optional(STRINGS, []))

function unsupportedBase(
  document: string,
  { problem, place }: { readonly problem: string; readonly place?: string },
): ParsedBase {
  const part = place === undefined ? '' : `\`${place}\` in `
  return { ok: false, reason: `${part}the ${document} of its base image ${problem.replace(/^it /, '')}` }
}

/** Resolves duplicate variables: the last value wins, at the position of the first. */
function mergedEnv(entries: readonly string[]): readonly string[] {
  return [...new Map(entries.map((entry) => [entry.split('=', 1)[0], entry])).values()]
}

/** Serializes like Python's `json.dumps(value, indent=4)`, which writes only ASCII characters. */
function pythonJson(value: unknown): Buffer {
  const json = JSON.stringify(value, undefined, 4).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  return Buffer.from(json, 'latin1')
}

/** Quotes a text of printable ASCII characters like Python's `repr`. */
function pythonString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = text.replace(/[\\']/g, (character) =>
    character === quote || character === '\\' ? `\\${character}` : character,
  )
  return `${quote}${escaped}${quote}`
}
