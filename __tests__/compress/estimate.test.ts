import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { gzipSync } from 'node:zlib'
import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { estimateCompressed } from '../../src/push/with-docker.ts'

async function* inChunks(content: Buffer, length: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < content.length; at += length) yield content.subarray(at, at + length)
}

test.each([
  ['programs', async () => (await readFile(process.execPath)).subarray(0, 40_000_000)],
  ['noise', async () => randomBytes(5_000_000)],
  [
    'noise and zeros',
    async () =>
      Buffer.concat(Array.from({ length: 64 }, (_, at) => (at % 2 ? randomBytes(100_000) : Buffer.alloc(100_000)))),
  ],
])('the compressed size of %s is estimated within a sixth', async (_, make) => {
  const content = await make()
  const estimate = await estimateCompressed(inChunks(content, 65536))
  const actual = gzipSync(content, { level: 4 }).length
  expect(estimate).toBeGreaterThan(actual * 0.84)
  expect(estimate).toBeLessThan(actual * 1.16)
})

test('the estimate depends little on the size of the chunks', async () => {
  const content = (await readFile(process.execPath)).subarray(0, 3_000_000)
  const whole = await estimateCompressed(inChunks(content, content.length))
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 32_768, max: 3_000_000 }), async (length) => {
      const estimate = await estimateCompressed(inChunks(content, length))
      expect(Math.abs(estimate / whole - 1)).toBeLessThan(0.1)
    }),
    { numRuns: 20 },
  )
})

test('the estimate of an empty layer is 0', async () => {
  expect(await estimateCompressed(inChunks(Buffer.alloc(0), 1))).toBe(0)
})
