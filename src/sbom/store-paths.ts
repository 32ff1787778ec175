import { isStorePath, storeFolder } from '../nix/store-path.ts'

/**
 * Returns the store paths that a tar has files of, sorted.
 * @param names of its entries, relative or absolute: `./nix/store/…-glibc-2.40/lib/libc.so.6`
 */
export function storePathsOf(names: Iterable<string>, store: string = storeFolder()): readonly string[] {
  const found = new Set<string>()
  for (const name of names) {
    const path = storePathOfEntry(name, store)
    if (path !== undefined) found.add(path)
  }
  return [...found].toSorted()
}

/** Collects the store paths that a tar has files of, from the names of its entries. */
export function createStorePathSet(store: string = storeFolder()) {
  const found = new Set<string>()
  // Adjacent entries are usually in the same store path.
  let last = ' '
  return {
    add(name: string): void {
      if (name.startsWith(last)) return
      const path = storePathOfEntry(name, store)
      if (path === undefined) return
      found.add(path)
      last = `${name.slice(0, name.indexOf(path.slice(store.length)) + path.length - store.length)}/`
    },
    sorted: (): readonly string[] => [...found].toSorted(),
  }
}

/** Returns the store path that an entry of a tar is part of, undefined for a file outside of the store. */
export function storePathOfEntry(name: string, store: string = storeFolder()): string | undefined {
  const absolute = name.replace(/^(?:\.?\/)*/, '/')
  if (!absolute.startsWith(`${store}/`)) return undefined
  const [first = ''] = absolute.slice(store.length + 1).split('/', 1)
  const path = `${store}/${first}`
  return isStorePath(path) ? path : undefined
}
