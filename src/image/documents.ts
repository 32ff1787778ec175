import * as v from 'valibot'
import { FormatError } from '../errors.ts'
import { openRegularFile, readWhole } from '../fs/regular-file.ts'
import { readJson } from '../json.ts'
import { type ImageConfig, parseConfig } from '../oci/manifest.ts'
import { formatBytes } from '../text.ts'
import { type Contents, damagedImage } from './source-image.ts'

/** The limits of one document and of all documents of an image together, in bytes. An archive can hold any number. */
export const DOCUMENT_LIMIT = 4 * 1024 * 1024
export const DOCUMENTS_LIMIT = 64 * 1024 * 1024

/**
 * Reports whether a file may be a document of the image. Most formats let the image choose the names of its documents,
 * so any JSON file may be one; `manifest.json` and `index.json` always are.
 */
export function isDocument(name: string, bytes: Buffer): boolean {
  if (name === 'manifest.json' || name === 'index.json') return bytes.length > 0
  const first = bytes.find((byte) => !isJsonSpace(byte))
  return first === 0x7b || first === 0x5b
}

/** https://www.rfc-editor.org/rfc/rfc8259#section-2 */
function isJsonSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
}

/**
 * Returns a document that the image must have.
 * @param description for errors, such as "its index.json"
 * @throws ImageError if the document is missing or can't be read
 */
export async function requireDocument(
  name: string,
  contents: Contents,
  description: string,
  path: string,
): Promise<Buffer> {
  const bytes = await contents.document(name)
  if (bytes !== undefined) return bytes
  const member = await contents.member(name)
  if (member?.type !== 'file') throw damagedImage(path, `${description} is missing`)
  if (member.size === 0) throw damagedImage(path, `${description} is empty`)
  if (member.size > DOCUMENT_LIMIT)
    throw damagedImage(
      path,
      `${description} is too large (${formatBytes(member.size)}, at most ${formatBytes(DOCUMENT_LIMIT)})`,
    )
  throw damagedImage(path, `${description} is not JSON`)
}

/** Twice as many layers as Linux can stack: https://docs.kernel.org/filesystems/overlayfs.html (OVL_MAX_STACK). */
export const LAYERS_LIMIT = 1000

/** Describes an image with more layers than `LAYERS_LIMIT`; each layer costs at least one request to the registry. */
export function tooManyLayers(count: number): string {
  return `it has ${count} layers, and no runtime runs an image with more than ${LAYERS_LIMIT}`
}

/**
 * Parses an image's config.
 * @param path of the image, for errors
 * @throws ImageError
 */
export function readImageConfig(bytes: Buffer, name: string, path: string): ImageConfig {
  const config = parseImageConfig(bytes, name, path)
  if (config.diffIds.length > LAYERS_LIMIT) throw damagedImage(path, tooManyLayers(config.diffIds.length))
  return config
}

function parseImageConfig(bytes: Buffer, name: string, path: string): ImageConfig {
  try {
    return parseConfig(bytes, `the config ${name}`)
  } catch (error) {
    if (error instanceof FormatError) throw damagedImage(path, error.parts.message, error)
    throw error
  }
}

/** In bytes. A description lists store paths, of which an image has at most some thousands. */
export const DESCRIPTION_LIMIT = 8 * 1024 * 1024

/** https://github.com/nlewo/nix2container: Image and Layer in types/types.go. Go writes null for no layers. */
const DESCRIPTION = v.object({
  'image-config': v.looseObject({}),
  layers: v.nullable(v.array(v.object({ diff_ids: v.string() })), []),
})

/** The JSON that nix2container's buildImage builds, or what is wrong with it. */
export type Description = { readonly diffIds: readonly string[] } | { readonly fault: string }

/**
 * Reads the diff IDs that a description lists, in its order.
 * @param root as for `openRegularFile`
 */
export async function readDescription(path: string, root: string): Promise<Description> {
  const file = await openRegularFile(path, root)
  try {
    if (file.size > DESCRIPTION_LIMIT) return { fault: `it has ${formatBytes(file.size)}` }
    const read = readJson(DESCRIPTION, await readWhole(file, path))
    if (!read.ok) return { fault: read.place === undefined ? read.problem : `${read.place}: ${read.problem}` }
    const diffIds = read.value.layers.map((layer) => layer.diff_ids)
    return diffIds.length > LAYERS_LIMIT ? { fault: tooManyLayers(diffIds.length) } : { diffIds }
  } finally {
    await file.handle.close()
  }
}
