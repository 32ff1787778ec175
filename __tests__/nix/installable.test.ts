import { expect, test } from '@jest/globals'
import { installableOf } from '../../src/nix/installable.ts'

const inputs = { system: 'aarch64-linux', flake: '.', attribute: 'containerImage', installable: '', file: '' }

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
  expect(installableOf({ ...inputs, ...given }, 'x86_64-linux')).toEqual({
    options: [],
    text: expected,
    name: expected,
  })
})

test('an attribute of a file is told the system, and that it is the current one', () => {
  const given = { ...inputs, file: 'default.nix', attribute: 'image' }
  expect(installableOf(given, 'aarch64-linux')).toEqual({
    options: ['--file', 'default.nix', '--argstr', 'system', 'aarch64-linux'],
    text: 'image',
    name: 'image of default.nix',
  })
  expect(installableOf(given, 'x86_64-linux').options.slice(5)).toEqual([
    ...['--option', 'system', 'aarch64-linux'],
    ...['--option', 'extra-platforms', 'x86_64-linux'],
  ])
})
