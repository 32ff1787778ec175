import { describe, expect, test } from '@jest/globals'
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

describe('an installable in the store', () => {
  const path = `/nix/store/${'0'.repeat(32)}-images`

  test.each([path, `${path}/`, `${path}#app`, `${path}/nix#app`, './result'])('may be %s', (installable) => {
    expect(installableOf({ ...inputs, installable }, 'x86_64-linux').text).toBe(installable)
  })

  test('can’t be a file within a path, of which Nix would build the whole', () => {
    for (const below of ['app.tar', 'images/app.tar', '/app.tar'])
      expect(() => installableOf({ ...inputs, installable: `${path}/${below}` }, 'x86_64-linux')).toThrow(
        `The input \`installable\` is "${path}/${below}", and Nix builds ${path}, with all that is in it\nName`,
      )
  })
})
