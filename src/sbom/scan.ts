import { constants, type Dirent, lstatSync, readdirSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname, extname, join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Log } from '../log.ts'
import { isStorePath, placeOnDisk, type StoreFolder, storeInPlace } from '../nix/store-path.ts'
import { createSemaphore, mapAtMost } from '../promises.ts'
import { type RandomAccessFile, readElfSections } from './elf.ts'
import { goModulesIn } from './go-modules.ts'
import { type BinaryModule, sortedModules } from './purl.ts'
import { rustCratesIn } from './rust-crates.ts'
import { storePathOfEntry } from './store-paths.ts'

/** A store path, and the modules that its programs were built from. */
export interface StorePathModules {
  readonly path: string
  /** Without duplicates, sorted by package URL. */
  readonly modules: readonly BinaryModule[]
}

/**
 * Finds the Go modules and Rust crates in the programs and libraries of store paths on this machine. The result depends
 * only on their content. Skips paths that don't exist here, and files that can't be read.
 * @returns the store paths that have modules, sorted
 */
export async function scanModules(
  paths: readonly string[],
  log: Log,
  store: StoreFolder = storeInPlace(),
): Promise<readonly StorePathModules[]> {
  const sorted = [...new Set(paths)].filter(isStorePath).toSorted()
  const scanned = await mapAtMost(STORE_PATHS_AT_ONCE, sorted, async (path) => ({
    path,
    modules: await modulesBelow(placeOnDisk(path, store), log),
  }))
  return scanned.filter(({ modules }) => modules.length > 0)
}

/** A search for modules in programs that are found one by one. */
export interface ProgramScan {
  /** Starts to read a file. Ignores files that were added before, and those that `scanModules` would not read. */
  add(file: string): void
  /** Waits for all files. @returns the store paths that have modules, in no particular order */
  found(): Promise<readonly StorePathModules[]>
}

/**
 * Starts a search in programs that were seen in layers, so that the folders of their store paths need not be read again.
 * If all programs of a store path are added, the result is the same as that of `scanModules`.
 */
export function startProgramScan(store: StoreFolder = storeInPlace()): ProgramScan {
  const slots = createSemaphore(FILES_AT_ONCE)
  const started = new Map<string, Promise<StorePathModules>>()
  const read = async (path: string, file: string): Promise<StorePathModules> => {
    await slots.acquire()
    try {
      const place = placeOnDisk(file, store)
      const isCandidate = isBelow(place, placeOnDisk(path, store)) && isProgram(place)
      return { path, modules: isCandidate ? await modulesIn(place) : [] }
    } finally {
      slots.release()
    }
  }
  return {
    add(file) {
      const path = storePathOfEntry(file, store.name)
      if (path === undefined || started.has(file)) return
      // A store path that is a file can have any name.
      if (file === path || !isData(file)) started.set(file, read(path, file))
    },
    async found() {
      const byPath = Map.groupBy(await Promise.all(started.values()), ({ path }) => path)
      const found = [...byPath].map(([path, files]) => ({
        path,
        modules: sortedModules(files.flatMap(({ modules }) => modules)),
      }))
      return found.filter(({ modules }) => modules.length > 0)
    },
  }
}

/**
 * Returns the modules that a program or library was built from, in no particular order.
 * @returns undefined if the file is not an ELF file with a list of modules
 */
export async function modulesOf(file: RandomAccessFile): Promise<readonly BinaryModule[] | undefined> {
  const sections = await readElfSections(file)
  if (sections === undefined) return undefined
  const [go, rust] = [await goModulesIn(file, sections), await rustCratesIn(file, sections)]
  return go === undefined && rust === undefined ? undefined : [...(go ?? []), ...(rust ?? [])]
}

/** Low, because the same threads read and compress layers at the same time. */
const STORE_PATHS_AT_ONCE = 2
const FILES_AT_ONCE = 4

/** The most files of a store path that are looked at. The largest packages have some ten thousand. */
const FILES_LIMIT = 200_000

