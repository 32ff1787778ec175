import { join } from 'node:path'
import { ActionError, FileError, firstLine } from '../errors.ts'
import { openRegularFile, readWhole, resolveWithin } from '../fs/regular-file.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { Log } from '../log.ts'
import { type ResourceDescriptor, readLockedInputs } from '../nix/flake-lock.ts'
import { localFlake } from '../nix/installable.ts'
import { formatBytes } from '../text.ts'
import { choosesRevision, flakeOf } from './revision.ts'

type Source = Pick<BuildInputs, 'flake' | 'installable' | 'file' | 'nixArgs'>

/** In bytes. Lock files of large flakes have about 100 KB. */
const LOCK_LIMIT = 4 * 1024 * 1024
/** In characters of JSON. A record with its inputs must fit into an artifact of 64 KiB and into an output. */
const INPUTS_LIMIT = 16_000

/**
 * Returns the locked inputs of the flake that is built, for its provenance. Logs why if a lock file can't be used.
 * @returns undefined if they are unknown, as for a flake that Nix fetches
 */
export async function findLockedInputs(source: Source, log: Log): Promise<readonly ResourceDescriptor[] | undefined> {
  const folder = lockedFolder(source)
  if (folder === undefined) return undefined
  try {
    const inputs = await readLockFile(folder)
    if (inputs === undefined || JSON.stringify(inputs).length <= INPUTS_LIMIT) return inputs
    log.info(`Not adding the inputs of the flake to the digest record: the ${inputs.length} inputs are too many`)
  } catch (error) {
    if (!(error instanceof ActionError)) throw error
    log.info(`Not adding the inputs of the flake to the digest record: ${firstLine(error)}`)
  }
  return undefined
}

/** Options of Nix that replace inputs or the lock file, or do not write the inputs that they have added to the lock file. */
const REPLACES_INPUTS =
  /^--(override-(input|flake)|update-input|(recreate|reference|output|no-write)-lock-file|inputs-from)$/

/** Returns the folder of the flake if its lock file determines the inputs. */
function lockedFolder({ flake, installable, file, nixArgs }: Source): string | undefined {
  // Without an attribute, an installable may be an archive or a store path.
  const reference = flakeOf({ flake, installable, file })
  if (reference === undefined || choosesRevision(reference)) return undefined
  if (nixArgs.some((argument) => REPLACES_INPUTS.test(argument))) return undefined
  const folder = localFlake(reference)
  return folder && join(folder, new URLSearchParams(reference.replace(/^[^?]*/, '')).get('dir') ?? '')
}

async function readLockFile(folder: string): Promise<readonly ResourceDescriptor[] | undefined> {
  const path = join(folder, 'flake.lock')
  // A flake without inputs has no lock file.
  if ((await resolveWithin(path, folder)) === undefined) return undefined
  const file = await openRegularFile(path, folder)
  try {
    if (file.size > LOCK_LIMIT) throw new FileError({ message: `${path} has ${formatBytes(file.size)}` })
    return readLockedInputs(await readWhole(file, path), path)
  } finally {
    await file.handle.close()
  }
}
