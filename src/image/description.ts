import { readFile, stat } from 'node:fs/promises'
import * as v from 'valibot'
import { printBytes } from '../units.ts'

/** In bytes; a description lists store paths, of which an image has some thousands at most. */
const LIMIT = 64 * 1024 * 1024

const DESCRIPTION = v.pipe(
  v.string(),
  v.parseJson(),
  v.object({ 'image-config': v.looseObject({}), layers: v.array(v.unknown()) }),
)

/** Why a file is not what nix2container's buildImage makes, which is JSON; nothing where it is. */
export async function faultOfDescription(path: string): Promise<string | undefined> {
  const { size } = await stat(path)
  if (size > LIMIT) return `it has ${printBytes(size)}`
  return v.safeParse(DESCRIPTION, await readFile(path, 'utf8')).issues?.[0].message
}
