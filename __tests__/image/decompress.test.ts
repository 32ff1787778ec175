import { buffer } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import { decompress } from '../../src/image/decompress.ts'
import { ImageError } from '../../src/image/image-error.ts'

const packed = gzipSync('hello')
const zeros = Buffer.alloc(1000)
const many = Buffer.alloc(100_000)

async function* streamOf(chunks: readonly Buffer[]): AsyncGenerator<Buffer> {
  yield* chunks
}

function unpack(chunks: readonly Buffer[]): Promise<Buffer> {
  return buffer(decompress('gzip', streamOf(chunks), '/nix/store/image'))
}

describe('zeros behind the end of gzip are passed over, however they come', () => {
  test.each([
    ['in a chunk of their own', [packed, zeros]],
    ['in two chunks', [packed, zeros, zeros]],
    ['from the last chunk on', [Buffer.concat([packed, zeros]), zeros]],
    ['in large chunks', [packed, many, many, many]],
  ])('%s', async (_, chunks) => {
    expect((await unpack(chunks)).toString()).toBe('hello')
  })
})

test('a failure to read what is to be decompressed is told as it is', async () => {
  async function* failing(): AsyncGenerator<Buffer> {
    yield packed.subarray(0, 10)
    throw new Error('EIO: i/o error')
  }
  await expect(buffer(decompress('gzip', failing(), '/nix/store/image'))).rejects.toThrow('EIO: i/o error')
})

test('what is cut short is an error', async () => {
  await expect(unpack([packed.subarray(0, -1)])).rejects.toBeInstanceOf(ImageError)
})
