import { execFileSync } from 'node:child_process'
import { constants, crc32, gunzipSync, inflateRawSync } from 'node:zlib'
import { afterEach, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { BLOCK_LIMIT, createDeflatePool, type DeflatePool } from '../../src/compress/deflate-pool.ts'
import { createDeflater } from '../support/deflater.ts'
import { noise } from '../support/layer-content.ts'

const LEVELS = [1, 2, 3, 4]
const WINDOW = 32_768

const deflate = createDeflater()

function inflate(bytes: Uint8Array): Buffer {
  return inflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH })
}

/** Returns the size in stored blocks: a header for each 65535 bytes, and the empty block at the end. */
function storedSize(size: number): number {
  return size + 5 * Math.ceil(size / 0xffff) + 5
}

/** Checks that a block can be decompressed, and is not larger than when stored. */
function expectRoundTrip(block: Buffer, level: number): Uint8Array {
  const compressed = deflate(block, level)
  expect(inflate(compressed).equals(block)).toBe(true)
  expect(compressed.length).toBeLessThanOrEqual(storedSize(block.length))
  expect(Buffer.from(compressed.subarray(-4)).toString('hex')).toBe('0000ffff')
  return compressed
}

/** Returns bytes whose frequencies are Fibonacci numbers, which make the longest Huffman codes, in random order. */
function fibonacci(symbols: number): Buffer {
  const parts: Buffer[] = []
  for (let symbol = 0, count = 1, before = 1; symbol < symbols; symbol++) {
    parts.push(Buffer.alloc(count, symbol))
    ;[before, count] = [count, before + count]
  }
  return shuffle(Buffer.concat(parts))
}

/** Shuffles bytes, always in the same way. */
function shuffle(bytes: Buffer): Buffer {
  const random = noise(4 * bytes.length)
  for (let at = bytes.length - 1; at > 0; at--) {
    const other = random.readUInt32LE(4 * at) % (at + 1)
    const byte = bytes[at] ?? 0
    bytes[at] = bytes[other] ?? 0
    bytes[other] = byte
  }
  return bytes
}

/** Repeats 300 bytes at a distance, with noise in between. */
function repeatedAt(distance: number): Buffer {
  const bytes = noise(distance + 300)
  bytes.copyWithin(distance, 0, 300)
  return bytes
}

const text = Buffer.from(
  Array.from({ length: 40_000 }, (_, at) => `${at * at} words of ${at} that are alike, or not\n`).join(''),
).subarray(0, BLOCK_LIMIT)

/** Parts that compress well, hardly and not at all, each long enough for separate Huffman codes. */
const mixed = Buffer.concat([
  text.subarray(0, 200_000),
  noise(200_000),
  Buffer.alloc(100_000),
  noise(100_000, 2).map((byte) => byte & 15),
  text.subarray(0, 150_000),
  noise(100, 3),
])

const BLOCKS = [
  ['nothing', Buffer.alloc(0)],
  ['one byte', Buffer.from('a')],
  ['two bytes', Buffer.from('ab')],
  ['text', text],
  ['noise', noise(BLOCK_LIMIT)],
  ['zeros', Buffer.alloc(BLOCK_LIMIT)],
  ['one repeated byte', Buffer.alloc(BLOCK_LIMIT, 0xff)],
  ['a pattern of three bytes', Buffer.alloc(BLOCK_LIMIT, 'abc')],
  ['bytes of 4 bits', noise(BLOCK_LIMIT).map((byte) => byte & 15)],
  ['long Huffman codes', fibonacci(26)],
  ['long Huffman codes of few bytes', fibonacci(20)],
  ['parts of all kinds', mixed],
  // A frequency of more than 16 bits, and few matches.
  ['noise with one very frequent byte', noise(BLOCK_LIMIT).map((byte, at) => (at % 2 === 0 ? 0 : byte))],
  ['four short byte values', noise(2000).map((byte) => 97 + (byte & 3))],
] as const

describe.each(LEVELS)('at level %d', (level) => {
  test.each(BLOCKS)('%s can be decompressed', (_, block) => {
    expectRoundTrip(Buffer.from(block), level)
  })

  test.each([WINDOW - 1, WINDOW, WINDOW + 1, 65_536, 65_536 + WINDOW])(
    'a match at the distance %d can be decompressed',
    (at) => {
      expectRoundTrip(repeatedAt(at), level)
    },
  )

  test('the output does not depend on earlier blocks', () => {
    const first = createDeflater()(mixed, level)
    for (const [, block] of BLOCKS) deflate(block, level)
    expect(Buffer.compare(deflate(mixed, level), first)).toBe(0)
  })

  test('any bytes can be decompressed', () => {
    const part = fc.oneof(
      fc.record({ bytes: fc.uint8Array({ minLength: 1, maxLength: 400 }), times: fc.constant(1) }),
      fc.record({ bytes: fc.uint8Array({ minLength: 1, maxLength: 9 }), times: fc.nat(600) }),
      fc.record({ noise: fc.nat(70_000) }),
    )
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), (parts) => {
        const contents = parts.map((one) =>
          'noise' in one ? noise(one.noise) : Buffer.alloc(one.bytes.length * one.times, one.bytes),
        )
        expectRoundTrip(Buffer.concat([...contents, ...contents]).subarray(0, BLOCK_LIMIT), level)
      }),
      { numRuns: 60 },
    )
  })

  test('all sizes up to 300 bytes can be decompressed', () => {
    for (let size = 0; size < 300; size++) {
      expectRoundTrip(text.subarray(0, size), level)
      expectRoundTrip(Buffer.alloc(size), level)
    }
  })
})

