import { expect, test } from '@jest/globals'
import { installableOf } from '../../src/nix/installable.ts'

const inputs = { system: 'aarch64-linux', flake: '.', attribute: 'containerImage', installable: '' }

test.each([
  ['the default', {}, '.#packages.aarch64-linux.containerImage'],
  [
    'another flake and attribute',
    { flake: 'github:a/b?dir=c', attribute: 'images.x' },
    'github:a/b?dir=c#packages.aarch64-linux.images.x',
  ],
  ['an installable in place of both', { flake: 'x', attribute: 'y', installable: './nix#app' }, './nix#app'],
  ['an installable for each system', { installable: '.#a.{system}.{system}' }, '.#a.aarch64-linux.aarch64-linux'],
])('what Nix is asked to build: %s', (_, given, expected) => {
  expect(installableOf({ ...inputs, ...given })).toBe(expected)
})