/** Does not follow links, which may lead out of the store. A store path can be a file. */
async function modulesBelow(storePath: string, log: Log): Promise<readonly BinaryModule[]> {
  if (!isFolder(storePath)) return isProgram(storePath) ? sortedModules(await modulesIn(storePath)) : []
  const found: BinaryModule[] = []
  let left = FILES_LIMIT
  const folders = [storePath]
  for (let folder = folders.pop(); folder !== undefined && left > 0; folder = folders.pop()) {
    // Reads folders synchronously, in a quarter of the processor time. Other work runs between them.
    await nextTurn()
    const { subfolders, files } = listEntries(folder)
    folders.push(...subfolders)
    const candidates = files.slice(0, left)
    left -= candidates.length
    const modules = await mapAtMost(FILES_AT_ONCE, candidates.filter(isProgram), modulesIn)
    for (const some of modules) found.push(...some)
  }
  if (left === 0) log.info(`The SBOM lists only the modules of the first ${FILES_LIMIT} files of ${storePath}`)
  return sortedModules(found)
}

interface Entries {
  readonly subfolders: readonly string[]
  /** Without files that can't be programs or libraries. */
  readonly files: readonly string[]
}

/** Returns the paths of the entries of a folder, sorted. None for a folder that can't be read. */
function listEntries(folder: string): Entries {
  const entries = entriesOf(folder)
  const pathsOf = (some: readonly Dirent[]) => some.map(({ name }) => join(folder, name)).toSorted()
  return {
    subfolders: pathsOf(entries.filter((entry) => entry.isDirectory())),
    files: pathsOf(entries.filter((entry) => entry.isFile() && !isData(entry.name))),
  }
}

function entriesOf(folder: string): readonly Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
  } catch {
    return []
  }
}

/** The extensions of files that are not programs. Most files of an image have one, so that this saves most of the time. */
const DATA_EXTENSIONS: ReadonlySet<string> = new Set(
  [
    ['.c', '.cc', '.cpp', '.css', '.go', '.h', '.hpp', '.htm', '.html', '.java', '.js', '.cjs', '.mjs', '.lua', '.pl'],
    ['.pm', '.py', '.pyc', '.pyi', '.pxd', '.rb', '.rs', '.sh', '.tcl', '.ts', '.a', '.cmake', '.la', '.o', '.pc'],
    ['.conf', '.csv', '.json', '.map', '.md', '.rst', '.tmpl', '.toml', '.txt', '.xml', '.yaml', '.yml', '.dat', '.mo'],
    ['.po', '.gif', '.jpg', '.png', '.svg', '.otf', '.pfb', '.ttf', '.woff', '.woff2', '.bz2', '.gz', '.xz', '.zip'],
    ['.zst', '.jar', '.whl'],
  ].flat(),
)

function isData(name: string): boolean {
  return DATA_EXTENSIONS.has(extname(name))
}

/** Libraries are often not executable. */
const LIBRARY = /\.so(?:\.[0-9.]+)?$/

const EXECUTABLE = 0o111

/** Programs of more than this are not read. In bytes. */
const SIZE_LIMIT = 4 * 1024 ** 3

/** Also false for a path that can't be looked up: it may come from a layer, with a name that no file can have. */
function isFolder(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true
  } catch {
    return false
  }
}

/** Reports whether a file is the store path itself, or is in it and not behind a link. */
function isBelow(file: string, storePath: string): boolean {
  if (file === storePath) return true
  const folder = dirname(file)
  return (
    folder.startsWith(storePath) && isFolder(folder) && !file.split('/').includes('..') && isBelow(folder, storePath)
  )
}

/** Reports whether a path is a file that may be a program or a library. */
function isProgram(path: string): boolean {
  try {
    const stat = lstatSync(path)
    return stat.isFile() && stat.size <= SIZE_LIMIT && ((stat.mode & EXECUTABLE) !== 0 || LIBRARY.test(path))
  } catch {
    return false
  }
}

/** Returns no modules for a file that can't be read. */
async function modulesIn(path: string): Promise<readonly BinaryModule[]> {
  try {
    // O_NOFOLLOW and O_NONBLOCK, in case the file was replaced by a link or a pipe.
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    try {
      const { size } = await handle.stat()
      return (await modulesOf({ size, read: (offset, length) => readRange(handle, offset, length) })) ?? []
    } finally {
      await handle.close()
    }
  } catch {
    // The SBOM lists what can be read. A damaged file or a file without permissions must not fail the push.
    return []
  }
}

async function readRange(handle: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  let done = 0
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, offset + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return bytes.subarray(0, done)
}
