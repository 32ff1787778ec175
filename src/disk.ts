import { stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { printBytes } from './units.ts'

/** What is free on one file system. */
export interface FreeSpace {
  /** Those of the folders asked for that are on it. */
  readonly folders: readonly string[]
  /** In bytes, for a user who is not root. */
  readonly free: number
}

/**
 * Looks at the disks that folders are on, each once. Of a folder that is not there yet, it is the disk that it would
 * be on.
 */
export async function freeSpace(folders: readonly string[]): Promise<readonly FreeSpace[]> {
  const disks = new Map<number, FreeSpace>()
  for (const folder of folders) {
    const existing = await nearest(folder)
    const [{ dev }, { bavail, bsize }] = await Promise.all([stat(existing), statfs(existing)])
    disks.set(dev, { folders: [...(disks.get(dev)?.folders ?? []), folder], free: bavail * bsize })
  }
  return [...disks.values()]
}

/** For example "70.9 GB are free for /nix/store, 1.2 GB for /home/runner/temp". */
export function printFreeSpace(disks: readonly FreeSpace[]): string {
  return disks
    .map(({ folders, free }, at) => `${printBytes(free)} ${at === 0 ? 'are free ' : ''}for ${folders.join(' and ')}`)
    .join(', ')
}

/** The disks that may not do. */
export function shortOfSpace(disks: readonly FreeSpace[]): readonly FreeSpace[] {
  return disks.filter(({ free }) => free < LITTLE)
}

/** A usual image with what it is built from, twice: in the store, and in blobs. */
const LITTLE = 2e9

/** What a user can do where the disk is full, or nearly so. */
export const MORE_SPACE =
  'Hosted runners guarantee 14 GB: free some before the build (for example with jlumbroso/free-disk-space), or use a larger runner. On one of your own, nix-collect-garbage removes what no build needs any more.'

async function nearest(folder: string): Promise<string> {
  try {
    await stat(folder)
    return folder
  } catch (error) {
    const parent = dirname(folder)
    if (parent === folder) throw error
    return nearest(parent)
  }
}
