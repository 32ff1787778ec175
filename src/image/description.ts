import * as v from 'valibot'
import { openRegularFile, readWhole } from '../fs/regular-file.ts'
import { readJson } from '../json.ts'
import { formatBytes } from '../text.ts'
import { LAYERS_LIMIT, tooManyLayers } from './documents.ts'

/** In bytes. A description lists store paths, of which an image has at most some thousands. */
const DESCRIPTION_LIMIT = 8 * 1024 * 1024

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
