import { access, readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { localFlake } from './installable.ts'

/**
 * Returns the paths of the Git submodules in the repository that contains a flake, relative to the repository.
 * @param flake a flake reference
 * @returns none for a flake that Nix fetches
 */
export async function submodulesOf(flake: string): Promise<readonly string[]> {
  const folder = localFlake(flake)
  return folder === undefined ? [] : submodulesAround(resolve(folder))
}

async function submodulesAround(folder: string): Promise<readonly string[]> {
  const isTop = await access(join(folder, '.git')).then(
    () => true,
    () => false,
  )
  if (!isTop) return dirname(folder) === folder ? [] : submodulesAround(dirname(folder))
  const text = await readFile(join(folder, '.gitmodules'), 'utf8').catch(() => '')
  return [...text.matchAll(/^\s*path\s*=\s*"?([^"\n]+?)"?\s*$/gm)].map(([, path = '']) => path.replace(/\/$/, ''))
}
