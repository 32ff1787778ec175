import { text } from 'node:stream/consumers'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { ImageError } from '../../src/errors.ts'
import { type ByteReader, streamReader } from '../../src/image/byte-reader.ts'
import { tarEntries } from '../../src/image/tar.ts'
import { memberBounds, type TarMember, writeTar } from '../support/image.ts'

interface Read {
  readonly name: string
  readonly type: string
  readonly linkName: string
  readonly content: string
}

/** Reads all members with their content, from chunks of `chunk` bytes. */
async function read(bytes: Buffer, chunk = bytes.length): Promise<readonly Read[]> {
  return readFrom(streamReader(pieces(bytes, chunk)))
}

async function readFrom(reader: ByteReader): Promise<readonly Read[]> {
  const all: Read[] = []
  for await (const entry of tarEntries(reader, 'image.tar')) {
    const content = await text(entry.content())
    all.push({ name: entry.name, type: entry.type, linkName: entry.linkName, content })
  }
  return all
}

/** Reads the members' names and skips their content. */
async function namesFrom(reader: ByteReader): Promise<readonly string[]> {
  const names: string[] = []
  for await (const { name } of tarEntries(reader, 'image.tar')) names.push(name)
  return names
}

async function* pieces(bytes: Buffer, chunk: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk)
}

/** Reads like a file, in which skipping moves the position. Fails if the position moves in circles. */
function seekingReader(bytes: Buffer): ByteReader {
  let position = 0
  let steps = 0
  const step = (): void => {
    if (++steps > 1000) throw new Error('the tar is read in circles')
  }
  return {
    async next(most) {
      step()
      const taken = bytes.subarray(position, position + most)
      position += taken.length
      return taken
    },
    async skip(length) {
      step()
      const skipped = Math.min(length, Math.max(0, bytes.length - position))
      position += skipped
      return skipped
    },
    close: async () => undefined,
  }
}

const long = `${'folder/'.repeat(20)}${'n'.repeat(90)}`

const MEMBERS: readonly (readonly [string, TarMember])[] = [
  ['a file', { name: 'file', content: 'content' }],
  ['an empty file', { name: 'empty' }],
  ['a file that fills its blocks', { name: 'block', content: 'x'.repeat(1024) }],
  ['a folder', { name: 'folder/', type: 'folder' }],
  ['a hard link', { name: 'hard', type: 'hard-link', linkName: 'file' }],
  ['a symbolic link', { name: 'soft', type: 'symbolic-link', linkName: '../file' }],
  ['a long name in ustar’s two fields', { name: long, content: 'u' }],
  ['a long name in a pax header', { name: long, content: 'p', header: 'pax' }],
  ['a long name in a GNU header', { name: long, content: 'g', header: 'gnu' }],
  ['a long link by pax', { name: 'soft', type: 'symbolic-link', linkName: long, header: 'pax' }],
  ['a long link by GNU', { name: 'soft', type: 'symbolic-link', linkName: long, header: 'gnu' }],
  ['a name beyond ASCII', { name: 'ünï/çødé/名前', content: 'n', header: 'pax' }],
  ['a size in base 256', { name: 'large', content: 'b'.repeat(600), base256: true }],
  ['a contiguous file', { name: 'file', content: 'c', alter: (header) => void header.write('7', 156) }],
  ['a GNU header with times in place of ustar’s prefix', { name: 'file', content: 't', alter: writeGnuTimes }],
  ['irrelevant pax records', { name: 'file', content: 'c', pax: { mtime: '1.5', comment: 'a=b\nc' } }],
]

/** Writes the time of access and of change, as `tar --format=gnu --incremental` does. */
function writeGnuTimes(header: Buffer): void {
  header.write('ustar  \0', 257)
  header.write('14700000000\0', 345)
  header.write('14700000000\0', 357)
}

