import { constants, lstatSync, readdirSync } from 'node:fs'
import { posix } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { FileError, ImageError, messageOf } from '../errors.ts'
import { bytesOf, displayName } from './byte-string.ts'
import { goRegExp, goReplaceAll } from './go-regexp.ts'
import type { GoTarEntry } from './go-tar.ts'
import type { Nix2containerPath, Nix2containerPerm } from './nix2container.ts'

/**
 * A file or folder of an image. All names and paths have one character per byte: names can be any bytes, and Go sorts
 * by bytes.
 */
export interface TreeNode {
  children?: Map<string, TreeNode>
  /** Undefined for a folder that is only on the way to a file. */
  file?: StoreFile
}

/** As small as possible: a layer can have hundreds of thousands. */
export interface StoreFile {
  /** The path in the store, which permissions match. */
  readonly path: string
  readonly storePath: OpenedStorePath
  /** The type and the permissions, as the system gives them. */
  readonly mode: number
  /** In bytes. */
  readonly size: number
}

/** Shared by all files of a store path. */
interface OpenedStorePath {
  readonly path: string
  /** Where the store path is. */
  readonly place: string
  readonly perms: readonly CompiledPerm[]
  /** Equal for equal permissions. Undefined for a store path without options. */
  readonly permsKey: string | undefined
}

interface CompiledPerm extends Nix2containerPerm {
  readonly expression: RegExp
}

/** The files of a layer. */
export interface LayerTree {
  readonly root: TreeNode
  /** The most files and folders that it can have, because all of them are in memory. */
  readonly limit: number
  count: number
}

export function createLayerTree(limit: number): LayerTree {
  return { root: {}, limit, count: 0 }
}

/** How many files are looked up before other work has its turn. */
const FILES_PER_TURN = 1000

/**
 * Adds a store path and everything below it to the tree, under the names that they have in the image.
 * @throws ImageError if the tree has no space for them
 */
export async function addStorePath(
  tree: LayerTree,
  { path, rewrite, perms }: Nix2containerPath,
  place: string,
): Promise<void> {
  const expression = rewrite && compile(rewrite.regex)
  const storePath: OpenedStorePath = {
    path: bytesOf(path),
    place: bytesOf(place),
    perms: perms.map((perm) => ({ ...perm, expression: compile(perm.regex) })),
    permsKey: rewrite !== undefined || perms.length > 0 ? JSON.stringify(perms) : undefined,
  }
  const pending = [storePath.path]
  for (let path = pending.pop(), count = 1; path !== undefined; path = pending.pop(), count++) {
    countFile(tree)
    const file = lookUp(path, storePath)
    const name = expression ? bytesOf(goReplaceAll(expression, textOf(path), rewrite.repl)) : path
    if (name !== '') addFile(tree.root, name, file)
    // The stack is read from its end.
    if (typeOf(file) === 'folder')
      for (const child of listNames(file).sort().reverse()) pending.push(`${path}/${child}`)
    if (count % FILES_PER_TURN === 0) await setImmediate()
  }
}

/** Yields the files and folders below a folder with their names, each folder before its files. */
export function* walkTree({ children }: TreeNode, path: string): Generator<readonly [name: string, node: TreeNode]> {
  for (const part of [...(children?.keys() ?? [])].sort()) {
    const node = children?.get(part)
    if (node === undefined) continue
    const name = part === '' ? '/' : path === '' || path === '/' ? `${path}${part}` : `${path}/${part}`
    yield [name, node]
    if (node.children !== undefined) yield* walkTree(node, name)
  }
}

function countFile(tree: LayerTree): void {
  tree.count++
  if (tree.count > tree.limit)
    throw new ImageError({ message: `a layer of the image has more than ${tree.limit} files` })
}

function addFile(root: TreeNode, name: string, file: StoreFile): void {
  let node = root
  for (const part of partsOf(name)) {
    node.children ??= new Map()
    let child = node.children.get(part)
    if (child === undefined) {
      child = {}
      node.children.set(part, child)
    }
    node = child
  }
  if (node.file !== undefined && !canReplace(node.file, file))
    throw new ImageError({
      message: `Two store paths have different files for ${displayName(name)} in the image`,
      detail: `${displayName(node.file.path)} and ${displayName(file.path)}`,
    })
  node.file = file
}

/** Splits a path, cleaned like Go does: `/a/b` into an empty name, `a` and `b`, and `/` into an empty name. */
function partsOf(name: string): readonly string[] {
  const cleaned = posix.normalize(name).replace(/(?<=.)\/$/, '')
  return cleaned === '/' ? [''] : cleaned.split('/')
}

/** Reports whether nix2container accepts a second file of the same name. It compares no content, and the last one wins. */
function canReplace(before: StoreFile, after: StoreFile): boolean {
  if (before.mode !== after.mode) return false
  if (typeOf(before) === 'file' && before.size !== after.size) return false
  const { permsKey } = before.storePath
  return permsKey === undefined || permsKey === after.storePath.permsKey
}

/** Returns the type of a file. @throws ImageError if it is a device, pipe or socket, which a Nix store never has */
export function typeOf({ path, mode }: StoreFile): GoTarEntry['type'] {
  switch (mode & constants.S_IFMT) {
    case constants.S_IFREG:
      return 'file'
    case constants.S_IFDIR:
      return 'folder'
    case constants.S_IFLNK:
      return 'symbolic-link'
    default:
      throw new ImageError({ message: `${displayName(path)} is neither a file, a folder nor a link` })
  }
}

function lookUp(path: string, storePath: OpenedStorePath): StoreFile {
  const { mode, size } = orUnreadable({ path }, () => lstatSync(placeOf({ path, storePath })))
  return { path, storePath, mode, size }
}

function listNames(file: StoreFile): string[] {
  return orUnreadable(file, () => readdirSync(placeOf(file), 'latin1'))
}

/** Returns where a file is. */
export function placeOf({ path, storePath }: Pick<StoreFile, 'path' | 'storePath'>): Buffer {
  return Buffer.from(storePath.place + path.slice(storePath.path.length), 'latin1')
}

/** Calls the file system. @throws FileError */
export function orUnreadable<Value>(file: Pick<StoreFile, 'path'>, call: () => Value): Value {
  try {
    return call()
  } catch (error) {
    throw unreadable(file, error)
  }
}

export function unreadable({ path }: Pick<StoreFile, 'path'>, cause: unknown): FileError {
  return new FileError({ message: `${displayName(path)} can't be read`, detail: messageOf(cause), cause })
}

function compile(source: string): RegExp {
  const expression = goRegExp(source)
  if (expression === undefined) throw new Error('the description was parsed with this expression')
  return expression
}

/** Reverses `bytesOf`. @throws ImageError if the bytes are not UTF-8, in which Go and JavaScript match differently */
export function textOf(bytes: string): string {
  try {
    return UTF8.decode(Buffer.from(bytes, 'latin1'))
  } catch (cause) {
    throw new ImageError({ message: `The name of ${displayName(bytes)} is not UTF-8`, cause })
  }
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
