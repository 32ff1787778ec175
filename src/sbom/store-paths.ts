import { observeTar } from '../image/observe-tar.ts'
import { isStorePath, storeFolder } from '../nix/store-path.ts'
import { ELF_MAGIC } from './elf.ts'

/** Receives the absolute path of a file in a store path that may be a program: `/nix/store/…-hello-2.12/bin/hello`. */
export type ProgramObserver = (path: string) => void

/** The tar of a layer that is observed while it is read. */
export interface ObservedLayer {
  readonly tar: AsyncIterable<Buffer>
  /** Returns the store paths that the layer has files of, sorted. Complete once the tar has been read. */
  storePaths(): readonly string[]
}

/** Observes which store paths and programs a layer contains. */
export function observeLayer(
  tar: AsyncIterable<Buffer>,
  onProgram: ProgramObserver = () => undefined,
  store: string = storeFolder(),
): ObservedLayer {
  const found = new Set<string>()
  // Adjacent entries are usually in the same store path.
  let last = ' '
  function onEntry(name: string, start: Buffer | undefined): void {
    if (!name.startsWith(last)) {
      const path = storePathOfEntry(name, store)
      if (path === undefined) return
      found.add(path)
      last = `${name.slice(0, name.indexOf(path.slice(store.length)) + path.length - store.length)}/`
    }
    // The content of a hard link is elsewhere in the tar.
    if (start === undefined || start.subarray(0, ELF_MAGIC.length).equals(ELF_MAGIC)) onProgram(absolute(name))
  }
  return { tar: observeTar(tar, onEntry), storePaths: () => [...found].toSorted() }
}

/** Returns the store path that an entry of a tar is part of, undefined for a file outside of the store. */
export function storePathOfEntry(name: string, store: string = storeFolder()): string | undefined {
  const path = absolute(name)
  if (!path.startsWith(`${store}/`)) return undefined
  const [first = ''] = path.slice(store.length + 1).split('/', 1)
  const storePath = `${store}/${first}`
  return isStorePath(storePath) ? storePath : undefined
}

/** @param name relative or absolute: `./nix/store/…-glibc-2.40/lib/libc.so.6` */
function absolute(name: string): string {
  return name.replace(/^(?:\.?\/)*/, '/')
}
