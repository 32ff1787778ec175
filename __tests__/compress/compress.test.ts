import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { type Compression, compressLayer, hashLayer, type UncompressedLayer } from '../../src/compress/compress.ts'
import { createSemaphore } from '../../src/promises.ts'
import { digestOf } from '../support/digest.ts'
import { noise, unzstd } from '../support/layer-content.ts'

const MIB = 1024 * 1024
const GZIP: Compression = { format: 'gzip', level: 4 }
const ZSTD: Compression = { format: 'zstd', level: 3 }
/** Gzip levels from 5 on use another compressor. */
const COMPRESSIONS = [GZIP, { format: 'gzip', level: 5 }, ZSTD] as const

/** Yields content like a file reader: each chunk is overwritten when the next one is requested. */
async function* inChunks(content: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
  const buffer = Buffer.alloc(Math.max(...sizes))
  for (let at = 0, turn = 0; at < content.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1
    const length = content.copy(buffer, 0, at, at + size)
    yield buffer.subarray(0, length)
    buffer.fill('#')
    at += length
  }
}

interface Compressed extends UncompressedLayer {
  readonly bytes: Buffer
}

async function compress(
  content: Buffer,
  compression: Compression,
  { chunks = [65_536], slots = 4 }: { readonly chunks?: readonly number[]; readonly slots?: number } = {},
): Promise<Compressed> {
  const parts: Buffer[] = []
  const { layer, written } = await compressLayer(
    inChunks(content, chunks),
    compression,
    createSemaphore(slots),
    async (bytes) => void parts.push(Buffer.from(bytes)),
  )
  await written
  return { ...layer, bytes: Buffer.concat(parts) }
}

function decompress(bytes: Buffer, { format }: Compression): Buffer {
  return format === 'gzip' ? gunzipSync(bytes) : unzstd(bytes)
}

const text = Buffer.from('some words of which no two in a row are alike 0123456789\n'.repeat(70_000)).subarray(
  0,
  3 * MIB + 7,
)
/** Parts that compress and parts that don't, like a layer. */
const mixed = Buffer.concat([text, noise(2 * MIB), text.subarray(0, 1000), noise(700_000, 2)])

const SIZES = [0, 1, 511, MIB - 1, MIB, MIB + 1, 3 * MIB - 1, 3 * MIB, 3 * MIB + 5]
const KINDS = [
  ['text', (size: number) => text.subarray(0, size)],
  ['noise', (size: number) => noise(size)],
  ['zeros', (size: number) => Buffer.alloc(size)],
] as const

