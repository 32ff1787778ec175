import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { modulePurl } from '../../src/sbom/purl.ts'
import { modulesOf } from '../../src/sbom/scan.ts'
import { auditableSection, type ElfOptions, elfFile, goBuildInfoSection, memoryFile } from './elf-file.ts'

const GO_LINES = [
  'path\texample.com/hello/cmd/hello',
  'mod\texample.com/hello\t(devel)\t',
  'dep\tgithub.com/BurntSushi/toml\tv1.3.2\th1:o7IhLm0Msx3BaB+n3Ag7L8EVlByGnpq14C4YWiu/gL8=',
  'dep\tgithub.com/Azure/go-autorest\tv14.2.0+incompatible\th1:V5VMDjClD3GiElqLWO7mz2MxNAK/vTfRHdAubSIPRgs=',
  'dep\texample.com/forked\tv1.0.0',
  '=>\texample.com/fork\tv1.0.1\th1:abc=',
  'dep\texample.com/local\tv1.2.3',
  '=>\t../local\t(devel)\t',
  'build\t-compiler=gc',
]
const GO = { name: '.go.buildinfo', content: goBuildInfoSection('go1.26.1', GO_LINES) }
const GO_PURLS = [
  'pkg:golang/example.com/fork@v1.0.1',
  'pkg:golang/example.com/hello',
  'pkg:golang/example.com/local',
  'pkg:golang/github.com/azure/go-autorest@v14.2.0%2Bincompatible',
  'pkg:golang/github.com/burntsushi/toml@v1.3.2',
  'pkg:golang/stdlib@1.26.1',
]
const CRATES = [
  { name: 'cc', version: '1.0.83', source: 'crates.io', kind: 'build' },
  { name: 'itoa', version: '1.0.9', source: 'crates.io' },
  { name: 'ring', version: '0.17.0+patched', source: 'git', dependencies: [1] },
  { name: 'hello', version: '0.1.0', source: 'local', root: true, dependencies: [1, 2] },
]
const RUST = { name: '.dep-v0', content: auditableSection(CRATES) }
const RUST_PURLS = ['pkg:cargo/hello@0.1.0', 'pkg:cargo/itoa@1.0.9', 'pkg:cargo/ring@0.17.0%2Bpatched']
const TEXT = { name: '.text', content: Buffer.alloc(100_000, 0x90) }

const FORMATS: readonly ElfOptions[] = [
  { bits: 64, littleEndian: true },
  { bits: 64, littleEndian: false },
  { bits: 32, littleEndian: true },
  { bits: 32, littleEndian: false },
]

async function purlsIn(bytes: Buffer): Promise<readonly string[] | undefined> {
  return (await modulesOf(memoryFile(bytes)))?.map(modulePurl).toSorted()
}

describe.each(FORMATS)('an ELF file of $bits bits, little-endian: $littleEndian', (format) => {
  test('has the modules of a Go program, with the standard library and replaced modules', async () => {
    expect(await purlsIn(elfFile([TEXT, GO], format))).toEqual(GO_PURLS)
  })

  test('has the crates of a Rust program, without those that only the build used', async () => {
    expect(await purlsIn(elfFile([TEXT, RUST], format))).toEqual(RUST_PURLS)
  })

  test('can be both', async () => {
    expect(await purlsIn(elfFile([GO, TEXT, RUST], format))).toEqual([...RUST_PURLS, ...GO_PURLS])
  })

  test('that is neither has no modules', async () => {
    expect(await purlsIn(elfFile([TEXT], format))).toBeUndefined()
  })
})

test('reads only the headers and the sections with modules', async () => {
  const code = { name: '.text', content: Buffer.alloc(10_000_000) }
  const file = memoryFile(elfFile([code, GO, RUST]))
  await modulesOf(file)
  expect(file.bytesRead()).toBeLessThan(3000)
})

