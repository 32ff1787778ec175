import { rmSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { ActionError } from '../errors.ts'
import { diskFailure, isDiskError } from './disk.ts'

/**
 * Calls a function with a new temporary folder, and removes the folder when the function is done.
 * @param parent the folder to create it in
 * @throws DiskError if files can't be written there
 */
export async function withTempFolder<Result>(
  parent: string,
  work: (folder: string) => Promise<Result>,
): Promise<Result> {
  try {
    const folder = await mkdtemp(join(parent, 'nix-image-action-'))
    folders.add(folder)
    try {
      return await work(folder)
    } finally {
      // Files that can't be removed must not fail work that has succeeded.
      await rm(folder, { recursive: true, force: true }).catch(() => undefined)
      folders.delete(folder)
    }
  } catch (error) {
    if (!concerns(parent, error)) throw error
    throw await diskFailure(`Can't write temporary files to ${parent}`, parent, error)
  }
}

const folders = new Set<string>()

/** Removes all temporary folders that are in use. For a process that is about to exit. */
export function removeTempFolders(): void {
  for (const folder of folders) {
    try {
      rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
    } catch {
      // The process is about to exit for another reason, which matters more.
    }
  }
}

/** Reports whether an error is about files in a folder, or about a disk or a limit without naming a path. */
function concerns(folder: string, error: unknown): boolean {
  if (error instanceof ActionError || !isDiskError(error)) return false
  const { path } = error as { readonly path?: unknown }
  return typeof path !== 'string' || `${path}${sep}`.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`)
}
