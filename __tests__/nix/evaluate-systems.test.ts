import { expect, test } from '@jest/globals'
import { evaluationsAtOnce } from '../../src/nix/evaluate-systems.ts'

test.each([
  [16e9, 4, 4],
  [3.5e9, 4, 3],
  [16e9, 1, 1],
  [0.2e9, 4, 1],
  [0, 0, 1],
])(
  'with %d bytes of memory and %d processors, Nix evaluates %d systems at the same time',
  (memory, processors, count) => {
    expect(evaluationsAtOnce(memory, processors)).toBe(count)
  },
)
