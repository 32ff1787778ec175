import { test } from '@jest/globals'
import fc from 'fast-check'
import { expectImageOrError, MAGIC, setUpRegistry, WHOLE } from './damage.ts'

setUpRegistry()

test.each(WHOLE)('a %s of a %s with other first bytes is an error or the image', async (_format, kind, make) => {
  const whole = await make()
  const magics = Object.values(MAGIC).map((hex) => Uint8Array.from(Buffer.from(hex, 'hex')))
  const starts = fc.oneof(fc.constantFrom(...magics), fc.uint8Array({ minLength: 1, maxLength: 600 }))
  await fc.assert(
    fc.asyncProperty(starts, fc.boolean(), async (start, inPlace) => {
      const bytes = Buffer.concat([start, whole.subarray(inPlace ? start.length : 0)])
      if (bytes.equals(whole)) return
      await expectImageOrError(bytes, kind)
    }),
    {
      numRuns: 25,
      examples: magics.flatMap((magic): [Uint8Array<ArrayBuffer>, boolean][] => [
        [magic, true],
        [magic, false],
      ]),
    },
  )
})
