import { readlinkSync, realpathSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'

/** A folder, a hash in Nix's base 32, and a name: https://nix.dev/manual/nix/latest/protocols/store-path */
const STORE_PATH = /^(?:\/[A-Za-z0-9._-]+)+\/[0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{1,211}$/

/** Whether a text is the path of something in a Nix store, wherever that is, and of nothing below it. */
export function isStorePath(text: string): boolean {
  return STORE_PATH.test(text) && !text.split('/').includes('..')
}

/** Where a path leads to in a Nix store. */
export interface StorePlace {
  readonly storePath: string
  /** Whether it is something within the store path that is meant. */
  readonly below: boolean
}

/**
 * Follows links until a path is in a Nix store, as Nix does, but for one thing: it goes by a link in the middle of the
 * path as well, where Nix 2.8 takes the path for a flake's, and looks for one in the folders above.
 * @returns nothing for a path that does not lead to a store
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
    // It is not there, or no link.
    return undefined
  }
}
