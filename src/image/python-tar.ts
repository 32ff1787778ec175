import { ImageError } from '../errors.ts'
import { type ByteString, bytesOf, isAscii } from './byte-string.ts'

/** The attributes that all members of a layer share. */
export interface TarAttributes {
  /** In seconds since 1970. */
  readonly mtime: number
  readonly uid: number
  readonly gid: number
  readonly uname: string
  readonly gname: string
}

/** A member of a layer, without its content. */
export interface LayerMember {
  readonly type: 'file' | 'folder' | 'symbolic-link'
  /** Without a slash at the end. */
  readonly name: ByteString
  /** Other bits than the permissions are ignored. */
  readonly mode: number
  /** In bytes. */
  readonly size: number
  /** The target of a symbolic link, otherwise empty. */
  readonly linkName: ByteString
}

/** The size of a header, and the unit to which content is padded, in bytes. */
export const PYTHON_TAR_BLOCK = 512
/** The unit to which the whole tar is padded, in bytes. */
export const PYTHON_TAR_RECORD = 20 * PYTHON_TAR_BLOCK

/**
 * Returns a function that encodes a member's headers in the bytes that Python's `tarfile` writes in its default format:
 * a ustar header, after a pax header if ustar can't express a field. All versions since Python 3.9 write the same bytes.
 * Python 3.8 differs: it writes zeros instead of NULs as the device numbers.
 * https://docs.python.org/3/library/tarfile.html#tarfile.PAX_FORMAT
 * @throws ImageError if an attribute has a value that Python refuses, or that JavaScript can't represent
 */
export function createHeaderEncoder(attributes: TarAttributes): (member: LayerMember) => Buffer {
  const { mtime, uid, gid } = attributes
  assertValid({ mtime, uid, gid, uname: attributes.uname, gname: attributes.gname })
  const uname = bytesOf(attributes.uname)
  const gname = bytesOf(attributes.gname)
  const owner = textRecord('uname', uname, 32) + textRecord('gname', gname, 32)
  const ids = numberRecord('uid', uid, 8) + numberRecord('gid', gid, 8)
  const time = numberRecord('mtime', mtime, 12)
  const shared = {
    owner: octal(uid, 8) + octal(gid, 8),
    mtime: octal(mtime, 12),
    names: asciiField(uname, 32) + asciiField(gname, 32),
  }

  return (member) => {
    const name = member.type === 'folder' ? `${member.name}/` : member.name
    const { linkName, size } = member
    const texts = textRecord('path', name, 100) + textRecord('linkpath', linkName, 100)
    const records = texts + owner + ids + numberRecord('size', size, 12) + time
    const header = encodeHeader({
      ...shared,
      name,
      mode: member.mode & 0o7777,
      size,
      flag: FLAGS[member.type],
      linkName,
    })
    if (records === '') return header
    return encodePax(isUtf8(texts) ? records : `21 hdrcharset=BINARY\n${records}`, header)
  }
}

function assertValid(attributes: TarAttributes): void {
  for (const [key, value] of Object.entries(attributes))
    if (typeof value === 'string' ? !value.isWellFormed() : !Number.isSafeInteger(value))
      throw new ImageError({ message: `The ${key} of an image's layers is invalid: ${JSON.stringify(value)}` })
}

/**
 * Returns a key that sorts as Python sorts a file name: by code points, with each byte that is not part of valid UTF-8
 * as a code point from U+DC80 to U+DCFF. https://peps.python.org/pep-0383/
 */
export function pythonSortKey(name: ByteString): string {
  // UTF-8 sorts like its code points, also if it is extended to surrogates.
  return name.replace(NON_ASCII, (sequence) => {
    if (sequence.length > 1) return sequence
    const byte = sequence.charCodeAt(0)
    return `\xed${String.fromCharCode(0xb0 | (byte >> 6), 0x80 | (byte & 0x3f))}`
  })
}

/** Matches a multi-byte sequence of valid UTF-8, or else one byte: https://www.rfc-editor.org/rfc/rfc3629#section-4 */
const NON_ASCII = new RegExp(
  [
    String.raw`[\xc2-\xdf][\x80-\xbf]`,
    String.raw`\xe0[\xa0-\xbf][\x80-\xbf]`,
    String.raw`[\xe1-\xec\xee\xef][\x80-\xbf]{2}`,
    String.raw`\xed[\x80-\x9f][\x80-\xbf]`,
    String.raw`\xf0[\x90-\xbf][\x80-\xbf]{2}`,
    String.raw`[\xf1-\xf3][\x80-\xbf]{3}`,
    String.raw`\xf4[\x80-\x8f][\x80-\xbf]{2}`,
    String.raw`[\x80-\xff]`,
  ].join('|'),
  'g',
)

const FLAGS = { file: '0', 'symbolic-link': '2', folder: '5' } as const

function isUtf8(bytes: ByteString): boolean {
  return pythonSortKey(bytes) === bytes
}

interface HeaderFields {
  readonly name: ByteString
  readonly mode: number
  /** The user and group ID. */
  readonly owner: string
  readonly size: number
  readonly mtime: string
  readonly flag: string
  readonly linkName: ByteString
  /** The names of the user and the group. */
  readonly names: string
}

function encodeHeader({ name, mode, owner, size, mtime, flag, linkName, names }: HeaderFields): Buffer {
  const start = asciiField(name, 100) + octal(mode, 8) + owner + octal(size, 12) + mtime
  const end = `${flag}${asciiField(linkName, 100)}ustar\x0000${names}`
  const header = Buffer.alloc(PYTHON_TAR_BLOCK)
  header.write(`${start}        ${end}`, 'latin1')
  let sum = 0
  for (const byte of header) sum += byte
  header.write(`${sum.toString(8).padStart(6, '0')}\0`, start.length, 'latin1')
  return header
}

function encodePax(records: ByteString, header: Buffer): Buffer {
  const size = records.length
  const pax = encodeHeader({
    name: '././@PaxHeader',
    mode: 0,
    owner: octal(0, 8) + octal(0, 8),
    size,
    mtime: octal(0, 12),
    flag: 'x',
    linkName: '',
    names: '\0'.repeat(64),
  })
  const content = Buffer.alloc(Math.ceil(size / PYTHON_TAR_BLOCK) * PYTHON_TAR_BLOCK)
  content.write(records, 'latin1')
  return Buffer.concat([pax, content, header])
}

function textRecord(key: string, value: ByteString, limit: number): ByteString {
  return value.length > limit || !isAscii(value) ? paxRecord(key, value) : ''
}

function numberRecord(key: string, value: number, digits: number): ByteString {
  return fitsField(value, digits) ? '' : paxRecord(key, String(value))
}

/** Formats a pax record, which begins with its own length. */
function paxRecord(key: string, value: ByteString): ByteString {
  const record = ` ${key}=${value}\n`
  let length = record.length
  while (length !== record.length + String(length).length) length = record.length + String(length).length
  return `${length}${record}`
}

/** Returns a text as a field of that length, with a question mark for each character that is not ASCII. */
function asciiField(bytes: ByteString, length: number): string {
  const text = isAscii(bytes) ? bytes : bytes.replace(NON_ASCII, '?')
  return text.slice(0, length).padEnd(length, '\0')
}

/** Returns a number as a field of that length, or zero if it does not fit. */
function octal(value: number, length: number): string {
  return `${(fitsField(value, length) ? value : 0).toString(8).padStart(length - 1, '0')}\0`
}

function fitsField(value: number, digits: number): boolean {
  return value >= 0 && value < 8 ** (digits - 1)
}