test('matches at the end of the window are found, and none beyond it', () => {
  const size = (at: number) => deflate(repeatedAt(at), 4).length - at
  expect(size(WINDOW)).toBeLessThan(100)
  expect(size(WINDOW + 1)).toBeGreaterThan(290)
})

test('higher levels compress better', () => {
  const sizes = [1, 2, 4].map((level) => deflate(text, level).length)
  expect(sizes.toSorted((one, other) => other - one)).toEqual(sizes)
})

test('results can be appended to form a stream that gzip accepts', () => {
  const blocks = BLOCKS.map(([, block]) => Buffer.from(block))
  const content = Buffer.concat(blocks)
  const trailer = Buffer.alloc(10)
  trailer.writeUInt16LE(0x0003, 0)
  trailer.writeUInt32LE(crc32(content), 2)
  trailer.writeUInt32LE(content.length, 6)
  const gzip = Buffer.concat([
    Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]),
    ...blocks.map((block, at) => deflate(block, 1 + (at % 4))),
    trailer,
  ])
  expect(gunzipSync(gzip).equals(content)).toBe(true)
  execFileSync('gzip', ['-t'], { input: gzip })
})

describe('the pool', () => {
  let pool: DeflatePool | undefined

  afterEach(async () => {
    await pool?.close()
  })

  /** Copies bytes to memory that can be transferred to a worker. */
  function alone(bytes: Uint8Array): Buffer {
    const block = Buffer.allocUnsafeSlow(bytes.length + 3).subarray(3)
    block.set(bytes)
    return block
  }

  test('returns the compressor’s output for each block, and the block', async () => {
    pool = createDeflatePool(3)
    const { compress } = pool
    const jobs = Array.from({ length: 40 }, (_, at) => ({ bytes: noise(at * 1000, at), level: 1 + (at % 4) }))
    const results = await Promise.all(jobs.map(({ bytes, level }) => compress(alone(bytes), level)))
    for (const [at, { compressed, block }] of results.entries()) {
      const { bytes = Buffer.alloc(0), level = 0 } = jobs[at] ?? {}
      expect(Buffer.compare(compressed, deflate(bytes, level))).toBe(0)
      expect(block.equals(bytes)).toBe(true)
    }
  })

  test('transfers a block without copying it', async () => {
    pool = createDeflatePool(1)
    const block = alone(text)
    const compressing = pool.compress(block, 4)
    expect(block.length).toBe(0)
    expect((await compressing).block.equals(text)).toBe(true)
  })

  test('fails a block whose memory was already transferred, and continues with others', async () => {
    pool = createDeflatePool(1)
    const { compress } = pool
    const [gone, other] = [alone(text), alone(mixed)]
    structuredClone(undefined, { transfer: [gone.buffer as ArrayBuffer] })
    const results = [compress(alone(text), 4), compress(alone(text), 4), compress(gone, 4), compress(other, 4)]
    const statuses = (await Promise.allSettled(results)).map(({ status }) => status)
    expect(statuses).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
  })

  test('fails unfinished blocks when it is closed', async () => {
    pool = createDeflatePool(1)
    const results = Array.from({ length: 5 }, () => pool?.compress(alone(text), 4))
    const settled = Promise.allSettled(results)
    await pool.close()
    const failed = (await settled).filter(({ status }) => status === 'rejected')
    expect(failed.length).toBeGreaterThan(0)
  })

  test('refuses more than 1 MiB', async () => {
    pool = createDeflatePool(1)
    await expect(pool.compress(alone(Buffer.alloc(BLOCK_LIMIT + 1)), 4)).rejects.toThrow('1048576')
  })
})

test('idle workers do not keep a process from exiting', () => {
  const program = `
    import { createDeflatePool } from '${new URL('../../src/compress/deflate-pool.ts', import.meta.url)}'
    const { compressed } = await createDeflatePool(2).compress(Buffer.allocUnsafeSlow(100_000).fill('ab'), 4)
    process.stdout.write(String(compressed.length))`
  const args = ['--disable-warning=ExperimentalWarning', '--input-type=module-typescript', '-e', program]
  expect(Number(execFileSync(process.execPath, args, { timeout: 20_000 }))).toBeGreaterThan(0)
})
