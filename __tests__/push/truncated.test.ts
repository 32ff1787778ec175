import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { expectImageOrError, type Format, type Kind, setUpRegistry, tars, WHOLE } from './damage.ts'

setUpRegistry()

test.each(WHOLE)('an unchanged %s of a %s is the image', async (_format, kind, make) => {
  expect(await expectImageOrError(await make(), kind)).toBe('image')
})

test.each(WHOLE)(
  'a truncated %s of a %s is an error, or the image if only padding is missing',
  async (format, kind, make) => {
    const whole = await make()
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: whole.length - 1 }), async (length) => {
        expect(await expectImageOrError(whole.subarray(0, length), kind)).toBe(
          isCleanEnd(length, format, kind) ? 'image' : 'error',
        )
      }),
      { numRuns: 25, examples: [[0], [1], [6], [257], [512], [whole.length - 1], [whole.length - 513]] },
    )
  },
)

/** Lengths at which nothing is missing: between the last member and the zeros that end a tar, or after the first of them. */
function isCleanEnd(length: number, format: Format, kind: Kind): boolean {
  if (format !== 'tar') return false
  const end = tars[kind].length - 1024
  return length === end || length >= end + 512
}

test('random bytes are an error', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 2000 }), async (bytes) => {
      expect(await expectImageOrError(Buffer.from(bytes))).toBe('error')
    }),
    { numRuns: 40 },
  )
})
