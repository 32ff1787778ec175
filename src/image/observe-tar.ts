import { BLOCK, readTarHeader, textField } from './tar.ts'

/**
 * Receives an entry of a tar.
 * @param start the first bytes of its content, with padding, valid during the call. Empty for folders and symbolic links,
 * undefined if the content is stored elsewhere or in another form
 */
export type EntryObserver = (name: string, start: Buffer | undefined) => void

/** Passes the bytes of a tar through, and reports each entry. Never throws because a tar is damaged. */
export async function* observeTar(content: AsyncIterable<Buffer>, onEntry: EntryObserver): AsyncGenerator<Buffer> {
  const read = createEntryReader(onEntry)
  for await (const chunk of content) {
    read(chunk)
    yield chunk
  }
}

/** The limit of the content of a header that describes the next entry, in bytes. Larger ones are ignored. */
const EXTENSION_LIMIT = 256 * 1024

const END = Buffer.alloc(BLOCK)

const NOTHING = Buffer.alloc(0)

/** The fields of the next entry that headers before it override. */
interface Extension {
  readonly name?: string | undefined
  readonly size?: number | undefined
  /** The name of a sparse file, whose content begins with a map of its parts. Its other name is a temporary one. */
  readonly sparseName?: string | undefined
}

/** Returns a function that reads the next bytes of a tar. */
function createEntryReader(observe: EntryObserver): (chunk: Buffer) => void {
  const block = Buffer.alloc(BLOCK)
  let kept: { readonly type: string; readonly content: Buffer } | undefined
  let started: { readonly name: string; readonly size: number } | undefined
  let buffer = block
  let filled = 0
  let skip = 0
  let extension: Extension = {}
  let ended = false

  function onHeader(): void {
    const { flag: type, size: listed, name } = readTarHeader(block)
    const size = Number.isNaN(listed) ? 0 : listed
    ended = block.equals(END)
    if ('xL'.includes(type) && size > 0 && size <= EXTENSION_LIMIT) {
      buffer = Buffer.alloc(paddedSize(size))
      kept = { type, content: buffer.subarray(0, size) }
    } else if ('xgLK'.includes(type)) skip = paddedSize(size)
    else if (!ended) onEntry(type, name, size)
  }

  function onEntry(type: string, listedName: string, listedSize: number): void {
    const { sparseName, name = listedName, size = listedSize } = extension
    extension = {}
    const isFile = isRegular(type) && sparseName === undefined
    if (isFile && size > 0) started = { name, size }
    // Links, devices and folders have no content, whatever their size says.
    else if (isFile || '23456'.includes(type)) observe(name, NOTHING)
    else {
      observe(sparseName ?? name, undefined)
      skip = type === '1' ? 0 : paddedSize(size)
    }
  }

  function onStart({ name, size }: { readonly name: string; readonly size: number }): void {
    observe(name, block)
    started = undefined
    skip = paddedSize(size) - BLOCK
  }

  function onExtension({ type, content }: { readonly type: string; readonly content: Buffer }): void {
    extension = {
      ...extension,
      ...(type === 'L' ? { name: textField(content, 0, content.length) } : paxFields(content)),
    }
    kept = undefined
    buffer = block
  }

  function onFilled(): void {
    filled = 0
    if (started !== undefined) onStart(started)
    else if (kept !== undefined) onExtension(kept)
    else onHeader()
  }

  return (chunk) => {
    for (let at = 0; at < chunk.length && !ended; ) {
      const skipped = Math.min(skip, chunk.length - at)
      skip -= skipped
      at += skipped
      const copied = chunk.copy(buffer, filled, at)
      at += copied
      filled += copied
      if (filled === buffer.length) onFilled()
    }
  }
}

/** Reports whether a type is that of a file with its content. `7` is one that is contiguous on the disk. */
function isRegular(type: string): boolean {
  return '07\0'.includes(type)
}

function paddedSize(size: number): number {
  return Math.ceil(size / BLOCK) * BLOCK
}

/**
 * https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03
 * https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html
 */
function paxFields(content: Buffer): Extension {
  let fields: Extension = {}
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(0x20, at)
    const length = Number(content.toString('latin1', at, Math.max(at, space)))
    if (!Number.isInteger(length) || length < 1) break
    const [, key, value = ''] = /^([^=]*)=(.*)$/s.exec(content.toString('utf8', space + 1, at + length - 1)) ?? []
    if (key === 'path') fields = { ...fields, name: value }
    if (key === 'GNU.sparse.name') fields = { ...fields, sparseName: value }
    if (key === 'size' && /^\d+$/.test(value)) fields = { ...fields, size: Number(value) }
    at += length
  }
  return fields
}