describe.each(COMPRESSIONS)('a layer in $format, level $level,', (compression) => {
  test.each(SIZES.flatMap((size) => KINDS.map(([kind, make]) => [size, kind, make] as const)))(
    'of %d bytes of %s can be decompressed',
    async (size, _, make) => {
      const content = make(size)
      const { bytes, diffId, size: counted } = await compress(content, compression)
      expect({ diffId, size: counted }).toEqual({ diffId: digestOf(content), size })
      expect(decompress(bytes, compression).equals(content)).toBe(true)
    },
  )

  test('does not depend on how the content is split into chunks', async () => {
    const whole = digestOf((await compress(mixed, compression, { chunks: [mixed.length] })).bytes)
    const chunk = fc.oneof(fc.integer({ min: 1, max: 3 * MIB }), fc.constantFrom(MIB - 1, MIB, MIB + 1))
    await fc.assert(
      fc.asyncProperty(fc.array(chunk, { minLength: 1, maxLength: 5 }), async (sizes) => {
        // Small chunks alone would take too long.
        const { bytes } = await compress(mixed, compression, { chunks: [...sizes, 100_000] })
        expect(digestOf(bytes)).toBe(whole)
      }),
      { numRuns: 15 },
    )
  })

  test('does not depend on how many blocks are compressed at once', async () => {
    const digests = new Set<string>()
    for (const slots of [1, 2, 8, 64]) digests.add(digestOf((await compress(mixed, compression, { slots })).bytes))
    expect(digests.size).toBe(1)
  })

  test('does not depend on other layers that are compressed at the same time or before', async () => {
    const alone = digestOf((await compress(mixed, compression)).bytes)
    const slots = createSemaphore(3)
    const digests = await Promise.all(
      [mixed, text, mixed, noise(3 * MIB), mixed].map(async (content) => {
        const parts: Buffer[] = []
        const write = async (bytes: Buffer) => void parts.push(Buffer.from(bytes))
        await (await compressLayer(inChunks(content, [50_000]), compression, slots, write)).written
        return digestOf(Buffer.concat(parts))
      }),
    )
    expect([digests[0], digests[2], digests[4]]).toEqual([alone, alone, alone])
    expect(digestOf((await compress(mixed, compression)).bytes)).toBe(alone)
  })

  test('is much smaller than text, and hardly larger than incompressible content', async () => {
    expect((await compress(text, compression)).bytes.length).toBeLessThan(text.length / 20)
    const random = noise(3 * MIB)
    expect((await compress(random, compression)).bytes.length).toBeLessThan(random.length * 1.001)
  })

  test('that can’t be read to its end fails with the reader’s error', async () => {
    async function* broken(): AsyncGenerator<Buffer> {
      yield noise(3 * MIB)
      throw new Error('cut short')
    }
    const slots = createSemaphore(2)
    const compressing = compressLayer(broken(), compression, slots, async () => undefined)
    await expect(compressing).rejects.toThrow('cut short')
    // All permits are free again: another layer can be compressed.
    const parts: Buffer[] = []
    const next = await compressLayer(
      inChunks(mixed, [MIB]),
      compression,
      slots,
      async (one) => void parts.push(Buffer.from(one)),
    )
    await next.written
    expect(decompress(Buffer.concat(parts), compression).equals(mixed)).toBe(true)
  })

  test.each([1, 2, 3])('that can’t be written fails at write %d and releases its permits', async (which) => {
    const slots = createSemaphore(2)
    let writes = 0
    const { layer, written } = await compressLayer(inChunks(mixed, [MIB]), compression, slots, async () => {
      writes++
      if (writes === which) throw new Error('no space left')
    })
    await expect(written).rejects.toThrow('no space left')
    expect(layer.diffId).toBe(digestOf(mixed))
    expect(writes).toBe(which)
    await Promise.all([slots.acquire(), slots.acquire()])
  })

  test('that can’t be written causes no unhandled rejection before its result is awaited', async () => {
    // Enough time for an unhandled rejection to be noticed.
    async function* slow(): AsyncGenerator<Buffer> {
      for (let at = 0; at < 4; at++) {
        yield noise(MIB, at)
        for (let turn = 0; turn < 100; turn++) await nextTurn()
      }
    }
    const write = async () => Promise.reject(new Error('no space left'))
    const { layer, written } = await compressLayer(slow(), compression, createSemaphore(8), write)
    expect(layer.size).toBe(4 * MIB)
    await expect(written).rejects.toThrow('no space left')
  })

  test.each([1, 6, 9])('can be compressed at level %d', async (level) => {
    const { bytes } = await compress(mixed, { ...compression, level })
    expect(decompress(bytes, compression).equals(mixed)).toBe(true)
  })
})

