import { readlinkSync, realpathSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'

/** A folder, a hash in Nix's base-32 encoding, and a name: https://nix.dev/manual/nix/latest/protocols/store-path */
const STORE_PATH = /^(?:\/[A-Za-z0-9._-]+)+\/[0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{1,211}$/

/** Where the files of a Nix store are. */
export interface StoreFolder {
  /** The folder in store paths, normally `/nix/store`. */
  readonly name: string
  /** The folder that has the files. It differs for a store below another root, as runners without root privileges have. */
  readonly place: string
}

/** Returns where a store path, or a file in one, is on this machine. Returns any other path unchanged. */
export function placeOnDisk(path: string, { name, place }: StoreFolder): string {
  return path.startsWith(`${name}/`) ? place + path.slice(name.length) : path
}

/** Returns the store of a runner whose store paths are where their names say. */
export function storeInPlace(): StoreFolder {
  return { name: storeFolder(), place: storeFolder() }
}

/** Returns the folder in store paths. */
export function storeFolder(): string {
  return process.env.NIX_STORE_DIR || '/nix/store'
}

/** Returns whether a text is the path of a store object, in a store at any location, and not of a file inside of one. */
export function isStorePath(text: string): boolean {
  return STORE_PATH.test(text) && !text.split('/').includes('..')
}

/** A place in a Nix store. */
export interface StorePlace {
  readonly storePath: string
  /** Whether the place is inside of the store path. */
  readonly below: boolean
}

/**
 * Follows symbolic links until a path is in a Nix store, like Nix does. Unlike Nix 2.8, also follows links in the middle
 * of a path; Nix 2.8 takes such a path for a flake, and searches the parent folders for it.
 * @returns undefined if the path does not lead to a store
 */
export function placeInStore(path: string, links = 40): StorePlace | undefined {
  const whole = resolve(path)
  const [, storePath = '', below] = /^(.*?\/[0-9a-df-np-sv-z]{32}-[^/]+)(\/.+)?$/.exec(whole) ?? []
  if (isStorePath(storePath)) return { storePath, below: below !== undefined }
  if (links === 0) return undefined
  try {
    const folder = realpathSync(dirname(whole))
    const real = join(folder, basename(whole))
    return placeInStore(real === whole ? resolve(folder, readlinkSync(real)) : real, links - 1)
  } catch {
    // The path does not exist or is not a link.
    return undefined
  }
}
