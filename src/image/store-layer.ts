import { closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { ImageError, messageOf } from '../errors.ts'
import { type ByteString, bytesOf, displayName, isAscii } from './byte-string.ts'
import type { LayerRecipe } from './layered-description.ts'
import {
  createHeaderEncoder,
  type LayerMember,
  PYTHON_TAR_BLOCK,
  PYTHON_TAR_RECORD,
  pythonSortKey,
} from './python-tar.ts'

export interface StoreLayerOptions {
  /** Where `storeDir` is on this machine. It differs for a store below another root. */
  readonly place?: string
}

/**
 * Yields the tar of a layer in the bytes that nixpkgs' `stream_layered_image.py` writes. Each chunk is valid until the
 * next one is read.
 * @throws ImageError if a store path is missing, can't be read, or changes while it is read
 */
export async function* readStoreLayer(
  recipe: LayerRecipe,
  { place = recipe.storeDir }: StoreLayerOptions = {},
): AsyncGenerator<Buffer> {
  for (const chunk of layerChunks(recipe, place)) {
    yield chunk
    // Files are read synchronously. Let timers and sockets take their turn.
    await setImmediate()
  }
}

/** Small enough for the processor's cache, so that the consumer hashes and copies a chunk while it is there. */
const CHUNK = 256 * 1024

const ZEROS = Buffer.alloc(PYTHON_TAR_RECORD)

/** A layer that is being written. */
interface LayerWriter {
  readonly encodeHeader: (member: LayerMember) => Buffer
  /** Where the store is, and the length of the folder that it replaces in a path. */
  readonly place: ByteString
  readonly replaced: number
  /** One byte larger than a chunk, so that reading a file to its end also shows whether it has grown. */
  readonly buffer: Buffer
  filled: number
  /** The bytes in the chunks before this one. */
  written: number
}

/**
 * Reads synchronously: an asynchronous call would cost several times the call itself for a small file, and would wait for
 * a thread of the pool that compresses layers.
 */
function* layerChunks(recipe: LayerRecipe, place: string): Generator<Buffer> {
  const layer: LayerWriter = {
    encodeHeader: createHeaderEncoder(recipe),
    place: bytesOf(place),
    replaced: bytesOf(recipe.storeDir).length,
    buffer: Buffer.allocUnsafeSlow(CHUNK + 1),
    filled: 0,
    written: 0,
  }
  // The script writes these names for any store.
  for (const name of ['/nix', '/nix/store'])
    yield* append(
      layer,
      layer.encodeHeader({ type: 'folder', name, mode: recipe.storeFolderMode, size: 0, linkName: '' }),
    )
  for (const storePath of recipe.paths) {
    assertInStore(storePath, recipe.storeDir)
    const path = bytesOf(storePath)
    const type = attempt(path, () => lstatSync(onDisk(layer, path)))
    yield* appendEntry(layer, path, type)
  }
  yield* append(layer, ZEROS.subarray(0, 2 * PYTHON_TAR_BLOCK))
  yield* pad(layer, PYTHON_TAR_RECORD)
  if (layer.filled > 0) yield takeChunk(layer)
}

/** Implemented by Stats and Dirent. */
interface EntryType {
  isFile(): boolean
  isDirectory(): boolean
  isSymbolicLink(): boolean
}

function* appendEntry(layer: LayerWriter, path: ByteString, type: EntryType): Generator<Buffer> {
  if (type.isFile()) yield* appendFile(layer, path)
  else if (type.isDirectory()) yield* appendFolder(layer, path)
  else if (type.isSymbolicLink()) yield* appendLink(layer, path)
  else
    throw new ImageError({
      message: `${displayName(path)} is a pipe, a socket or a device, which can't be in the Nix store`,
      hint: REPAIR,
    })
}

function* appendFile(layer: LayerWriter, path: ByteString): Generator<Buffer> {
  const fd = attempt(path, () => openSync(onDisk(layer, path), OPEN_FLAGS))
  try {
    const stats = attempt(path, () => fstatSync(fd))
    if (!stats.isFile()) throw changed(path)
    const { mode, size } = stats
    yield* append(layer, layer.encodeHeader({ type: 'file', name: path, mode, size, linkName: '' }))
    yield* appendContent(layer, path, fd, size)
    yield* pad(layer, PYTHON_TAR_BLOCK)
  } finally {
    closeSync(fd)
  }
}

// O_NONBLOCK, because opening a pipe without a writer would block.
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

function* appendContent(layer: LayerWriter, path: ByteString, fd: number, size: number): Generator<Buffer> {
  for (let unread = size; unread > 0; ) {
    const space = CHUNK - layer.filled
    const length = unread > space ? space : unread + 1
    const bytesRead = attempt(path, () => readSync(fd, layer.buffer, layer.filled, length, null))
    if (bytesRead === 0 || bytesRead > unread) throw changed(path)
    unread -= bytesRead
    layer.filled += bytesRead
    if (layer.filled === CHUNK) yield takeChunk(layer)
  }
}

/**
 * Appends a folder and everything below it, depth first. This is the order in which Python sorts paths: by their
 * components, so that `a/b` precedes `a-b`.
 */
function* appendFolder(layer: LayerWriter, path: ByteString): Generator<Buffer> {
  const { stats, entries } = attempt(path, () => {
    const folder = onDisk(layer, path)
    return {
      stats: lstatSync(folder),
      entries: readdirSync(folder, { withFileTypes: true, encoding: 'latin1' }),
    }
  })
  if (!stats.isDirectory()) throw changed(path)
  yield* append(layer, layer.encodeHeader({ type: 'folder', name: path, mode: stats.mode, size: 0, linkName: '' }))
  const sorted = entries.map((entry) => ({ entry, key: pythonSortKey(entry.name) }))
  sorted.sort((a, b) => (a.key < b.key ? -1 : 1))
  for (const { entry } of sorted) yield* appendEntry(layer, `${path}/${entry.name}`, entry)
}

function* appendLink(layer: LayerWriter, path: ByteString): Generator<Buffer> {
  const { mode, linkName } = attempt(path, () => {
    const link = onDisk(layer, path)
    return { mode: lstatSync(link).mode, linkName: readlinkSync(link, 'latin1') }
  })
  yield* append(layer, layer.encodeHeader({ type: 'symbolic-link', name: path, mode, size: 0, linkName }))
}

function* append(layer: LayerWriter, bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const copied = bytes.copy(layer.buffer, layer.filled, at, at + CHUNK - layer.filled)
    at += copied
    layer.filled += copied
    if (layer.filled === CHUNK) yield takeChunk(layer)
  }
}

