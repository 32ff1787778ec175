import { buffer } from 'node:stream/consumers'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { streamReader } from '../../src/image/byte-reader.ts'
import { observeTar } from '../../src/image/observe-tar.ts'
import { tarEntries } from '../../src/image/tar.ts'
import { type TarMember, writeTar } from '../support/image.ts'

async function* pieces(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
  let at = 0
  for (let piece = 0; at < bytes.length; piece++) {
    const size = sizes[piece % sizes.length] ?? 1
    yield bytes.subarray(at, at + size)
    at += size
  }
}

interface Observed {
  readonly name: string
  readonly start: string | undefined
}

/** Returns the observed entries. Fails if a byte is lost or changed. */
async function observeEntries(
  bytes: Buffer,
  sizes: readonly number[] = [bytes.length || 1],
): Promise<readonly Observed[]> {
  const entries: Observed[] = []
  const onEntry = (name: string, start?: Buffer) => void entries.push({ name, start: start?.toString('latin1') })
  const passed = await buffer(observeTar(pieces(bytes, sizes), onEntry))
  expect(passed.equals(bytes)).toBe(true)
  return entries
}

async function observe(bytes: Buffer, sizes?: readonly number[]): Promise<readonly string[]> {
  return (await observeEntries(bytes, sizes)).map(({ name }) => name)
}

/** Returns the entries as the reader of archives reads them, with a block of the content of each file. */
async function entriesOf(bytes: Buffer): Promise<readonly Observed[]> {
  const entries: Observed[] = []
  for await (const { name, content } of tarEntries(streamReader(pieces(bytes, [bytes.length])), 'layer.tar')) {
    const start = (await buffer(content())).toString('latin1').slice(0, 512)
    entries.push({ name, start: start === '' ? '' : start.padEnd(512, '\0') })
  }
  return entries
}

/** The folder of a store path that does not fit into the 100 bytes of a header. */
const LONG = `nix/store/${'a'.repeat(32)}-${'long-name-'.repeat(12)}1.0`

/** Content that looks like a tar. */
const NESTED = writeTar([{ name: 'nix/store/nested', content: 'content' }])

const MEMBERS: readonly (readonly [string, TarMember])[] = [
  ['a file', { name: 'file', content: 'content' }],
  ['a file that is a tar', { name: 'layer.tar', content: NESTED }],
  ['a folder', { name: 'folder/', type: 'folder' }],
  ['a link whose header has a size', { name: 'link', type: 'symbolic-link', alter: withSize }],
  ['a folder whose header has a size', { name: 'folder/', type: 'folder', alter: withSize }],
  ['a name in ustar’s two fields', { name: `${'folder/'.repeat(20)}${'n'.repeat(90)}`, content: NESTED }],
  ['a long name in a pax header', { name: `${LONG}/bin/app`, content: NESTED, header: 'pax' }],
  ['a long name in a GNU header', { name: `${LONG}/bin/app`, content: NESTED, header: 'gnu' }],
  ['a size only in a pax header', { name: 'file', content: NESTED, header: 'pax' }],
  ['a size in base 256', { name: 'large', content: NESTED, base256: true }],
  ['a name beyond ASCII', { name: 'ünï/çødé/名前', content: 'n', header: 'pax' }],
  ['a long link', { name: 'soft', type: 'symbolic-link', linkName: `/${LONG}`, header: 'gnu' }],
  ['GNU’s times in place of ustar’s prefix', { name: 'file', content: 't', alter: writeGnuTimes }],
]

function withSize(header: Buffer): void {
  header.write('00000002000\0', 124)
}

function writeGnuTimes(header: Buffer): void {
  header.write('ustar  \0', 257)
  header.write('14700000000\0', 345)
}

describe('the entries of a tar are reported, and its bytes unchanged', () => {
  test.each(MEMBERS)('%s', async (_, member) => {
    const bytes = writeTar([member, { name: 'next', content: 'after' }])
    for (const sizes of [[bytes.length], [1], [511, 2], [512], [1000]])
      expect(await observe(bytes, sizes)).toEqual([member.name, 'next'])
  })

  test('a size of 8 GiB or more in base 256', async () => {
    const bytes = writeTar([{ name: 'huge', alter: (header) => void header.writeUIntBE(2 ** 33, 130, 6) }])
    bytes[124] = 0x80
    // All that follows is content of the huge file.
    expect(await observe(Buffer.concat([bytes.subarray(0, 512), NESTED]))).toEqual(['huge'])
  })

  test('any tree in chunks of any size', async () => {
    const name = fc.stringMatching(/^[a-z0-9._-]{1,60}$/)
    const path = fc.array(name, { minLength: 1, maxLength: 6 }).map((parts) => parts.join('/'))
    const member = fc.record(
      {
        name: path,
        content: fc.oneof(fc.constant(NESTED), fc.uint8Array({ maxLength: 2000 }).map(Buffer.from)),
        header: fc.constantFrom('pax' as const, 'gnu' as const),
        base256: fc.boolean(),
      },
      { requiredKeys: ['name', 'header'] },
    )
    const sizes = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(fc.array(member, { maxLength: 8 }), sizes, async (members, chunks) => {
        const bytes = writeTar(members)
        expect(await observeEntries(bytes, chunks)).toEqual(await entriesOf(bytes))
      }),
    )
  })

  test('hard links and sparse files without the start of their content, which is elsewhere', async () => {
    const bytes = writeTar([
      { name: 'file', content: 'content' },
      { name: 'link', type: 'hard-link', linkName: 'file' },
      { name: 'GNUSparseFile.0/sparse', content: NESTED, header: 'pax', pax: { 'GNU.sparse.name': 'sparse' } },
      { name: 'next', content: 'content' },
    ])
    expect(await observeEntries(bytes)).toEqual([
      { name: 'file', start: 'content'.padEnd(512, '\0') },
      { name: 'link', start: undefined },
      { name: 'sparse', start: undefined },
      { name: 'next', start: 'content'.padEnd(512, '\0') },
    ])
  })

  test('content that is not a tar, and a truncated tar', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 3000 }), fc.nat(NESTED.length), async (noise, length) => {
        await observe(Buffer.from(noise))
        await observe(Buffer.concat([NESTED.subarray(0, length), noise]))
      }),
    )
  })

  test('data after the end of the tar is not an entry', async () => {
    expect(await observe(Buffer.concat([writeTar([{ name: 'one' }]), NESTED]))).toEqual(['one'])
  })
})
