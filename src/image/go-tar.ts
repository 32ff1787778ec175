import { posix } from 'node:path'
import { isAscii } from './byte-string.ts'
import { BLOCK } from './tar.ts'

/**
 * A member of a tar as Go's `archive/tar` writes it if no format is chosen.
 * All texts have one character per byte, because the names of files can be any bytes.
 */
export interface GoTarEntry {
  readonly type: 'file' | 'folder' | 'symbolic-link'
  readonly name: string
  /** The target of a link, otherwise empty. */
  readonly linkName: string
  /** The permissions, without the file type. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly userName: string
  readonly groupName: string
  /** In bytes, 0 unless it is a file. */
  readonly size: number
  /** In seconds since 1970. */
  readonly modified: number
}

/**
 * Returns the header of an entry. Like Go, adds a pax header only if a field does not fit into a ustar header, and puts
 * no slash at the end of a folder's name.
 * Source: https://pkg.go.dev/archive/tar, Writer.WriteHeader
 */
export function goTarHeader(entry: GoTarEntry): Buffer {
  const records = paxRecords(entry)
  const split = splitName(entry.name)
  if (records.every(([key]) => key === 'path' && split !== undefined))
    return split === undefined ? ustarHeader(entry, '') : ustarHeader({ ...entry, name: split.rest }, split.prefix)
  const content = Buffer.from(records.map(([key, value]) => paxRecord(key, value)).join(''), 'latin1')
  return Buffer.concat([
    paxHeader(entry.name, content.length),
    content,
    Buffer.alloc(tarPadding(content.length)),
    ustarHeader({ ...entry, name: asciiOf(entry.name), linkName: asciiOf(entry.linkName) }, ''),
  ])
}

/** Returns the number of zeros that fill the last block of content, in bytes. */
export function tarPadding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK
}

/** The end of a tar: two blocks of zeros. Go adds no padding to a record of 10 KiB. */
export const GO_TAR_END: Buffer = Buffer.alloc(2 * BLOCK)

/** The sizes of fields, in bytes: https://www.gnu.org/software/tar/manual/html_node/Standard.html */
const NAME = 100
const USER = 32
const PREFIX = 155
/** The largest numbers that fit into a field, in octal digits and a NUL. */
const ID_LIMIT = 0o7777777
const SIZE_LIMIT = 0o77777777777

/** Returns the fields that don't fit into a ustar header, sorted. A name is listed even if it can be split. */
function paxRecords(entry: GoTarEntry): readonly (readonly [key: string, value: string])[] {
  const records: (readonly [string, string])[] = []
  if (entry.gid > ID_LIMIT) records.push(['gid', String(entry.gid)])
  if (!fitsField(entry.groupName, USER)) records.push(['gname', entry.groupName])
  if (!fitsField(entry.linkName, NAME)) records.push(['linkpath', entry.linkName])
  if (!fitsField(entry.name, NAME)) records.push(['path', entry.name])
  if (entry.size > SIZE_LIMIT) records.push(['size', String(entry.size)])
  if (entry.uid > ID_LIMIT) records.push(['uid', String(entry.uid)])
  if (!fitsField(entry.userName, USER)) records.push(['uname', entry.userName])
  return records
}

function fitsField(text: string, size: number): boolean {
  return text.length <= size && isAscii(text)
}

interface SplitName {
  readonly prefix: string
  readonly rest: string
}

/** Splits a name that is longer than its field at the last slash that the prefix has space for. */
function splitName(name: string): SplitName | undefined {
  if (name.length <= NAME || !isAscii(name)) return undefined
  const at = name.lastIndexOf('/', name.length > PREFIX + 1 ? PREFIX : name.length - 1)
  const rest = name.slice(at + 1)
  if (at <= 0 || rest.length > NAME || rest.length === 0) return undefined
  return { prefix: name.slice(0, at), rest }
}

/** Returns a record that starts with its own length: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`
  const length = rest.length + String(rest.length).length
  // The digits of the length are part of the length.
  return `${rest.length + String(length).length}${rest}`
}

function paxHeader(name: string, size: number): Buffer {
  const block = Buffer.alloc(BLOCK)
  const { dir, base } = posix.parse(name)
  const own = asciiOf(posix.join(dir, 'PaxHeaders.0', base))
  putText(block, 0, NAME, own.slice(0, NAME).replace(/\/+$/, ''))
  putOctal(block, 100, 8, 0)
  putOctal(block, 108, 8, 0)
  putOctal(block, 116, 8, 0)
  putOctal(block, 124, 12, size)
  putOctal(block, 136, 12, 0)
  block[156] = FLAGS.pax
  return finishBlock(block)
}

const FLAGS = { file: 0x30, folder: 0x35, 'symbolic-link': 0x32, pax: 0x78 } as const

function ustarHeader(entry: GoTarEntry, prefix: string): Buffer {
  const block = Buffer.alloc(BLOCK)
  putText(block, 0, NAME, entry.name)
  putOctal(block, 100, 8, entry.mode)
  putOctal(block, 108, 8, entry.uid > ID_LIMIT ? 0 : entry.uid)
  putOctal(block, 116, 8, entry.gid > ID_LIMIT ? 0 : entry.gid)
  putOctal(block, 124, 12, entry.size > SIZE_LIMIT ? 0 : entry.size)
  putOctal(block, 136, 12, entry.modified)
  block[156] = FLAGS[entry.type]
  putText(block, 157, NAME, entry.linkName)
  putText(block, 265, USER, asciiOf(entry.userName))
  putText(block, 297, USER, asciiOf(entry.groupName))
  // The numbers of a device, also for files that are none.
  putOctal(block, 329, 8, 0)
  putOctal(block, 337, 8, 0)
  putText(block, 345, PREFIX, prefix)
  return finishBlock(block)
}

/** Adds the magic and the checksum, which is computed as if its own field were spaces. */
function finishBlock(block: Buffer): Buffer {
  block.write('ustar\0' + '00', 257, 'latin1')
  let sum = 8 * 0x20
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}

/** Writes a text, cut to the field's size. */
function putText(block: Buffer, at: number, size: number, text: string): void {
  // Some readers take a slash at the end for a folder's name.
  const fitting = text.length > size && text[size - 1] === '/' ? cutSlashes(text, size) : text.slice(0, size)
  block.write(fitting, at, size, 'latin1')
}

/** Like Go, replaces the first of the slashes that the cut text ends in. */
function cutSlashes(text: string, size: number): string {
  const start = text.slice(0, size - 1).replace(/\/+$/, '').length
  return `${text.slice(0, start)}\0${text.slice(start + 1, size)}`
}

function putOctal(block: Buffer, at: number, size: number, value: number): void {
  block.write(value.toString(8).padStart(size - 1, '0'), at, size - 1, 'latin1')
}

function asciiOf(text: string): string {
  return text.replace(/[\x80-\xff]/g, '')
}
