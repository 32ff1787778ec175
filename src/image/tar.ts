import { ImageError } from '../errors.ts'
import { type ByteReader, readExactly } from './byte-reader.ts'
import { isTar } from './decompress.ts'

/** A member of a tar. */
export interface TarEntry {
  readonly name: string
  readonly type: 'file' | 'hard-link' | 'symbolic-link' | 'folder' | 'other'
  /** The target of a link. */
  readonly linkName: string
  /** In bytes. */
  readonly size: number
  /** Reads the content once, before the next entry is requested. Each chunk is valid until the next one is read. */
  content(): AsyncIterable<Buffer>
}

/**
 * Yields the members of a tar in order. Content is read only if it is requested.
 * Supports ustar, pax and GNU headers: https://www.gnu.org/software/tar/manual/html_node/Standard.html,
 * https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03
 * @param archive the path of the tar, for errors
 * @throws ImageError if the tar is damaged or truncated
 */
export async function* tarEntries(reader: ByteReader, archive: string): AsyncGenerator<TarEntry> {
  const global: PaxRecords = new Map()
  let extension: Extension = {}
  let extensions = 0
  for (;;) {
    const header = await readHeader(reader, archive)
    if (header === undefined) {
      if (Object.keys(extension).length > 0) throw truncatedTar(archive, 'a header')
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
    const entry = entryOf(header, global, extension, archive)
    extension = {}
    extensions = 0
    yield* visitEntry(reader, entry, archive)
  }
}

/** The size of a header, and the unit to which content is padded, in bytes. */
export const BLOCK = 512

/**
 * Reports whether a tar can begin with these bytes: a header, without "ustar" in the oldest format, or the zeros that
 * end an empty tar.
 * @param start the first 512 bytes, fewer if the file is shorter
 */
export function mayBeTar(start: Buffer): boolean {
  return isTar(start) || (start.length === BLOCK && (isEnd(start) || checksumFits(start)))
}

/** The header of an entry, or of an extension that overrides fields of the next one. */
export interface TarHeader {
  readonly name: string
  /** In bytes. Not a number if the field is damaged. */
  readonly size: number
  readonly flag: string
  readonly linkName: string
}

/** @param block 512 bytes */
export function readTarHeader(block: Buffer): TarHeader {
  // GNU's own format has times in place of the prefix.
  const prefix = textField(block, 257, 6) === 'ustar' ? textField(block, 345, 155) : ''
  const name = textField(block, 0, 100)
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    size: numberField(block, 124, 12),
    flag: String.fromCharCode(block[156] ?? 0),
    linkName: textField(block, 157, 100),
  }
}

/** The permissions, owner and time of an entry. Damaged numbers are not a number. */
export interface TarOwnership {
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** In seconds since 1970. */
  readonly mtime: number
  readonly uname: string
  readonly gname: string
}

/** @param block 512 bytes */
export function readOwnership(block: Buffer): TarOwnership {
  return {
    mode: numberField(block, 100, 8),
    uid: numberField(block, 108, 8),
    gid: numberField(block, 116, 8),
    mtime: numberField(block, 136, 12),
    uname: textField(block, 265, 32),
    gname: textField(block, 297, 32),
  }
}

/** Reads a text up to its end or the first NUL. */
export function textField(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start)
  return block.toString('utf8', start, end === -1 || end > start + length ? start + length : end)
}

/** The limit of a file's pax records together, in bytes. Many extended attributes take some tens of thousands. */
const EXTENSION_LIMIT = 256 * 1024
/** The limit of pax and GNU headers before a file's own header. A script could write them forever. */
const EXTENSIONS_LIMIT = 100
/** The limit of a name, in characters: Linux's PATH_MAX. */
const NAME_LIMIT = 4096

type PaxRecords = Map<string, string>

/** The fields that pax and GNU headers before an entry override. */
interface Extension {
  readonly name?: string
  readonly linkName?: string
  readonly pax?: PaxRecords
}

type EntryDescription = Omit<TarEntry, 'content'>

async function* visitEntry(reader: ByteReader, entry: EntryDescription, archive: string): AsyncGenerator<TarEntry> {
  let unread = entry.size
  yield {
    ...entry,
    async *content() {
      while (unread > 0) {
        const chunk = await reader.next(unread)
        if (chunk.length === 0) throw truncatedTar(archive, entry.name)
        unread -= chunk.length
        yield chunk
      }
    },
  }
  const rest = unread + paddingOf(entry.size)
  if ((await reader.skip(rest)) < rest) throw truncatedTar(archive, entry.name)
}

