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
  ['something below one', `/nix/store/${HASH}-app/image.tar`],
  ['one with two lines', `/nix/store/${HASH}-app\n`],
  ['one with a blank', `/nix/store/${HASH}-my app`],
  ['one with a backtick', `/nix/store/${HASH}-\`app`],
  ['one that climbs', `/nix/../${HASH}-app`],
  ['one of a hash cut short', `/nix/store/${HASH.slice(1)}-app`],
  ['one of letters that no hash has', `/nix/store/${HASH.replace('f', 'e')}-app`],
  ['one without a name', `/nix/store/${HASH}-`],
  ['what stands for a path that is not known before the build', `/1${HASH}${HASH.slice(0, 19)}`],
  ['nothing', ''],
])('%s is none', (_, path) => {
  expect(isStorePath(path)).toBe(false)
})
