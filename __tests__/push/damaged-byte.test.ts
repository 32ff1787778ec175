import { test } from '@jest/globals'
import fc from 'fast-check'
import { expectImageOrError, setUpRegistry, WHOLE } from './damage.ts'

setUpRegistry()

test.each(WHOLE)('a %s of a %s with any byte changed is an error or the image', async (_format, kind, make) => {
  const whole = await make()
  await fc.assert(
    fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const bytes = Buffer.from(whole)
      bytes.writeUInt8(bytes.readUInt8(at) ^ change, at)
      await expectImageOrError(bytes, kind)
    }),
    { numRuns: 40 },
  )
})
