import { type ElfSection, type RandomAccessFile, readElfSection } from './elf.ts'
import type { BinaryModule } from './purl.ts'

/**
 * Returns the modules that a Go program was built from, the standard library included. Stripping a program keeps them.
 * Supports Go 1.18 and later.
 * Format: https://github.com/golang/go/blob/master/src/debug/buildinfo/buildinfo.go
 * @returns undefined if the file is not such a program
 */
export async function goModulesIn(
  file: RandomAccessFile,
  sections: readonly ElfSection[],
): Promise<readonly BinaryModule[] | undefined> {
  const section = await readElfSection(file, sections, '.go.buildinfo', BUILD_INFO_LIMIT)
  const info = section && goBuildInfo(section)
  return info && [...standardLibrary(info.goVersion), ...parseGoModules(info.modules)]
}

/** In bytes. That of a program with 1000 modules has about 100 kB. */
const BUILD_INFO_LIMIT = 4 * 1024 * 1024

const GO_MAGIC = Buffer.from('\xff Go buildinf:', 'latin1')
const GO_HEADER_SIZE = 32
const GO_ALIGNMENT = 16
const FLAGS_AT = 15
/** Set if the strings follow the header. Before Go 1.18, the header has pointers to them. */
const INLINE_FLAG = 2

interface GoBuildInfo {
  /** Such as `go1.26.1`. */
  readonly goVersion: string
  /** One line per module. */
  readonly modules: string
}

function goBuildInfo(section: Buffer): GoBuildInfo | undefined {
  const start = findAligned(section, GO_MAGIC)
  if (start === undefined || start + GO_HEADER_SIZE > section.length) return undefined
  if (((section[start + FLAGS_AT] ?? 0) & INLINE_FLAG) === 0) return undefined
  const version = prefixedText(section, start + GO_HEADER_SIZE)
  const framed = version && prefixedText(section, version.end)
  if (framed === undefined || version === undefined) return undefined
  return { goVersion: version.text.toString('utf8'), modules: withoutFrame(framed.text).toString('utf8') }
}

function findAligned(bytes: Buffer, magic: Buffer): number | undefined {
  let at = bytes.indexOf(magic)
  while (at !== -1 && at % GO_ALIGNMENT !== 0) at = bytes.indexOf(magic, at + 1)
  return at === -1 ? undefined : at
}

/** Reads a text after its length, which is a variable-length integer of seven bits per byte, lowest first. */
function prefixedText(bytes: Buffer, start: number): { readonly text: Buffer; readonly end: number } | undefined {
  let length = 0
  // Lengths of up to 28 bits, which is more than the limit of a section.
  for (let at = start; at < start + 4; at++) {
    const byte = bytes[at]
    if (byte === undefined) return undefined
    length += (byte & 0x7f) * 2 ** (7 * (at - start))
    if (byte >= 0x80) continue
    const end = at + 1 + length
    return end > bytes.length ? undefined : { text: bytes.subarray(at + 1, end), end }
  }
  return undefined
}

const FRAME_SIZE = 16

/** Removes the random bytes around the list of modules. A program that was built without modules has no list. */
function withoutFrame(text: Buffer): Buffer {
  const framed = text.length > 2 * FRAME_SIZE && text[text.length - FRAME_SIZE - 1] === 0x0a
  return framed ? text.subarray(FRAME_SIZE, -FRAME_SIZE) : Buffer.alloc(0)
}

/** The standard library has the version of the compiler, without the names of experiments. */
function standardLibrary(goVersion: string): readonly BinaryModule[] {
  const [, version] = /^go(\d+\.\d+(?:\.\d+)?(?:rc\d+|beta\d+)?)(?=[\s-]|$)/.exec(goVersion) ?? []
  return version === undefined ? [] : [{ type: 'golang', name: 'stdlib', version }]
}

/** The most modules of a program that are listed. */
const MODULES_LIMIT = 20_000

/**
 * Parses the lines that `go version -m` prints. A replaced module counts as the one that replaces it; if that is a
 * folder, as itself without a version.
 */
function parseGoModules(text: string): readonly BinaryModule[] {
  const modules: BinaryModule[] = []
  const lines = text.split('\n').map((line) => line.split('\t'))
  for (const [at, [kind, path = '', version = '']] of lines.entries()) {
    if ((kind !== 'mod' && kind !== 'dep') || !MODULE_PATH.test(path)) continue
    if (modules.length === MODULES_LIMIT) break
    const [next, byPath = '', byVersion = ''] = lines[at + 1] ?? []
    modules.push(next === '=>' ? replacement(path, byPath, byVersion) : goModule(path, version))
  }
  return modules
}

/** https://go.dev/ref/mod#go-mod-file-ident */
const MODULE_PATH = /^[A-Za-z0-9_~][A-Za-z0-9._~+-]*(?:\/[A-Za-z0-9._~+-]+)*$/
/** A program's own module has the version `(devel)` unless it was built from a tagged commit. */
const GO_VERSION = /^v\d[A-Za-z0-9.+-]{0,199}$/

function goModule(name: string, version: string): BinaryModule {
  return { type: 'golang', name, ...(GO_VERSION.test(version) && { version }) }
}

function replacement(replaced: string, path: string, version: string): BinaryModule {
  return GO_VERSION.test(version) && MODULE_PATH.test(path) ? goModule(path, version) : goModule(replaced, '')
}
