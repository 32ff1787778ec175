import { buffer } from 'node:stream/consumers'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/errors.ts'
import { decompress } from '../../src/image/decompress.ts'

const packed = gzipSync('hello')
const zeros = Buffer.alloc(1000)
const many = Buffer.alloc(100_000)

async function* streamOf(chunks: readonly Buffer[]): AsyncGenerator<Buffer> {
  yield* chunks
}

function unpack(chunks: readonly Buffer[]): Promise<Buffer> {
  return buffer(decompress('gzip', streamOf(chunks), '/nix/store/image'))
}

describe('zeros after the end of gzip data are ignored', () => {
  test.each([
    ['in a separate chunk', [packed, zeros]],
    ['in two chunks', [packed, zeros, zeros]],
    ['in the last chunk of data and another one', [Buffer.concat([packed, zeros]), zeros]],
    ['in large chunks', [packed, many, many, many]],
  ])('%s', async (_, chunks) => {
    expect((await unpack(chunks)).toString()).toBe('hello')
  })
})

test('an error from reading the compressed bytes is passed on unchanged', async () => {
  async function* failing(): AsyncGenerator<Buffer> {
    yield packed.subarray(0, 10)
    throw new Error('EIO: i/o error')
  }
  await expect(buffer(decompress('gzip', failing(), '/nix/store/image'))).rejects.toThrow('EIO: i/o error')
})

test('truncated data is an error', async () => {
  await expect(unpack([packed.subarray(0, -1)])).rejects.toBeInstanceOf(ImageError)
})

test.each(['gzip', 'zstd'] as const)(
  'a consumer of %s that stops early does not wait for the next chunk',
  async (format) => {
    async function* stalled(): AsyncGenerator<Buffer> {
      yield format === 'gzip' ? gzipSync('content') : zstdCompressSync('content')
      await new Promise(() => undefined)
    }
    const chunks: string[] = []
    for await (const chunk of decompress(format, stalled(), '/nix/store/image')) {
      chunks.push(chunk.toString())
      break
    }
    expect(chunks).toEqual(['content'])
  },
)
