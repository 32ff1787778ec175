import { stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { DiskError, type DiskProblem, messageOf } from '../errors.ts'
import { formatBytes } from '../text.ts'

/** The free space of one file system. */
export interface FreeSpace {
  /** The given folders that are on this file system. */
  readonly folders: readonly string[]
  /** In bytes, for users other than root. */
  readonly free: number
}

/**
 * Returns the free space of each file system that any of the folders is on. A folder that does not exist counts for the
 * file system of its nearest parent.
 */
export async function freeSpace(folders: readonly string[]): Promise<readonly FreeSpace[]> {
  const disks = new Map<number, FreeSpace>()
  for (const folder of folders) {
    const existing = await nearestExisting(folder)
    const [{ dev }, { bavail, bsize }] = await Promise.all([stat(existing), statfs(existing)])
    disks.set(dev, { folders: [...(disks.get(dev)?.folders ?? []), folder], free: bavail * bsize })
  }
  return [...disks.values()]
}

/** Formats free space, for example as "70.9 GB are free for /nix/store, 1.2 GB for /home/runner/temp". */
export function formatFreeSpace(disks: readonly FreeSpace[]): string {
  return disks
    .map(({ folders, free }, at) => `${formatBytes(free)} ${at === 0 ? 'are free ' : ''}for ${folders.join(' and ')}`)
    .join(', ')
}

/** A typical image and its dependencies take this much, twice: in the Nix store, and as compressed layers. */
const LOW_SPACE = 2e9

/** Returns the file systems that may not have enough space for a build. */
export function shortOfSpace(disks: readonly FreeSpace[]): readonly FreeSpace[] {
  return disks.filter(({ free }) => free < LOW_SPACE)
}

/** Reports whether an error says that files can't be written or opened, by the operating system's error code. */
export function isDiskError(error: unknown): boolean {
  return reasonFor(error) !== undefined
}

/**
 * Returns the error for a failed write to a folder, with the reason and the free space.
 * @param message begins the error's message, for example `Can't write temporary files to /tmp`
 */
export async function diskFailure(message: string, folder: string, error: unknown): Promise<DiskError> {
  const { problem, reason } = reasonFor(error) ?? { problem: 'other' }
  const free = await freeSpace([folder]).catch(() => [])
  return new DiskError({
    message: reason === undefined ? message : `${message}: ${reason}`,
    detail: [messageOf(error), free.length > 0 ? formatFreeSpace(free) : []].flat().join('\n'),
    cause: error,
    problem,
    folder,
  })
}

interface Reason {
  readonly problem: DiskProblem
  readonly reason?: string
}

function reasonFor(error: unknown): Reason | undefined {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return typeof code === 'string' ? REASONS.get(code) : undefined
}

const DENIED: Reason = { problem: 'denied', reason: 'permission denied' }
const TOO_MANY_FILES: Reason = { problem: 'too-many-files', reason: 'the limit of open files is reached' }

const REASONS: ReadonlyMap<string, Reason> = new Map([
  ['ENOSPC', { problem: 'full', reason: 'the disk is full' }],
  ['EDQUOT', { problem: 'full', reason: 'the disk quota of this user is exhausted' }],
  ['EROFS', { problem: 'read-only', reason: 'the file system is read-only' }],
  ['EACCES', DENIED],
  ['EPERM', DENIED],
  ['ENOENT', { problem: 'missing', reason: 'it does not exist' }],
  ['ENOTDIR', { problem: 'missing', reason: 'it is not a folder' }],
  ['EMFILE', TOO_MANY_FILES],
  ['ENFILE', TOO_MANY_FILES],
])

async function nearestExisting(folder: string): Promise<string> {
  try {
    await stat(folder)
    return folder
  } catch (error) {
    const parent = dirname(folder)
    if (parent === folder) throw error
    return nearestExisting(parent)
  }
}