describe('members', () => {
  test.each(MEMBERS)('%s is read as written, and so is the next member', async (_, member) => {
    const expected = [member, { name: 'next', content: 'after' }].map(
      ({ name, content, type, linkName }: TarMember) => ({
        name,
        content: content ?? '',
        type: type ?? 'file',
        linkName: linkName ?? '',
      }),
    )
    const bytes = writeTar([member, { name: 'next', content: 'after' }])
    expect(await read(bytes)).toEqual(expected)
    expect(await readFrom(seekingReader(bytes))).toEqual(expected)
  })

  test('a device is neither a file nor a link, and the next member is read', async () => {
    const all = await read(
      writeTar([
        { name: 'dev/null', type: 'character-device' },
        { name: 'next', content: 'n' },
      ]),
    )
    expect(all.map(({ name, type }) => [name, type])).toEqual([
      ['dev/null', 'other'],
      ['next', 'file'],
    ])
  })

  test('members with the same name are yielded in order', async () => {
    const twice = ['first', 'second'].map((content) => ({ name: 'same', content }))
    expect((await read(writeTar(twice))).map(({ content }) => content)).toEqual(['first', 'second'])
  })

  test('content that is not requested is skipped', async () => {
    const bytes = writeTar(MEMBERS.map(([, member]) => member))
    expect(await namesFrom(streamReader(pieces(bytes, 333)))).toEqual(MEMBERS.map(([, { name }]) => name))
  })

  test('a pax header applies only to the next member', async () => {
    const members = [
      { name: 'short', content: 'a', pax: { path: 'said by pax' } },
      { name: 'own', content: 'b' },
    ]
    expect((await read(writeTar(members))).map(({ name }) => name)).toEqual(['said by pax', 'own'])
  })

  test('the size of the chunks does not matter', async () => {
    const bytes = writeTar(MEMBERS.map(([, member]) => member))
    const whole = await read(bytes)
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 2000 }), async (chunk) => {
        expect(await read(bytes, chunk)).toEqual(whole)
      }),
      { numRuns: 30 },
    )
  })
})

describe('the end', () => {
  const two = [
    { name: 'one', content: 'content' },
    { name: 'two', content: 'x'.repeat(700), header: 'pax' },
  ] as const
  const bounds = memberBounds(two)
  const end = bounds.at(-1)?.end ?? 0

  test.each([0, 1, 2, 20])('%i blocks of zeros end a tar', async (zeros) => {
    expect(await read(writeTar(two, zeros))).toHaveLength(2)
  })

  test('data after the zeros is not read', async () => {
    expect(await read(Buffer.concat([writeTar(two), Buffer.from('no tar')]))).toHaveLength(2)
  })

  test('a tar of only zeros has no members', async () => {
    expect(await read(Buffer.alloc(10240))).toEqual([])
  })

  test('a tar that is truncated in a member is an error that says what to do', async () => {
    const bytes = writeTar(two)
    const inside = Array.from({ length: end }, (_, at) => at).filter((at) => !bounds.some(({ start }) => start === at))
    const outcomes = await Promise.all(
      inside.map((at) =>
        read(bytes.subarray(0, at)).then(
          (all) => ({ at, all }),
          (error: unknown) => error,
        ),
      ),
    )
    for (const outcome of outcomes) {
      expect(outcome).toBeInstanceOf(ImageError)
      expect(outcome).toHaveProperty(
        'message',
        expect.stringMatching(/^image\.tar is damaged: it ends in the middle of .+\n.*build again/),
      )
    }
  })
})