/** Pads the layer with zeros to a multiple of a unit. */
function* pad(layer: LayerWriter, unit: number): Generator<Buffer> {
  const rest = (layer.written + layer.filled) % unit
  if (rest > 0) yield* append(layer, ZEROS.subarray(0, unit - rest))
}

function takeChunk(layer: LayerWriter): Buffer {
  const chunk = layer.buffer.subarray(0, layer.filled)
  layer.written += layer.filled
  layer.filled = 0
  return chunk
}

/** Checks that a path is a store path, or below one, in its shortest form: its name in the tar is derived from it. */
function assertInStore(path: string, storeDir: string): void {
  const names = path.startsWith(`${storeDir}/`) ? path.slice(storeDir.length + 1).split('/') : ['']
  if (names.some((name) => name === '' || name === '.' || name === '..') || path.includes('\0') || !path.isWellFormed())
    throw new ImageError({ message: `A layer of the image includes ${path}, which is not a path in ${storeDir}` })
}

/** Returns where a path is on this machine. */
function onDisk({ place, replaced }: LayerWriter, path: ByteString): string | Buffer {
  const bytes = place + path.slice(replaced)
  return isAscii(bytes) ? bytes : Buffer.from(bytes, 'latin1')
}

function attempt<T>(path: ByteString, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new ImageError({
      message: `${displayName(path)}, which a layer of the image includes, can't be read`,
      detail: messageOf(error),
      hint: REPAIR,
      cause: error,
    })
  }
}

const REPAIR = 'Check the store with `nix-store --verify --check-contents --repair`, or build again on a new runner.'

function changed(path: ByteString): ImageError {
  return new ImageError({
    message: `${displayName(path)} changed while it was read`,
    hint: 'Remove the step that writes to the Nix store or collects garbage while this step runs.',
  })
}
