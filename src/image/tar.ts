import { type ByteReader, readExactly } from './byte-reader.ts'
import { isTar } from './decompress.ts'
import { ImageError } from './image-error.ts'

/** One member of a tar. */
export interface TarEntry {
  readonly name: string
  readonly type: 'file' | 'hard-link' | 'symbolic-link' | 'folder' | 'other'
  /** What a link points to. */
  readonly linkName: string
  /** Of the content, in bytes. */
  readonly size: number
  /** The content in chunks, each valid until the next; once, while the iteration stands at this entry. */
  content(): AsyncIterable<Buffer>
}

/**
 * The members of a tar in their order, the content of each read only where it is asked for.
 * Understands ustar, pax and GNU headers: https://www.gnu.org/software/tar/manual/html_node/Standard.html,
 * https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03
 * @param archive what the tar is, for errors: its path
 * @throws ImageError where it is damaged or ends early
 */
export async function* tarEntries(reader: ByteReader, archive: string): AsyncGenerator<TarEntry> {
  const global: PaxRecords = new Map()
  let extension: Extension = {}
  let extensions = 0
  for (;;) {
    const header = await readHeader(reader, archive)
    if (header === undefined) {
      if (Object.keys(extension).length > 0) throw truncated(archive, 'a header')
      return
    }
    if (isExtension(header.flag)) {
      if (++extensions > EXTENSIONS_LIMIT)
        throw new ImageError({
          message: `${archive} is damaged: its tar has more than ${EXTENSIONS_LIMIT} headers for one file`,
        })
      extension = { ...extension, ...(await readExtension(reader, header, global, archive)) }
      continue
    }
    const entry = describe(header, global, extension, archive)
    extension = {}
    extensions = 0
    yield* visit(reader, entry, archive)
  }
}

/** Of headers, and of what content is padded to. */
export const BLOCK = 512

/**
 * Whether a tar can begin so: with a header, which in the oldest tars does not say "ustar", or, where nothing is in it,
 * with the zeros that end it.
 * @param start its first 512 bytes, fewer where there are no more
 */
export function mayBeTar(start: Buffer): boolean {
  return isTar(start) || (start.length === BLOCK && (isEnd(start) || checksumFits(start)))
}

/** Of pax records together, in bytes: those of a file with many extended attributes come to some tens of thousands. */
const EXTENSION_LIMIT = 256 * 1024
/** Of pax and GNU headers in front of a file's own: one of each kind. A script could write them for ever. */
const EXTENSIONS_LIMIT = 100
/** Of a name, in characters: Linux has no longer ones (PATH_MAX). */
const NAME_LIMIT = 4096

interface Header {
  readonly name: string
  readonly size: number
  readonly flag: string
  readonly linkName: string
}

type PaxRecords = Map<string, string>

/** What a pax or GNU header in front of an entry says of it. */
interface Extension {
  readonly name?: string
  readonly linkName?: string
  readonly pax?: PaxRecords
}

type EntryDescription = Omit<TarEntry, 'content'>

async function* visit(reader: ByteReader, entry: EntryDescription, archive: string): AsyncGenerator<TarEntry> {
  let unread = entry.size
  yield {
    ...entry,
    async *content() {
      while (unread > 0) {
        const chunk = await reader.next(unread)
        if (chunk.length === 0) throw truncated(archive, entry.name)
        unread -= chunk.length
        yield chunk
      }
    },
  }
  const rest = unread + padding(entry.size)
  if ((await reader.skip(rest)) < rest) throw truncated(archive, entry.name)
}

/** The next header, or nothing at the end, which is a block of zeros or, in a tar that was cut cleanly, no block. */
async function readHeader(reader: ByteReader, archive: string): Promise<Header | undefined> {
  const block = await readExactly(reader, BLOCK)
  if (block.length === 0 || (block.length === BLOCK && isEnd(block))) return undefined
  if (block.length < BLOCK) throw truncated(archive, 'a header')
  if (!checksumFits(block)) throw new ImageError({ message: `${archive} is damaged: a header in its tar is not one` })
  const prefix = text(block, 257, 6) === 'ustar' ? text(block, 345, 155) : ''
  const name = text(block, 0, 100)
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    size: checkedSize(number(block, 124, 12), archive),
    flag: String.fromCharCode(block[156] ?? 0),
    linkName: text(block, 157, 100),
  }
}

function isEnd(block: Buffer): boolean {
  return block.every((byte) => byte === 0)
}

function checksumFits(block: Buffer): boolean {
  let sum = 8 * 0x20
  for (let at = 0; at < BLOCK; at++) if (at < 148 || at >= 156) sum += block[at] ?? 0
  return sum === number(block, 148, 8)
}

