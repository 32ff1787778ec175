import { deflateSync } from 'node:zlib'
import type { RandomAccessFile } from '../../src/sbom/elf.ts'

export interface ElfOptions {
  readonly bits?: 32 | 64
  readonly littleEndian?: boolean
}

/** A section, with the type and flags of data by default. */
export interface SectionContent {
  readonly name: string
  readonly content: Buffer
  readonly type?: number
  readonly flags?: number
}

/**
 * Returns an ELF file: its header, the contents of the sections and their names, and the section headers.
 * https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
 */
export function elfFile(
  sections: readonly SectionContent[],
  { bits = 64, littleEndian = true }: ElfOptions = {},
): Buffer {
  const is64 = bits === 64
  const all = [
    { name: '', content: Buffer.alloc(0), type: 0 },
    ...sections,
    { name: '.shstrtab', content: Buffer.alloc(0), type: 3 },
  ]
  const names = Buffer.from(all.map(({ name }) => `${name}\0`).join(''), 'latin1')
  const contents = all.map((section, at) => ({ ...section, content: at === all.length - 1 ? names : section.content }))
  const [headerSize, entrySize] = is64 ? [64, 64] : [52, 40]
  const starts = contents.map((_, at) =>
    contents.slice(0, at).reduce((end, { content }) => end + content.length, headerSize),
  )
  const tableAt = contents.reduce((end, { content }) => end + content.length, headerSize)
  const write = writer(littleEndian, is64)

  const header = Buffer.alloc(headerSize)
  header.write('\x7fELF', 'latin1')
  header.set([is64 ? 2 : 1, littleEndian ? 1 : 2, 1], 4)
  write.word(header, is64 ? 40 : 32, tableAt)
  const counts = is64 ? 58 : 46
  write.u16(header, counts, entrySize)
  write.u16(header, counts + 2, all.length)
  write.u16(header, counts + 4, all.length - 1)

  const table = contents.map(({ content, type = 1, flags = 0 }, at) => {
    const entry = Buffer.alloc(entrySize)
    const nameAt = all.slice(0, at).reduce((end, { name }) => end + name.length + 1, 0)
    write.u32(entry, 0, nameAt)
    write.u32(entry, 4, type)
    write.word(entry, 8, flags)
    write.word(entry, is64 ? 24 : 16, starts[at] ?? 0)
    write.word(entry, is64 ? 32 : 20, content.length)
    return entry
  })
  return Buffer.concat([header, ...contents.map(({ content }) => content), ...table])
}

function writer(littleEndian: boolean, is64: boolean) {
  const viewOf = (bytes: Buffer) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return {
    u16: (bytes: Buffer, at: number, value: number) => viewOf(bytes).setUint16(at, value, littleEndian),
    u32: (bytes: Buffer, at: number, value: number) => viewOf(bytes).setUint32(at, value, littleEndian),
    word: (bytes: Buffer, at: number, value: number) =>
      is64
        ? viewOf(bytes).setBigUint64(at, BigInt(value), littleEndian)
        : viewOf(bytes).setUint32(at, value, littleEndian),
  }
}

/** Returns the content of `.go.buildinfo`, as the linker of Go 1.18 and later writes it. */
export function goBuildInfoSection(goVersion: string, lines: readonly string[]): Buffer {
  const header = Buffer.alloc(32)
  header.write('\xff Go buildinf:', 'latin1')
  header.set([8, 2], 14)
  const frame = (hex: string) => Buffer.from(hex, 'hex')
  const modules = Buffer.concat([
    frame('3077af0c9274080241e1c107e6d618e6'),
    Buffer.from(lines.map((line) => `${line}\n`).join('')),
    frame('f932433186182072008242104116d8f2'),
  ])
  return Buffer.concat([
    header,
    withLength(Buffer.from(goVersion)),
    withLength(lines.length === 0 ? Buffer.alloc(0) : modules),
  ])
}

/** Returns the content of `.dep-v0`, as cargo-auditable writes it. */
export function auditableSection(packages: readonly object[]): Buffer {
  return deflateSync(JSON.stringify({ packages }))
}

/** Returns bytes after their length as a variable-length integer. */
function withLength(bytes: Buffer): Buffer {
  const length: number[] = []
  let left = bytes.length
  for (; left >= 0x80; left >>>= 7) length.push((left & 0x7f) | 0x80)
  return Buffer.concat([Buffer.from([...length, left]), bytes])
}

/** A file in memory. `bytesRead` counts the bytes that were read. */
export interface MemoryFile extends RandomAccessFile {
  bytesRead(): number
}

export function memoryFile(bytes: Buffer): MemoryFile {
  let count = 0
  return {
    size: bytes.length,
    bytesRead: () => count,
    async read(offset, length) {
      const read = bytes.subarray(offset, offset + length)
      count += read.length
      return read
    },
  }
}
