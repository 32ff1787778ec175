import { constants } from 'node:fs'
import { type FileHandle, open, opendir, readlink, realpath, stat } from 'node:fs/promises'
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'
import { FileError, messageOf } from '../errors.ts'

/** A regular file, open for reading. */
export interface RegularFile {
  readonly handle: FileHandle
  /** In bytes. */
  readonly size: number
}

/**
 * Resolves the symbolic links of a path in a build result. The result is untrusted: its links may lead to other files of
 * this machine, or to this process's environment.
 * @param root the folder that the target must be in, such as the Nix store. In a store below another root, such as
 * `/home/runner/root/nix/store`, links to `/nix/store` lead to that store.
 * @returns the path without links, or undefined if it does not exist
 * @throws FileError if the target is outside of `root`, or the links form a loop
 */
export async function resolveWithin(path: string, root: string): Promise<string | undefined> {
  try {
    const folder = await realpath(root)
    const target = await realpath(path).catch(async (error: unknown) => {
      if (isCode(error, 'ENOENT')) return realpathBelow(path, folder)
      throw error
    })
    if (isWithin(target, folder)) return target
    const below = await realpathBelow(path, folder)
    if (isWithin(below, folder)) return below
  } catch (error) {
    if (isCode(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw unreadable(path, error)
  }
  throw linkOutside(path, root)
}

/** As many as Linux follows. */
const LINKS_LIMIT = 40

/** Resolves links like `realpath`, with links to a store in the store `root`, as `rebase` finds it. */
async function realpathBelow(path: string, root: string): Promise<string> {
  let rest = path
  for (let links = 0; links < LINKS_LIMIT; links++) {
    const link = await firstLink(rest)
    if (link === undefined) return realpath(rest)
    rest = join(rebase(resolve(dirname(link.path), link.target), root), link.rest)
  }
  return realpath(rest)
}

/** Finds the first symbolic link in a path. */
async function firstLink(
  path: string,
): Promise<{ readonly path: string; readonly target: string; readonly rest: string } | undefined> {
  const names = path.split(sep)
  for (let end = 2; end <= names.length; end++) {
    const start = names.slice(0, end).join(sep)
    const target = await readlink(start).catch(() => undefined)
    if (target !== undefined) return { path: start, target, rest: names.slice(end).join(sep) }
  }
  return undefined
}

/** Returns the path below `root` for one that begins with the end of `root`: `/nix/store/x` for `/home/runner/nix/store`. */
function rebase(path: string, root: string): string {
  if (isWithin(path, root)) return path
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder))
    if (root.endsWith(folder)) return root + path.slice(folder.length)
  return path
}

/**
 * Opens a regular file. Its path may have links within `root`.
 * @param root as for `resolveWithin`
 * @throws FileError if it does not exist, is not a regular file, or is outside of `root`
 */
export async function openRegularFile(path: string, root: string): Promise<RegularFile> {
  const target = await resolveWithin(path, root)
  if (target === undefined) throw new FileError({ message: `${path} does not exist` })
  // O_NONBLOCK, because opening a pipe without a writer would block.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW
  const handle = await open(target, flags).catch((error: unknown) => {
    throw unreadable(path, error)
  })
  try {
    const file = await handle.stat()
    if (!file.isFile()) throw new FileError({ message: `${path} is not a regular file` })
    if (!(await isStillWithin(handle, root))) throw linkOutside(path, root)
    return { handle, size: file.size }
  } catch (error) {
    await handle.close()
    throw error
  }
}

/**
 * Reads a file up to the size that it had when it was opened.
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

/** Large, because each read waits for one of the threads, which also compress. */
const CHUNK = 1024 * 1024

/**
 * Yields a file's content in chunks, up to the size that it had when it was opened, and then closes it.
 * @param path for errors
 * @throws FileError
 */
export async function* contentOf({ handle, size }: RegularFile, path: string): AsyncGenerator<Buffer> {
  // The `end` of a stream is inclusive, so that it can't be empty.
  if (size === 0) return handle.close()
  try {
    yield* handle.createReadStream({ highWaterMark: CHUNK, end: size - 1 })
  } catch (error) {
    throw unreadable(path, error)
  }
}

/**
 * Reports whether a path without links is a folder.
 * @throws FileError
 */
export async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory()
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** No folder of an image has more files. */
const NAMES_LIMIT = 10_000

/**
 * Lists a folder. Its path may have links within `root`.
 * @param root as for `resolveWithin`
 * @returns the sorted names
 * @throws FileError if it can't be read, is outside of `root`, or has too many files
 */
export async function listFolder(path: string, root: string): Promise<readonly string[]> {
  const target = await resolveWithin(path, root)
  if (target === undefined) throw new FileError({ message: `${path} does not exist` })
  const names: string[] = []
  try {
    for await (const { name } of await opendir(target, { bufferSize: 512 })) {
      names.push(name)
      if (names.length > NAMES_LIMIT) break
    }
  } catch (error) {
    throw unreadable(path, error)
  }
  if (names.length <= NAMES_LIMIT) return names.sort()
  throw new FileError({ message: `The folder ${path} has more than ${NAMES_LIMIT} files` })
}

/** Reports whether an open file is in a folder: a running program may have replaced its path with a link. */
async function isStillWithin({ fd }: FileHandle, root: string): Promise<boolean> {
  // Available only on Linux.
  const target = await readlink(`/proc/self/fd/${fd}`).catch(() => undefined)
  return target === undefined || isWithin(target, await realpath(root))
}

function isWithin(path: string, folder: string): boolean {
  const below = relative(folder, path)
  return below === '' || !(below === '..' || below.startsWith('../') || isAbsolute(below))
}

function unreadable(path: string, cause: unknown): FileError {
  return new FileError({ message: `${path} can't be read`, detail: messageOf(cause), cause })
}

function linkOutside(path: string, root: string): FileError {
  return new FileError({
    message: `${path} is a link that leads out of ${root}`,
    hint: 'The file was not read. All files of an image must be in its output or in other store paths. Copy the file to the output, or link to a store path.',
  })
}

function isCode(error: unknown, ...codes: readonly string[]): boolean {
  return codes.includes(String((error as NodeJS.ErrnoException).code))
}
