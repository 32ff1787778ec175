import { modulePurl } from '../../../src/sbom/purl.ts'
import { modulesOf } from '../../../src/sbom/scan.ts'
import { parsePathInfo } from '../../../src/sbom/store-info.ts'
import { auditableSection, elfFile, goBuildInfoSection, memoryFile } from '../../sbom/elf-file.ts'
import { type Json, mutateBytes, mutateJson } from '../mutate.ts'
import { check, defineTarget } from '../target.ts'

/** ELF files, which must be read within their bounds. */
export const programs = defineTarget(
  'program',
  (random) => mutateBytes(random, random.oneIn(2) ? PROGRAM : BIG_ENDIAN_PROGRAM),
  async (bytes) => {
    const file = memoryFile(bytes)
    const modules = await modulesOf(file)
    check(file.bytesRead() <= 5 * bytes.length + 64, 'More is read than the file has', file.bytesRead())
    for (const module of modules ?? [])
      check(/^pkg:[a-z]+\/[\x21-\x7e]+$/.test(modulePurl(module)), 'A module has an invalid package URL', module)
  },
)

const SECTIONS = [
  { name: '.text', content: Buffer.alloc(100, 0x90) },
  {
    name: '.go.buildinfo',
    content: goBuildInfoSection('go1.26.1', [
      'mod\texample.com/a\t(devel)\t',
      'dep\tb.io/c\tv1.0.0',
      '=>\t../c\t(devel)\t',
    ]),
  },
  { name: '.dep-v0', content: auditableSection([{ name: 'itoa', version: '1.0.9', source: 'crates.io' }]) },
]
const PROGRAM = elfFile(SECTIONS)
const BIG_ENDIAN_PROGRAM = elfFile(SECTIONS, { bits: 32, littleEndian: false })

/** The output of `nix path-info --json`. */
export const pathInfos = defineTarget(
  'path info',
  (random) => mutateJson(random, random.oneIn(2) ? BY_PATH : NESTED, ['null', '/nix/store'], { most: 10_000 }),
  (json) => {
    for (const { path, narHash } of parsePathInfo(json) ?? [])
      check(path.startsWith('/') && /^sha256-[A-Za-z0-9+/]{43}=$/.test(narHash ?? ''), 'Invalid facts', path)
  },
)

const NAME = `${'0'.repeat(32)}-hello-2.12`
const FACTS: Json = {
  narHash: 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=',
  references: [`/nix/store/${NAME}`],
  deriver: null,
}
const BY_PATH: Json = { [`/nix/store/${NAME}`]: FACTS, [`/nix/store/${'1'.repeat(32)}-gone`]: null }
const NESTED: Json = { version: 2, storeDir: '/nix/store', info: { [NAME]: FACTS } }
