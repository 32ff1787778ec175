import * as v from 'valibot'
import { openRegularFile, readWhole } from '../fs/regular-file.ts'
import { readJson } from '../json.ts'
import { formatBytes } from '../units.ts'
import { LAYERS_LIMIT, tooManyLayers } from './config.ts'

/** In bytes; a description lists store paths, of which an image has some thousands at most. */
const LIMIT = 8 * 1024 * 1024

/** https://github.com/nlewo/nix2container: Image and Layer in types/types.go. Go writes null for no layers. */
const DESCRIPTION = v.object({
  'image-config': v.looseObject({}),
  layers: v.nullable(v.array(v.object({ diff_ids: v.string() })), []),
})

/** What nix2container's buildImage makes, which is JSON, or why a file is none of that. */
export type Description = { readonly diffIds: readonly string[] } | { readonly fault: string }

/**
 * Reads which layers a description lists, in their order.
 * @param root as for `openRegularFile`
 */
export async function readDescription(path: string, root: string): Promise<Description> {
  const file = await openRegularFile(path, root)
  try {
    if (file.size > LIMIT) return { fault: `it has ${formatBytes(file.size)}` }
    const read = readJson(DESCRIPTION, await readWhole(file, path))
    if (!read.ok) return { fault: read.place === undefined ? read.problem : `${read.place}: ${read.problem}` }
    const diffIds = read.value.layers.map((layer) => layer.diff_ids)
    return diffIds.length > LAYERS_LIMIT ? { fault: tooManyLayers(diffIds.length) } : { diffIds }
  } finally {
    await file.handle.close()
  }
}