describe('a Go program', () => {
  const purlsOf = (goVersion: string, lines: readonly string[]) =>
    purlsIn(elfFile([{ name: '.go.buildinfo', content: goBuildInfoSection(goVersion, lines) }]))

  test.each([
    ['go1.18', '1.18'],
    ['go1.22.1 X:nocoverageredesign', '1.22.1'],
    ['go1.26rc2', '1.26rc2'],
  ])('built with %s has the standard library %s', async (goVersion, version) => {
    expect(await purlsOf(goVersion, [])).toEqual([`pkg:golang/stdlib@${version}`])
  })

  test('built with a compiler without a release has no standard library', async () => {
    expect(await purlsOf('devel go1.27-2b2a4a1 Thu', GO_LINES)).toEqual(GO_PURLS.filter((one) => !/stdlib/.test(one)))
  })

  test('with more than 127 bytes of modules is read completely', async () => {
    const lines = Array.from({ length: 3000 }, (_, at) => `dep\texample.com/m${at}\tv1.0.${at}`)
    expect(await purlsOf('go1.26.1', lines)).toHaveLength(3001)
  })

  test('with lines of another form keeps the others', async () => {
    const lines = [
      'dep',
      'dep\t\tv1',
      'dep\t../up\tv1.0.0',
      'dep\ta b\tv1.0.0',
      '=>\texample.com/x\tv1.0.0',
      'dep\tok.io/a\tv1',
    ]
    expect(await purlsOf('go1.26.1', lines)).toEqual(['pkg:golang/ok.io/a@v1', 'pkg:golang/stdlib@1.26.1'])
  })

  test('before Go 1.18, which has pointers instead of texts, has no modules', async () => {
    const old = Buffer.from(GO.content)
    old[15] = 0
    expect(await purlsIn(elfFile([{ ...GO, content: old }]))).toBeUndefined()
  })

  test('has the build information at a multiple of 16 bytes', async () => {
    const shifted = (by: number) => ({ ...GO, content: Buffer.concat([Buffer.alloc(by), GO.content]) })
    expect(await purlsIn(elfFile([shifted(32)]))).toEqual(GO_PURLS)
    expect(await purlsIn(elfFile([shifted(8)]))).toBeUndefined()
  })
})

describe('hostile files have no modules:', () => {
  const huge = Buffer.from(GO.content)
  huge.set([0xff, 0xff, 0xff, 0x7f], 32)
  const endless = Buffer.concat([GO.content.subarray(0, 32), Buffer.alloc(50, 0xff)])

  test.each([
    ['an empty file', Buffer.alloc(0)],
    ['the magic number alone', Buffer.from('\x7fELF')],
    ['a script', Buffer.from('#!/bin/sh\necho hello\n')],
    ['a section that takes no space in the file', elfFile([{ ...GO, type: 8 }])],
    ['a compressed section', elfFile([{ ...RUST, flags: 0x800 }])],
    ['a text longer than the section', elfFile([{ ...GO, content: huge }])],
    ['a length without end', elfFile([{ ...GO, content: endless }])],
    ['build information of 5 MB', elfFile([{ ...GO, content: Buffer.concat([GO.content, Buffer.alloc(5_000_000)]) }])],
    ['crates that are not compressed', elfFile([{ ...RUST, content: Buffer.from('{"packages":[]}') }])],
    [
      'a list of crates that expands to 20 MB',
      elfFile([{ ...RUST, content: auditableSection([{ name: 'itoa', version: '1.0.9', padding: 'x'.repeat(2e7) }]) }]),
    ],
    ['crates in another form', elfFile([{ ...RUST, content: auditableSection([{ name: '../x', version: '1.0.0' }]) }])],
  ])('%s', async (_, bytes) => {
    expect(await purlsIn(bytes)).toBeUndefined()
  })

  test('a program that ends early', async () => {
    const whole = elfFile([GO, RUST])
    for (let length = 0; length < whole.length; length++)
      expect(await modulesOf(memoryFile(whole.subarray(0, length)))).toBeUndefined()
  })

  test.each([
    ['the position of the section headers', 40, 8],
    ['the size of a section header', 58, 2],
    ['the number of section headers', 60, 2],
    ['the index of the names', 62, 2],
  ])('%s is out of range', async (_, at, size) => {
    for (const value of [0xff, 0x7f, 0x20]) {
      const bytes = elfFile([GO])
      bytes.fill(value, at, at + size)
      expect(await purlsIn(bytes)).toBeUndefined()
    }
  })

  test.each([
    [64, 58],
    [32, 46],
  ] as const)('section headers of 64 KiB in a file of %s bits, of which only the header is read', async (bits, at) => {
    const bytes = elfFile([GO], { bits })
    bytes.writeUInt16LE(0xffff, at)
    const file = memoryFile(bytes)
    expect(await modulesOf({ ...file, size: 1e9 })).toBeUndefined()
    expect(file.bytesRead()).toBe(64)
  })

  test('a file with any bytes changed is read within its bounds', async () => {
    const whole = elfFile([GO, RUST], { bits: 32, littleEndian: false })
    const change = fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 }))
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 8 }), async (changes) => {
        const bytes = Buffer.from(whole)
        for (const [at, value] of changes) bytes[at] = value
        const file = memoryFile(bytes)
        const read = async (offset: number, length: number) => {
          expect(offset + length <= bytes.length || offset === 0).toBe(true)
          return file.read(offset, length)
        }
        await modulesOf({ size: bytes.length, read })
      }),
      { numRuns: 500 },
    )
  })
})
