import { rmSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { ActionError } from '../errors.ts'
import { diskFailure, isDiskError } from './disk.ts'

/**
 * Gives work a folder of its own, and takes it away afterwards. What processes have left that were killed before they
 * could is taken away as well.
 * @param parent where the folder is made
 * @throws Failure where the parent can't be written to
 */
export async function withTempFolder<Result>(
  parent: string,
  work: (folder: string) => Promise<Result>,
): Promise<Result> {
  try {
    await removeLeft(parent)
    const folder = await mkdtemp(join(parent, `${PREFIX}${process.pid}-`))
    folders.add(folder)
    try {
      return await work(folder)
    } finally {
      await remove(folder)
      folders.delete(folder)
    }
  } catch (error) {
    if (!isAbout(parent, error)) throw error
    throw await diskFailure(`Can't write temporary files to ${parent}`, parent, error)
  }
}

/** Reports whether an error is about files in a folder, or about a disk or limit without a path: then it is this one. */
function isAbout(parent: string, error: unknown): boolean {
  if (error instanceof ActionError || !isDiskError(error)) return false
  const { path } = error as { readonly path?: unknown }
  return typeof path !== 'string' || `${path}${sep}`.startsWith(parent.endsWith(sep) ? parent : `${parent}${sep}`)
}

/** What can't be removed is left for a later process: it must not fail what has succeeded. */
async function remove(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => undefined)
}

const folders = new Set<string>()

/** Removes the folders that are in use, for a process that is about to end. */
export function removeTempFolders(): void {
  for (const folder of folders) {
    try {
      rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
    } catch {
      // Left for the next step that runs here.
    }
  }
}

/** Followed by the number of the process that it belongs to. */
const PREFIX = 'nix-image-action-'
const LEFT = new RegExp(`^${PREFIX}(\\d+)-`)

async function removeLeft(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const [, pid] = LEFT.exec(name) ?? []
    if (pid !== undefined && !runs(Number(pid))) await remove(join(parent, name))
  }
}

function runs(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // It runs, and is another user's.
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