describe('a damaged or hostile tar', () => {
  const alter = (text: string, at: number) => (header: Buffer) => void header.fill(0, at, at + 12).write(text, at)

  test.each<[string, TarMember]>([
    ['a negative pax size, which would return to the same header', { name: 'a', pax: { size: '-1536' } }],
    ['a negative octal size', { name: 'a', alter: alter('-0000001000', 124) }],
    ['a pax size that is not a number', { name: 'a', content: 'x', pax: { size: 'many' } }],
    ['a pax size with a fraction', { name: 'a', content: 'xx', pax: { size: '1.5' } }],
    ['an octal size that is not a number', { name: 'a', content: 'x', alter: alter('zzzzzzzzzzz', 124) }],
    ['a size beyond the end', { name: 'a', pax: { size: '99999999999999999999' } }],
    ['a negative size in base 256', { name: 'a', alter: (header) => void header.fill(0xff, 124, 136) }],
    ['a name over the limit', { name: `${'n/'.repeat(600 * 1024)}n`, header: 'gnu' }],
  ])('%s is damage, not an endless loop', async (_, member) => {
    const bytes = writeTar([member, { name: 'next', content: 'n' }])
    for (const start of [
      () => readFrom(seekingReader(bytes)),
      () => namesFrom(seekingReader(bytes)),
      () => namesFrom(streamReader(pieces(bytes, 512))),
    ]) {
      const reading = start()
      await expect(reading).rejects.toThrow('image.tar is damaged')
      await expect(reading).rejects.toBeInstanceOf(ImageError)
    }
  })

  /** Returns a header that applies to the next file. */
  const extension = (flag: string, content: string): Buffer =>
    writeTar([{ name: 'PaxHeaders/x', content, alter: (block) => void block.write(flag, 156) }], 0)

  test.each<[string, readonly Buffer[], string]>([
    ['a GNU header for a name', [extension('L', 'n'.repeat(4097))], 'a name in its tar has 4097 characters'],
    ['a GNU header for a link', [extension('K', 'n'.repeat(4097))], 'a name in its tar has 4097 characters'],
    ['a pax path', [extension('x', `4108 path=${'n'.repeat(4097)}\n`)], 'a name in its tar has 4097 characters'],
    [
      'a pax path for all files',
      [extension('g', `4108 path=${'n'.repeat(4097)}\n`)],
      'a name in its tar has 4097 characters',
    ],
    ['a pax header', [extension('x', `1000000 comment=${'n'.repeat(1_000_000)}`)], 'a header of 1000016 bytes'],
    [
      'too many headers for one file',
      Array.from({ length: 101 }, () => extension('x', '10 path=a\n')),
      'its tar has more than 100 headers for one file',
    ],
    [
      'too many headers for all files',
      Array.from({ length: 101 }, () => extension('g', '10 path=a\n')),
      'its tar has more than 100 headers for one file',
    ],
  ])('%s over the limit is damage', async (_, headers, message) => {
    const bytes = Buffer.concat([...headers, writeTar([{ name: 'file' }])])
    for (const start of [() => read(bytes), () => namesFrom(seekingReader(bytes))]) {
      const reading = start()
      await expect(reading).rejects.toThrow(`image.tar is damaged: ${message}`)
      await expect(reading).rejects.toBeInstanceOf(ImageError)
    }
  })

  test('names may be as long as in Linux, and a file may have several headers', async () => {
    const name = 'n'.repeat(4096)
    const headers = Array.from({ length: 50 }, () => extension('x', '19 comment=nothing\n'))
    const bytes = Buffer.concat([...headers, extension('L', name), writeTar([{ name: 'file' }])])
    expect((await read(bytes)).map((member) => member.name)).toEqual([name])
  })

  test.each([
    ['a length that is not a number', 'xx path=a\n'],
    ['no length', 'path=a\n'],
    ['no equals sign', '10 pathhh\n'],
    ['a length beyond the header', '900 path=a\n'],
    ['a length of zero', '0 path=a\n'],
  ])('a pax header with %s is damage', async (_, records) => {
    const header = writeTar(
      [{ name: 'PaxHeaders/x', content: records, alter: (block) => void block.write('x', 156) }],
      0,
    )
    const reading = read(Buffer.concat([header, writeTar([{ name: 'file' }])]))
    await expect(reading).rejects.toThrow("image.tar is damaged: a pax header in its tar can't be read")
    await expect(reading).rejects.toBeInstanceOf(ImageError)
  })

  test('a flipped bit in a header is an ImageError or reads as another tar', async () => {
    const bytes = writeTar([
      { name: 'a', content: 'x' },
      { name: long, header: 'pax' },
      { name: long, header: 'gnu' },
    ])
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(7), async (at, bit) => {
        const damaged = Buffer.from(bytes)
        damaged.writeUInt8(damaged.readUInt8(at) ^ (1 << bit), at)
        await readFrom(seekingReader(damaged)).catch((error: unknown) => expect(error).toBeInstanceOf(ImageError))
      }),
      { numRuns: 300 },
    )
  })
})