describe('a layer in zstd', () => {
  /** Three frames, the last of which is short. */
  const large = Buffer.concat([text, Buffer.alloc(30 * MIB), mixed, Buffer.alloc(30 * MIB, 'x'), noise(3 * MIB, 3)])

  test('of several frames can be decompressed, and does not depend on how many blocks are compressed at once', async () => {
    const results = await Promise.all([1, 3, 40].map((slots) => compress(large, ZSTD, { slots, chunks: [MIB + 1] })))
    expect(new Set(results.map(({ bytes }) => digestOf(bytes))).size).toBe(1)
    const [first] = results
    expect(first?.diffId).toBe(digestOf(large))
    expect(first && decompress(first.bytes, ZSTD).equals(large)).toBe(true)
  })

  test.each([32 * MIB - 1, 32 * MIB, 32 * MIB + 1])(
    'of %d bytes, about one frame, can be decompressed',
    async (size) => {
      const content = large.subarray(0, size)
      expect(decompress((await compress(content, ZSTD)).bytes, ZSTD).equals(content)).toBe(true)
    },
  )

  // skopeo's windows.
  test.each([
    [1, 6],
    [3, 6],
    [9, 13],
    [19, 26],
  ])('at level %d stores a file once that is repeated %d MiB later', async (level, distance) => {
    const file = noise(300_000)
    const content = Buffer.concat([file, Buffer.alloc(distance * MIB), file])
    const { bytes } = await compress(content, { ...ZSTD, level })
    expect(bytes.length).toBeLessThan(1.1 * file.length)
    expect(decompress(bytes, ZSTD).equals(content)).toBe(true)
  })

  test('can be compressed after many others, of which some could not be read or written', async () => {
    async function* broken(): AsyncGenerator<Buffer> {
      yield noise(3 * MIB)
      throw new Error('cut short')
    }
    const slots = createSemaphore(2)
    const failing = Array.from({ length: 30 }, async (_, at) => {
      if (at % 2 === 0) return compressLayer(broken(), ZSTD, slots, async () => undefined)
      const write = async () => Promise.reject(new Error('no space left'))
      return (await compressLayer(inChunks(text, [MIB]), ZSTD, slots, write)).written
    })
    const outcomes = await Promise.allSettled(failing)
    expect(outcomes.map(({ status }) => status)).toEqual(failing.map(() => 'rejected'))
    expect(decompress((await compress(mixed, ZSTD)).bytes, ZSTD).equals(mixed)).toBe(true)
  })
})

test.each([
  ['gzip', GZIP, ['-t']],
  ['gzip', GZIP, ['-l']],
  ['zstd', ZSTD, ['-t']],
] as const)('the %s program accepts a layer (%j %j)', async (program, compression, args) => {
  const folder = await mkdtemp(join(tmpdir(), 'compress-'))
  try {
    const path = join(folder, program === 'gzip' ? 'layer.gz' : 'layer.zst')
    const { bytes } = await compress(mixed, compression)
    await writeFile(path, bytes)
    const { stdout } = await promisify(execFile)(program, [...args, path])
    // The sizes of the single member.
    if (args[0] === '-l') expect(stdout).toContain(` ${bytes.length} `)
    if (args[0] === '-l') expect(stdout).toContain(` ${mixed.length} `)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a layer in gzip is one member without time or file name', async () => {
  const { bytes } = await compress(mixed, GZIP)
  expect(bytes.subarray(0, 10).toString('hex')).toBe('1f8b08000000000000ff')
  expect(bytes.readUInt32LE(bytes.length - 4)).toBe(mixed.length)
})

test('hashing a layer returns the same diff ID as compressing it', async () => {
  expect(await hashLayer(inChunks(mixed, [12_345]))).toEqual({ diffId: digestOf(mixed), size: mixed.length })
})

describe('a semaphore', () => {
  test('grants its permits in the order of the calls, and never more than it has', async () => {
    const slots = createSemaphore(2)
    const order: number[] = []
    let now = 0
    let most = 0
    await Promise.all(
      [0, 1, 2, 3, 4, 5].map(async (id) => {
        await slots.acquire()
        order.push(id)
        most = Math.max(most, ++now)
        await new Promise(setImmediate)
        now--
        slots.release()
      }),
    )
    expect({ order, most }).toEqual({ order: [0, 1, 2, 3, 4, 5], most: 2 })
  })
})
