import { readFile, stat } from 'node:fs/promises'
import * as v from 'valibot'
import { printBytes } from '../units.ts'

/** In bytes; a description lists store paths, of which an image has some thousands at most. */
const LIMIT = 64 * 1024 * 1024

/** https://github.com/nlewo/nix2container: Image and Layer in types/types.go. Go writes null for no layers. */
const DESCRIPTION = v.pipe(
  v.string(),
  v.parseJson(),
  v.object({ 'image-config': v.looseObject({}), layers: v.nullable(v.array(v.object({ diff_ids: v.string() })), []) }),
)

/** What nix2container's buildImage makes, which is JSON, or why a file is none of that. */
export type Description = { readonly diffIds: readonly string[] } | { readonly fault: string }

/** Reads which layers a description lists, in their order. */
export async function readDescription(path: string): Promise<Description> {
  const { size } = await stat(path)
  if (size > LIMIT) return { fault: `it has ${printBytes(size)}` }
  const { success, output, issues } = v.safeParse(DESCRIPTION, await readFile(path, 'utf8'))
  return success ? { diffIds: output.layers.map((layer) => layer.diff_ids) } : { fault: issues[0].message }
}
