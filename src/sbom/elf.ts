/** Reads bytes of a file. Returns fewer than `length` bytes only at the end of the file. */
export type ReadAt = (offset: number, length: number) => Promise<Buffer>

/** A file whose ranges are read on demand. */
export interface RandomAccessFile {
  /** In bytes. */
  readonly size: number
  readonly read: ReadAt
}

/** A section of an ELF file that has content, all of which is within the file. */
export interface ElfSection {
  readonly name: string
  readonly offset: number
  /** In bytes. */
  readonly size: number
}

/** Every ELF file begins with these bytes. */
export const ELF_MAGIC = Buffer.from('\x7fELF', 'latin1')

/**
 * Returns the sections of an ELF file, of 32 or 64 bits and either byte order. Reads only the headers.
 * https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
 * @returns undefined if the file is not ELF, or its section headers are missing, damaged or unusually large
 */
export async function readElfSections(file: RandomAccessFile): Promise<readonly ElfSection[] | undefined> {
  const layout = layoutOf(await file.read(0, FILE_HEADER_SIZE))
  if (layout === undefined) return undefined
  const { tableOffset, entrySize, count, namesIndex } = layout
  if (!isWithinFile(file, tableOffset, entrySize * count)) return undefined
  const table = await file.read(tableOffset, entrySize * count)
  if (table.length < entrySize * count) return undefined
  const headers = Array.from({ length: count }, (_, at) =>
    sectionHeader(table.subarray(at * entrySize, (at + 1) * entrySize), layout),
  )
  const names = headers[namesIndex]
  if (names === undefined || names.size > NAMES_LIMIT || !isWithinFile(file, names.offset, names.size)) return undefined
  const nameTable = await file.read(names.offset, names.size)
  return headers
    .filter(({ type, flags, offset, size }) => hasContent(type, flags) && isWithinFile(file, offset, size))
    .map(({ nameAt, offset, size }) => ({ name: nameIn(nameTable, nameAt), offset, size }))
}

/**
 * Returns the content of a section.
 * @param limit in bytes
 * @returns undefined if no section has the name, or it is larger than `limit`
 */
export async function readElfSection(
  file: RandomAccessFile,
  sections: readonly ElfSection[],
  name: string,
  limit: number,
): Promise<Buffer | undefined> {
  const section = sections.find((one) => one.name === name)
  if (section === undefined || section.size > limit) return undefined
  const content = await file.read(section.offset, section.size)
  return content.length === section.size ? content : undefined
}

/** The header of a 64-bit file. That of a 32-bit file has 52 bytes. */
const FILE_HEADER_SIZE = 64

/** Executables have some dozens of sections. Larger counts, which the format stores elsewhere, are not supported. */
const SECTIONS_LIMIT = 10_000

/** In bytes. The names of the sections of an executable take some hundred bytes. */
const NAMES_LIMIT = 1024 * 1024

interface ElfLayout {
  readonly is64: boolean
  readonly littleEndian: boolean
  /** Of the section headers. */
  readonly tableOffset: number
  readonly entrySize: number
  readonly count: number
  /** The index of the section that has the names of the sections. */
  readonly namesIndex: number
}

function layoutOf(header: Buffer): ElfLayout | undefined {
  if (!header.subarray(0, 4).equals(ELF_MAGIC)) return undefined
  const [bits, order] = [header[4], header[5]]
  if ((bits !== 1 && bits !== 2) || (order !== 1 && order !== 2)) return undefined
  const is64 = bits === 2
  const littleEndian = order === 1
  if (header.length < (is64 ? 64 : 52)) return undefined
  const fields = fieldsOf(header, littleEndian)
  const [tableOffset, at] = is64 ? [fields.u64(40), 58] : [fields.u32(32), 46]
  const [entrySize, count, namesIndex] = [fields.u16(at), fields.u16(at + 2), fields.u16(at + 4)]
  // A larger size would only make the table larger: 10,000 headers of 64 KiB take 655 MB.
  if (entrySize !== (is64 ? 64 : 40) || count === 0 || count > SECTIONS_LIMIT) return undefined
  return { is64, littleEndian, tableOffset, entrySize, count, namesIndex }
}

interface SectionHeader {
  /** The position of the name in the table of names. */
  readonly nameAt: number
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly size: number
}

function sectionHeader(entry: Buffer, { is64, littleEndian }: ElfLayout): SectionHeader {
  const { u32, u64 } = fieldsOf(entry, littleEndian)
  const [nameAt, type] = [u32(0), u32(4)]
  return is64
    ? { nameAt, type, flags: u64(8), offset: u64(24), size: u64(32) }
    : { nameAt, type, flags: u32(8), offset: u32(16), size: u32(20) }
}

const NULL_SECTION = 0
/** A section that takes no space in the file. */
const NOBITS = 8
const COMPRESSED_FLAG = 0x800

function hasContent(type: number, flags: number): boolean {
  // Flags above 32 bits are for processors.
  return type !== NULL_SECTION && type !== NOBITS && ((flags % 2 ** 32) & COMPRESSED_FLAG) === 0
}

/** Returns whether a range is in the file. Also false for numbers that JavaScript can't represent exactly. */
function isWithinFile(file: RandomAccessFile, offset: number, size: number): boolean {
  return offset <= file.size && size <= file.size - offset
}

function nameIn(names: Buffer, start: number): string {
  const end = names.indexOf(0, start)
  return names.toString('latin1', start, end === -1 ? start : end)
}

function fieldsOf(bytes: Buffer, littleEndian: boolean) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return {
    u16: (at: number) => view.getUint16(at, littleEndian),
    u32: (at: number) => view.getUint32(at, littleEndian),
    u64: (at: number) => Number(view.getBigUint64(at, littleEndian)),
  }
}
