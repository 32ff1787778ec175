import { stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ActionError, messageOf } from '../errors.ts'
import { formatBytes } from '../units.ts'

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
export function formatFreeSpace(disks: readonly FreeSpace[]): string {
  return disks
    .map(({ folders, free }, at) => `${formatBytes(free)} ${at === 0 ? 'are free ' : ''}for ${folders.join(' and ')}`)
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

/** Reports whether an error says that files can't be written or opened, as the operating system puts it. */
export function isDiskError(error: unknown): boolean {
  return reasonFor(error) !== undefined
}

/**
 * Returns the failure of writing to a folder: what is wrong with it, how much of it is free, and what to do.
 * @param what begins the message: `Can't write temporary files to /tmp`
 */
export async function diskFailure(message: string, folder: string, error: unknown): Promise<ActionError> {
  const found = reasonFor(error)
  const free = await freeSpace([folder]).catch(() => [])
  const detail = [messageOf(error), free.length > 0 ? formatFreeSpace(free) : []].flat().join('\n')
  if (found === undefined) return new ActionError({ message, detail, hint: 'Re-run this job.', cause: error })
  const hint = `${found.advise(folder)} Then re-run this job.`
  return new ActionError({ message: `${message}: ${found.reason}`, detail, hint, cause: error })
}

/** What a user can do where the limit of open files is reached. */
export const MORE_FILES = 'Raise the limit on the runner: `ulimit -n 1024` or higher, before the runner starts.'

interface Reason {
  readonly reason: string
  readonly advise: (folder: string) => string
}

function reasonFor(error: unknown): Reason | undefined {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return typeof code === 'string' ? REASONS.get(code) : undefined
}

const FULL = { reason: 'the disk is full', advise: () => MORE_SPACE }
const DENIED = {
  reason: 'permission denied',
  advise: (folder: string) => `Let the runner's user write to ${folder}.`,
}
const MISSING = { reason: 'it does not exist', advise: (folder: string) => `Create ${folder} before this step.` }
const TOO_MANY = { reason: 'the runner has reached its limit of open files', advise: () => MORE_FILES }

const REASONS: ReadonlyMap<string, Reason> = new Map([
  ['ENOSPC', FULL],
  ['EDQUOT', { ...FULL, reason: "the disk quota of the runner's user is used up" }],
  ['EROFS', { reason: 'the file system is read-only', advise: (folder) => `Make ${folder} writable.` }],
  ['EACCES', DENIED],
  ['EPERM', DENIED],
  ['ENOENT', MISSING],
  ['ENOTDIR', { ...MISSING, reason: 'it is not a folder' }],
  ['EMFILE', TOO_MANY],
  ['ENFILE', TOO_MANY],
])

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
