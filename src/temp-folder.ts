import { rmSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * Gives work a folder of its own, and takes it away afterwards. What processes have left that were killed before they
 * could is taken away as well.
 * @param parent where the folder is made
 */
export async function withTempFolder<Result>(
  parent: string,
  work: (folder: string) => Promise<Result>,
): Promise<Result> {
  await removeLeft(parent)
  const folder = await mkdtemp(join(parent, `${PREFIX}${process.pid}-`))
  folders.add(folder)
  try {
    return await work(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
    folders.delete(folder)
  }
}

const folders = new Set<string>()

/** Removes the folders that are in use, for a process that is about to end. */
export function removeTempFolders(): void {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
}

/** Followed by the number of the process that it belongs to. */
const PREFIX = 'nix-image-action-'
const LEFT = new RegExp(`^${PREFIX}(\\d+)-`)

async function removeLeft(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const [, pid] = LEFT.exec(name) ?? []
    if (pid !== undefined && !runs(Number(pid))) await rm(join(parent, name), { recursive: true, force: true })
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
