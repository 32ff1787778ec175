import { mkdir, mkdtemp, realpath, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { attributeOf, installableOf, storePlaceOf } from '../../src/nix/installable.ts'

const inputs = {
  system: 'aarch64-linux',
  flake: '.',
  attribute: 'containerImage',
  installable: '',
  file: '',
  nixArgs: [],
}

test.each([
  ['the default', {}, '.#packages.aarch64-linux.containerImage'],
  [
    'another flake and attribute',
    { flake: 'github:a/b?dir=c', attribute: 'images.x' },
    'github:a/b?dir=c#packages.aarch64-linux.images.x',
  ],
  [
    'an installable instead of flake and attribute',
    { flake: 'x', attribute: 'y', installable: './nix#app' },
    './nix#app',
  ],
  ['an installable for each system', { installable: '.#a.{system}.{system}' }, '.#a.aarch64-linux.aarch64-linux'],
])('Nix builds %s', (_, given, expected) => {
  expect(installableOf({ ...inputs, ...given }, 'x86_64-linux')).toEqual({
    options: [],
    text: expected,
    name: expected,
  })
})

test('a file gets the system as argument and as current system', () => {
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

describe('the user’s own arguments for a file', () => {
  const optionsFor = (...nixArgs: readonly string[]) =>
    installableOf({ ...inputs, file: 'default.nix', attribute: 'image', nixArgs }, 'x86_64-linux').options.slice(2)
  const foreign = (system: string) => ['--option', 'system', system, '--option', 'extra-platforms', 'x86_64-linux']

  test.each([
    ['the runner’s own system', ['--argstr', 'system', 'x86_64-linux'], []],
    ['another system', ['--argstr', 'system', 'armv7l-linux'], foreign('armv7l-linux')],
    ['the last of two', ['--argstr', 'system', 'armv7l-linux', '--argstr', 'system', 'x86_64-linux'], []],
    ['an expression', ['--arg', 'system', 'import ./system.nix'], []],
    ['a file', ['--arg-from-file', 'system', 'system.txt'], []],
  ])('replace the argument `system` and the current system: %s', (_, nixArgs, options) => {
    expect(optionsFor(...nixArgs)).toEqual(options)
  })

  test.each([
    [['--option', 'system', 'x86_64-linux'], []],
    [['--system', 'armv7l-linux'], foreign('armv7l-linux').slice(3)],
  ])('replace only the current system: %j', (nixArgs, options) => {
    expect(optionsFor(...nixArgs)).toEqual(['--argstr', 'system', 'aarch64-linux', ...options])
  })

  test.each([
    [['--argstr', 'name', 'system']],
    [['--argstr', 'name', 'system', '--argstr', 'tag', 'v1']],
    [['--argstr', 'hostSystem', 'x86_64-linux']],
  ])('replace nothing if they are not about the system: %j', (nixArgs) => {
    expect(optionsFor(...nixArgs)).toEqual(['--argstr', 'system', 'aarch64-linux', ...foreign('aarch64-linux')])
  })
})

test('messages name a file that is the image by its path, and its attributes by theirs', () => {
  const whole = installableOf({ ...inputs, file: 'docker.nix', attribute: '' }, 'aarch64-linux')
  expect(whole).toMatchObject({ text: '', name: 'docker.nix' })
  expect(attributeOf(whole, 'copyTo')).toMatchObject({ text: 'copyTo', name: 'copyTo of docker.nix' })
  const part = installableOf({ ...inputs, file: 'docker.nix', attribute: 'images.app' }, 'aarch64-linux')
  expect(attributeOf(part, 'copyTo')).toMatchObject({
    options: part.options,
    text: 'images.app.copyTo',
    name: 'images.app.copyTo of docker.nix',
  })
})

describe('an installable in the store', () => {
  const path = `/nix/store/${'0'.repeat(32)}-images`

  test.each([path, `${path}/`, `${path}#app`, `${path}/nix#app`, './result', 'github:owner/app'])(
    'may be %s',
    (installable) => {
      expect(installableOf({ ...inputs, installable }, 'x86_64-linux').text).toBe(installable)
    },
  )

  test('can’t be a file inside of a store path', () => {
    for (const below of ['app.tar', 'images/app.tar', '/app.tar', 'app.tar^out'])
      expect(() => installableOf({ ...inputs, installable: `${path}/${below}` }, 'x86_64-linux')).toThrow(
        `The input \`installable\` is "${path}/${below}", which is inside of ${path}: Nix can't build a part of a store path\nSet`,
      )
  })
})

describe('the place in the store of', () => {
  const image = `/nix/store/${'0'.repeat(32)}-image.tar`
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(await realpath(tmpdir()), 'links-'))
    await symlink(image, join(folder, 'result'))
    await symlink('result', join(folder, 'again'))
    await symlink(`${image}/one/two`, join(folder, 'within'))
    await symlink('.', join(folder, 'here'))
    await symlink('round', join(folder, 'round'))
    // A store path that is a link into the store counts as a store path.
    const store = join(folder, 'store')
    await mkdir(store)
    await symlink(`${image}/one`, join(store, `${'1'.repeat(32)}-link`))
    await mkdir(join(store, `${'1'.repeat(32)}-folder`))
    await symlink(join(store, `${'1'.repeat(32)}-folder`), join(folder, 'folder'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  const place = (text: string) => storePlaceOf({ options: [], text: text.replace(/^\./, folder) })

  test.each([
    ['./result', image, false],
    ['./result^out', image, false],
    ['./again/', image, false],
    ['./here/here/result', image, false],
    ['./within', image, true],
    ['./folder/image.tar', `./store/${'1'.repeat(32)}-folder`, true],
    [`./store/${'1'.repeat(32)}-link`, `./store/${'1'.repeat(32)}-link`, false],
  ])('%s is %s (inside of it: %s)', (text, storePath, below) => {
    expect(place(text)).toEqual({ storePath: storePath.replace(/^\./, folder), below })
  })

  test.each(['./nix', './absent/image.tar', './round', './round/x', './result#app', 'result', '/'])(
    '%s is undefined',
    (text) => {
      expect(place(text)).toBeUndefined()
    },
  )
})
