import { closeSync, constants, openSync, readlinkSync, readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { setImmediate } from 'node:timers/promises'
import { FileError } from '../errors.ts'
import { contentOf, openRegularFile } from '../fs/regular-file.ts'
import { placeOnDisk, type StoreFolder } from '../nix/store-path.ts'
import { bytesOf, displayName } from './byte-string.ts'
import { goMatches } from './go-regexp.ts'
import { GO_TAR_END, type GoTarEntry, goTarHeader, tarPadding } from './go-tar.ts'
import type { Nix2containerLayer } from './nix2container.ts'
import {
  addStorePath,
  createLayerTree,
  orUnreadable,
  placeOf,
  type StoreFile,
  type TreeNode,
  textOf,
  typeOf,
  unreadable,
  walkTree,
} from './nix2container-tree.ts'
import { BLOCK } from './tar.ts'

/**
 * Yields a layer byte for byte as nix2container's own program writes it. The caller compares the digest.
 * Each chunk is valid until the next one is read.
 * Source: https://github.com/nlewo/nix2container/blob/master/nix/tar.go and graph.go
 * @param store a description that was parsed for its name
 * @throws FileError if a file is missing or unreadable, ImageError if the store paths don't fit together
 */
export async function* readNix2containerLayer(
  { content }: Nix2containerLayer,
  store: StoreFolder,
): AsyncGenerator<Buffer> {
  if (content.kind === 'file') {
    yield* contentOf(await openRegularFile(placeOnDisk(content.path, store), store.place), content.path)
    return
  }
  const tree = createLayerTree(FILES_LIMIT)
  for (const path of content.paths) await addStorePath(tree, path, placeOnDisk(path.path, store))
  yield* inChunks(tarPieces(tree.root))
}

/** A file takes some hundred bytes of memory. nix2container's own program then writes the image. */
const FILES_LIMIT = 1_000_000

/** The size of a chunk, in bytes. */
const CHUNK = 1024 * 1024
/** In bytes. Up to this size, the calls to read a file take less time than another thread takes to start them. */
const SMALL = 128 * 1024

/** Yields pieces in chunks. A large file begins a new one. */
async function* inChunks(pieces: Iterable<Buffer | StoreFile>): AsyncGenerator<Buffer> {
  const chunk = Buffer.allocUnsafe(CHUNK)
  let filled = 0
  for (const piece of pieces) {
    if (!Buffer.isBuffer(piece)) {
      if (filled > 0) yield chunk.subarray(0, filled)
      filled = 0
      yield* readLarge(piece, chunk)
      continue
    }
    for (let at = 0; at < piece.length; ) {
      const copied = piece.copy(chunk, filled, at)
      at += copied
      filled += copied
      if (filled < CHUNK) continue
      yield chunk
      filled = 0
      // Small files are read synchronously. Let timers and sockets take their turn.
      await setImmediate()
    }
  }
  if (filled > 0) yield chunk.subarray(0, filled)
}

/** Yields the tar of a tree: bytes that are valid until the next piece, and large files to read. */
function* tarPieces(root: TreeNode): Generator<Buffer | StoreFile> {
  const content = Buffer.allocUnsafe(SMALL)
  const zeros = Buffer.alloc(BLOCK)
  for (const [name, { file }] of walkTree(root, '')) {
    const entry = entryOf(name, file)
    yield goTarHeader(entry)
    if (file === undefined || entry.size === 0) continue
    yield entry.size > SMALL ? file : readSmall(file, content.subarray(0, entry.size))
    yield zeros.subarray(0, tarPadding(entry.size))
  }
  yield GO_TAR_END
}

/** A folder on the way to a file, and what all entries have in common: the times of the Nix store, and root as owner. */
const FOLDER = {
  type: 'folder',
  linkName: '',
  mode: 0o755,
  uid: 0,
  gid: 0,
  userName: 'root',
  groupName: 'root',
  size: 0,
  modified: 1,
} as const

function entryOf(name: string, file: StoreFile | undefined): GoTarEntry {
  if (file === undefined) return { ...FOLDER, name }
  return { ...FOLDER, name, ...contentFields(file), ...permFields(file) }
}

function contentFields(file: StoreFile): Partial<GoTarEntry> {
  const type = typeOf(file)
  const mode = file.mode & 0o7777
  if (type === 'file') return { type, mode, size: file.size }
  return type === 'folder' ? { mode } : { type, mode: 0o777, linkName: readTarget(file) }
}

/** Returns the fields that permissions change. Each one that matches sets the IDs, which are 0 if nothing was chosen. */
function permFields({ path, storePath: { perms } }: StoreFile): Partial<GoTarEntry> {
  if (perms.length === 0) return {}
  const text = textOf(path)
  const fields = perms
    .filter(({ expression }) => goMatches(expression, text))
    .map(({ mode, uid, gid, uname, gname }) => ({
      uid,
      gid,
      ...(uname !== '' && { userName: bytesOf(uname) }),
      ...(gname !== '' && { groupName: bytesOf(gname) }),
      ...(mode !== '' && { mode: Number.parseInt(mode, 8) }),
    }))
  return Object.assign({}, ...fields)
}

/** Links are not followed, in case a file was replaced with one. Opening a pipe without a writer would block. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** Reads a file into a buffer of its size. */
function readSmall(file: StoreFile, content: Buffer): Buffer {
  const fd = orUnreadable(file, () => openSync(placeOf(file), OPEN_FLAGS))
  try {
    let length = 0
    while (length < content.length) {
      const read = orUnreadable(file, () => readSync(fd, content, length, content.length - length, null))
      if (read === 0) throw shrunk(file)
      length += read
    }
    return content
  } finally {
    closeSync(fd)
  }
}

/** Reads a file through a buffer. */
async function* readLarge(file: StoreFile, buffer: Buffer): AsyncGenerator<Buffer> {
  const handle = await open(placeOf(file), OPEN_FLAGS).catch((error: unknown) => {
    throw unreadable(file, error)
  })
  try {
    for (let left = file.size; left > 0; ) {
      const { bytesRead } = await handle.read(buffer, 0, Math.min(left, buffer.length)).catch((error: unknown) => {
        throw unreadable(file, error)
      })
      if (bytesRead === 0) throw shrunk(file)
      left -= bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  } finally {
    await handle.close()
  }
}

function readTarget(file: StoreFile): string {
  return orUnreadable(file, () => readlinkSync(placeOf(file), 'latin1'))
}

function shrunk({ path }: StoreFile): FileError {
  return new FileError({ message: `${displayName(path)} became shorter while it was read` })
}
