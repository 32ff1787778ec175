import { expect, test } from '@jest/globals'
import { formatNixVersion } from '../../src/nix/nix.ts'

test.each([
  ['nix (Nix) 2.34.1', 'Nix 2.34.1'],
  ['nix (Lix, like Nix) 2.93.0\nSystem type: x86_64-linux', 'Lix 2.93.0'],
  ['nix (Determinate Nix 3.11.2) 2.31.1', 'Determinate Nix 3.11.2 (Nix 2.31.1)'],
  ['something else', 'Nix of an unknown version'],
  ['', 'Nix of an unknown version'],
])('the version of %j is %s', (output, expected) => {
  expect(formatNixVersion(output)).toBe(expected)
})
