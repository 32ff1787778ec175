import { expect, test } from '@jest/globals'
import { isStorePath } from '../../src/nix/store-path.ts'

const HASH = '0123456789abcdfghijklmnpqrsvwxyz'

test.each([`/nix/store/${HASH}-docker-image-app.tar.gz`, `/home/someone/nix/store/${HASH}-app_1.0+b?x=y`])(
  '%s is a store path',
  (path) => {
    expect(isStorePath(path)).toBe(true)
  },
)

test.each([
  ['a relative path', `nix/store/${HASH}-app`],
  ['a file inside of a store path', `/nix/store/${HASH}-app/image.tar`],
  ['a path with a line break', `/nix/store/${HASH}-app\n`],
  ['a path with a space', `/nix/store/${HASH}-my app`],
  ['a path with a backtick', `/nix/store/${HASH}-\`app`],
  ['a path with `..`', `/nix/../${HASH}-app`],
  ['a path with a truncated hash', `/nix/store/${HASH.slice(1)}-app`],
  ['a path with letters outside of the base-32 alphabet', `/nix/store/${HASH.replace('f', 'e')}-app`],
  ['a path without a name', `/nix/store/${HASH}-`],
  ['the placeholder of an unknown output path', `/1${HASH}${HASH.slice(0, 19)}`],
  ['an empty string', ''],
])('%s is not a store path', (_, path) => {
  expect(isStorePath(path)).toBe(false)
})
