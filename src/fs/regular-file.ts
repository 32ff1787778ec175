import { constants } from 'node:fs'
import { type FileHandle, open, opendir, readlink, realpath, stat } from 'node:fs/promises'
import { isAbsolute, relative } from 'node:path'
import { ActionError, messageOf } from '../errors.ts'

/** A file that can't be read, or must not be. */
export class FileError extends ActionError {
  override readonly name = 'FileError'
}

/** A regular file, open for reading. */
export interface RegularFile {
  readonly handle: FileHandle
  /** In bytes. */
  readonly size: number
}

/**
 * Follows the links of a path in what somebody else has built: they may lead anywhere, to files of this machine or to
 * this process's environment.
 * @param root the folder that the path may lead to and nowhere else: the Nix store, or what a program has written
 * @returns the path without links, or nothing if there is nothing at it
 * @throws FileError if it leads out of `root`, or in circles
 */
export async function resolveWithin(path: string, root: string): Promise<string | undefined> {
  try {
    const [place, folder] = await Promise.all([realpath(path), realpath(root)])
    if (isWithin(place, folder)) return place
  } catch (error) {
    if (isCode(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw unreadable(path, error)
  }
  throw leadsOut(path, root)
}

/**
 * Opens a regular file, wherever its links lead within a folder.
 * @param root as for `resolveWithin`
 * @throws FileError if there is none, it is not a regular file, or it is not in `root`
 */
export async function openRegularFile(path: string, root: string): Promise<RegularFile> {
  const place = await resolveWithin(path, root)
  if (place === undefined) throw new FileError({ message: `There is no ${path}` })
  // Without waiting: a pipe that nobody writes to would keep it from being opened.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW
  const handle = await open(place, flags).catch((error: unknown) => {
    throw unreadable(path, error)
  })
  try {
    const file = await handle.stat()
    if (!file.isFile()) throw new FileError({ message: `${path} is not a regular file` })
    if (!(await isStillWithin(handle, root))) throw leadsOut(path, root)
    return { handle, size: file.size }
  } catch (error) {
    await handle.close()
    throw error
  }
}

/**
 * Reads a file to the end that it had when it was opened, even if it has grown since.
 * @param path for errors
 * @throws FileError
 */
export async function readWhole({ handle, size }: RegularFile, path: string): Promise<Buffer> {
  const bytes = Buffer.alloc(size)
  let length = 0
  try {
    while (length < size) {
      const { bytesRead } = await handle.read(bytes, length, size - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
  } catch (error) {
    throw unreadable(path, error)
  }
  return bytes.subarray(0, length)
}

/** Large, for each read waits for a thread among those that compress. */
const CHUNK = 1024 * 1024

/**
 * Returns a file's content in chunks, to the end that it had when it was opened, and then closes it.
 * @param path for errors
 * @throws FileError
 */
export async function* contentOf({ handle, size }: RegularFile, path: string): AsyncGenerator<Buffer> {
  // A stream can't end before its first byte.
  if (size === 0) return handle.close()
  try {
    yield* handle.createReadStream({ highWaterMark: CHUNK, end: size - 1 })
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** Whether a path without links is that of a folder. @throws FileError */
export async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory()
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** More files than a folder has that is an image. */
const NAMES_LIMIT = 10_000

/**
 * Lists a folder, wherever its links lead within another one.
 * @param root as for `resolveWithin`
 * @returns the names in it, sorted
 * @throws FileError if it can't be read, leads out of `root`, or is too large
 */
export async function listFolder(path: string, root: string): Promise<readonly string[]> {
  const place = await resolveWithin(path, root)
  if (place === undefined) throw new FileError({ message: `There is no ${path}` })
  const names: string[] = []
  try {
    for await (const { name } of await opendir(place, { bufferSize: 512 })) {
      names.push(name)
      if (names.length > NAMES_LIMIT) break
    }
  } catch (error) {
    throw unreadable(path, error)
  }
  if (names.length <= NAMES_LIMIT) return names.sort()
  throw new FileError({ message: `${path} is a folder with more than ${NAMES_LIMIT} files in it` })
}

/** Whether what was opened is where it was looked for: a program that still runs may have put a link in its place. */
async function isStillWithin({ fd }: FileHandle, root: string): Promise<boolean> {
  // Only Linux says where an open file is.
  const place = await readlink(`/proc/self/fd/${fd}`).catch(() => undefined)
  return place === undefined || isWithin(place, await realpath(root))
}

function isWithin(path: string, folder: string): boolean {
  const below = relative(folder, path)
  return below === '' || !(below === '..' || below.startsWith('../') || isAbsolute(below))
}

function unreadable(path: string, cause: unknown): FileError {
  return new FileError({ message: `${path} can't be read`, detail: messageOf(cause), cause })
}

function leadsOut(path: string, root: string): FileError {
  return new FileError({
    message: `${path} is a link that leads out of ${root}`,
    hint: 'Nothing of it was read. Everything that an image is made of must be in its own output or in other store paths: copy the file into the output, or link to a store path.',
  })
}

function isCode(error: unknown, ...codes: readonly string[]): boolean {
  return codes.includes(String((error as NodeJS.ErrnoException).code))
}