/** Returns undefined at the end: a block of zeros, or no block if the tar was cut between entries. */
async function readHeader(reader: ByteReader, archive: string): Promise<TarHeader | undefined> {
  const block = await readExactly(reader, BLOCK)
  if (block.length === 0 || (block.length === BLOCK && isEnd(block))) return undefined
  if (block.length < BLOCK) throw truncatedTar(archive, 'a header')
  if (!checksumFits(block)) throw new ImageError({ message: `${archive} is damaged: a header in its tar is invalid` })
  const header = readTarHeader(block)
  return { ...header, size: checkedSize(header.size, archive) }
}

function isEnd(block: Buffer): boolean {
  return block.every((byte) => byte === 0)
}

function checksumFits(block: Buffer): boolean {
  let sum = 8 * 0x20
  for (let at = 0; at < BLOCK; at++) if (at < 148 || at >= 156) sum += block[at] ?? 0
  return sum === numberField(block, 148, 8)
}

function isExtension(flag: string): boolean {
  return 'xgLK'.includes(flag)
}

async function readExtension(
  reader: ByteReader,
  header: TarHeader,
  global: PaxRecords,
  archive: string,
): Promise<Extension> {
  if (header.size > EXTENSION_LIMIT)
    throw new ImageError({ message: `${archive} is damaged: a header of ${header.size} bytes` })
  const content = await readContent(reader, header.size, header.name, archive)
  const rest = paddingOf(header.size)
  if ((await reader.skip(rest)) < rest) throw truncatedTar(archive, 'a header')
  if (header.flag === 'L') return { name: textField(content, 0, content.length) }
  if (header.flag === 'K') return { linkName: textField(content, 0, content.length) }
  const records = parsePax(content, archive)
  if (header.flag === 'x') return { pax: records }
  for (const [key, value] of records) global.set(key, value)
  return {}
}

const PAX_KEYS = new Set(['path', 'linkpath', 'size'])

/** Parses `<length> <key>=<value>\n`, with the length of the whole record in bytes. */
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
    // A tar can have any number of other records.
    const key = record.slice(0, equals)
    if (PAX_KEYS.has(key)) records.set(key, record.slice(equals + 1))
    at += length
  }
  return records
}

function entryOf(
  header: TarHeader,
  global: PaxRecords,
  { name, linkName, pax }: Extension,
  archive: string,
): EntryDescription {
  const record = (key: string) => pax?.get(key) ?? global.get(key)
  const size = record('size')
  const type = entryType(header.flag)
  return {
    name: checkedName(record('path') ?? name ?? header.name, archive),
    linkName: checkedName(record('linkpath') ?? linkName ?? header.linkName, archive),
    // Links and folders have no content, even if their header has a size.
    size: type === 'file' || type === 'other' ? (size === undefined ? header.size : parseSize(size, archive)) : 0,
    type,
  }
}

function checkedName(name: string, archive: string): string {
  if (name.length <= NAME_LIMIT) return name
  throw new ImageError({ message: `${archive} is damaged: a name in its tar has ${name.length} characters` })
}

function parseSize(textField: string, archive: string): number {
  return /^\d+$/.test(textField) ? checkedSize(Number(textField), archive) : checkedSize(Number.NaN, archive)
}

/** An invalid size could make the reader return to an earlier position forever. */
function checkedSize(size: number, archive: string): number {
  if (Number.isSafeInteger(size) && size >= 0) return size
  throw new ImageError({ message: `${archive} is damaged: a size in its tar is invalid` })
}

function entryType(flag: string): TarEntry['type'] {
  if (flag === '0' || flag === '\0' || flag === '7') return 'file'
  if (flag === '1') return 'hard-link'
  if (flag === '2') return 'symbolic-link'
  return flag === '5' ? 'folder' : 'other'
}

async function readContent(reader: ByteReader, size: number, name: string, archive: string): Promise<Buffer> {
  const content = await readExactly(reader, size)
  if (content.length < size) throw truncatedTar(archive, name)
  return content
}

function paddingOf(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK
}

/** Parses octal digits, or base 256 if the first bit is set, as GNU tar writes numbers that are too large for the field. */
function numberField(block: Buffer, start: number, length: number): number {
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

function truncatedTar(archive: string, name: string): ImageError {
  return new ImageError({
    message: `${archive} is damaged: it ends in the middle of ${name}`,
    hint: 'It was truncated when it was written or copied. Remove it from the store (nix store delete) and build again.',
  })
}