function isExtension(flag: string): boolean {
  return 'xgLK'.includes(flag)
}

async function readExtension(
  reader: ByteReader,
  header: Header,
  global: PaxRecords,
  archive: string,
): Promise<Extension> {
  if (header.size > EXTENSION_LIMIT)
    throw new ImageError({ message: `${archive} is damaged: a header of ${header.size} bytes` })
  const content = await readContent(reader, header.size, header.name, archive)
  const rest = padding(header.size)
  if ((await reader.skip(rest)) < rest) throw truncated(archive, 'a header')
  if (header.flag === 'L') return { name: text(content, 0, content.length) }
  if (header.flag === 'K') return { linkName: text(content, 0, content.length) }
  const records = parsePax(content, archive)
  if (header.flag === 'x') return { pax: records }
  for (const [key, value] of records) global.set(key, value)
  return {}
}

const PAX_KEYS = new Set(['path', 'linkpath', 'size'])

/** `<length> <key>=<value>\n`, the length that of the whole record in bytes. */
function parsePax(content: Buffer, archive: string): PaxRecords {
  const records: PaxRecords = new Map()
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(0x20, at)
    const length = Number(content.toString('latin1', at, Math.max(at, space)))
    const record = content.toString('utf8', space + 1, at + length - 1)
    const equals = record.indexOf('=')
    const whole = at + length <= content.length && content[at + length - 1] === 0x0a
    if (space === -1 || !Number.isInteger(length) || length < 5 || equals < 1 || !whole)
      throw new ImageError({ message: `${archive} is damaged: a pax header in its tar can't be read` })
    // Kept are those that are read; a tar can have any number of others.
    const key = record.slice(0, equals)
    if (PAX_KEYS.has(key)) records.set(key, record.slice(equals + 1))
    at += length
  }
  return records
}

function describe(
  header: Header,
  global: PaxRecords,
  { name, linkName, pax }: Extension,
  archive: string,
): EntryDescription {
  const said = (key: string) => pax?.get(key) ?? global.get(key)
  const size = said('size')
  const type = typeOf(header.flag)
  return {
    name: checkedName(said('path') ?? name ?? header.name, archive),
    linkName: checkedName(said('linkpath') ?? linkName ?? header.linkName, archive),
    // Links and folders have no content, whatever size their header names.
    size: type === 'file' || type === 'other' ? (size === undefined ? header.size : sizeOf(size, archive)) : 0,
    type,
  }
}

function checkedName(name: string, archive: string): string {
  if (name.length <= NAME_LIMIT) return name
  throw new ImageError({ message: `${archive} is damaged: a name in its tar has ${name.length} characters` })
}

function sizeOf(text: string, archive: string): number {
  return /^\d+$/.test(text) ? checkedSize(Number(text), archive) : checkedSize(Number.NaN, archive)
}

/** A size that is none would lead the reader back to where it was, for ever. */
function checkedSize(size: number, archive: string): number {
  if (Number.isSafeInteger(size) && size >= 0) return size
  throw new ImageError({ message: `${archive} is damaged: a size in its tar is no number of bytes` })
}

function typeOf(flag: string): TarEntry['type'] {
  if (flag === '0' || flag === '\0' || flag === '7') return 'file'
  if (flag === '1') return 'hard-link'
  if (flag === '2') return 'symbolic-link'
  return flag === '5' ? 'folder' : 'other'
}

async function readContent(reader: ByteReader, size: number, name: string, archive: string): Promise<Buffer> {
  const content = await readExactly(reader, size)
  if (content.length < size) throw truncated(archive, name)
  return content
}

function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK
}

function text(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start)
  return block.toString('utf8', start, end === -1 || end > start + length ? start + length : end)
}

/** Octal digits, or, where the first bit is set, base 256 as GNU tar writes numbers that octal digits can't hold. */
function number(block: Buffer, start: number, length: number): number {
  if ((block[start] ?? 0) & 0x80) {
    let value = (block[start] ?? 0) & 0x7f
    for (let at = start + 1; at < start + length; at++) value = value * 256 + (block[at] ?? 0)
    return value
  }
  return Number.parseInt(
    block
      .toString('latin1', start, start + length)
      .replaceAll('\0', ' ')
      .trim() || '0',
    8,
  )
}

function truncated(archive: string, name: string): ImageError {
  return new ImageError({
    message: `${archive} is damaged: it ends in the middle of ${name}`,
    hint: 'It was cut short when it was written or copied. Remove it from the store (nix store delete) and build again.',
  })
}
