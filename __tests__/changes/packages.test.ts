import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { compareStorePaths, type PackageChanges } from '../../src/changes/packages.ts'
import { splitStoreName } from '../../src/sbom/store-name.ts'

/** Returns a store path. @param hash one character of its hash */
function path(name: string, hash = '0'): string {
  return `/nix/store/${hash.repeat(32)}-${name}`
}

function compare(before: readonly string[], after: readonly string[]): PackageChanges {
  return compareStorePaths(
    before.map((name) => path(name)),
    after.map((name) => path(name)),
  )
}

const NOTHING: PackageChanges = { added: [], removed: [], updated: [], rebuilt: 0 }

describe('packages', () => {
  test('are added, removed and updated', () => {
    expect(compare(['glibc-2.40-36', 'zlib-1.3', 'sh'], ['glibc-2.40-66', 'curl-8.16.0', 'entrypoint'])).toEqual({
      added: [{ name: 'curl', version: '8.16.0' }, { name: 'entrypoint' }],
      removed: [{ name: 'sh' }, { name: 'zlib', version: '1.3' }],
      updated: [{ name: 'glibc', from: '2.40-36', to: '2.40-66' }],
      rebuilt: 0,
    })
  })

  test('with several outputs are updated once', () => {
    expect(compare(['glibc-2.40-36', 'glibc-2.40-36-bin'], ['glibc-2.40-66-bin', 'glibc-2.40-66']).updated).toEqual([
      { name: 'glibc', from: '2.40-36', to: '2.40-66' },
    ])
  })

  test('in the same version with another hash are counted as rebuilt', () => {
    const before = [path('glibc-2.40', '1'), path('glibc-2.40-bin', '1'), path('sh', '1'), path('zlib-1.3', '1')]
    const after = [path('glibc-2.40', '2'), path('glibc-2.40-bin', '2'), path('sh', '2'), path('zlib-1.3', '1')]
    expect(compareStorePaths(before, after)).toEqual({ ...NOTHING, rebuilt: 2 })
  })

  test('name the outputs that an image has in addition', () => {
    expect(compare(['glibc-2.40'], ['glibc-2.40', 'glibc-2.40-bin', 'glibc-2.40-dev'])).toEqual({
      ...NOTHING,
      added: [{ name: 'glibc', version: '2.40', outputs: ['bin', 'dev'] }],
    })
    expect(compare(['glibc-2.40', 'glibc-2.40-bin'], ['glibc-2.40']).removed).toEqual([
      { name: 'glibc', version: '2.40', outputs: ['bin'] },
    ])
  })
})

describe('several versions of a package', () => {
  const updatesOf = (before: readonly string[], after: readonly string[]) => {
    const named = (versions: readonly string[]) => versions.map((version) => `openssl-${version}`)
    const { added, removed, updated } = compare(named(before), named(after))
    return [
      ...updated.map(({ from, to }) => `${from} → ${to}`),
      ...added.map(({ version }) => `+ ${version}`),
      ...removed.map(({ version }) => `− ${version}`),
    ]
  }

  test.each([
    [
      ['1.1.1v', '3.0.14'],
      ['3.0.15', '1.1.1w'],
      ['1.1.1v → 1.1.1w', '3.0.14 → 3.0.15'],
    ],
    [['3.0.14'], ['1.1.1w', '3.0.15'], ['3.0.14 → 3.0.15', '+ 1.1.1w']],
    [['1.1.1w', '3.0.14'], ['3.0.15'], ['3.0.14 → 3.0.15', '− 1.1.1w']],
    [
      ['1.1.1w', '3.0.14'],
      ['3.0.15', '3.1.0'],
      ['1.1.1w → 3.1.0', '3.0.14 → 3.0.15'],
    ],
    [['1.1.1w', '3.0.14'], ['1.1.1w', '3.4.0'], ['3.0.14 → 3.4.0']],
    [
      ['9.0', '10.0'],
      ['11.0', '12.0'],
      ['9.0 → 11.0', '10.0 → 12.0'],
    ],
    [['3.0.15'], ['3.0.14'], ['3.0.15 → 3.0.14']],
  ])('%j and then %j are paired by what they have in common', (before, after, expected) => {
    expect(updatesOf(before, after)).toEqual(expected)
  })
})

describe('for any two images,', () => {
  const storePath = fc
    .tuple(
      fc.constantFrom('a', 'b', 'c-lib', 'd-1x'),
      fc.constantFrom('', '-1', '-1.2', '-1.2.3', '-2.0', '-2.1-rc1', '-10.0'),
      fc.constantFrom('', '-bin', '-dev'),
      fc.constantFrom('0', '1'),
    )
    .map(([name, version, output, hash]) => path(`${name}${version}${output}`, hash))
  const image = fc.uniqueArray(storePath, { maxLength: 30 })

  /** The names and versions of packages, sorted. */
  const versionsOf = (paths: readonly string[]) => {
    const split = paths.map((one) => splitStoreName(one.slice('/nix/store/'.length + 33), undefined))
    return [...new Set(split.map(({ pname, version = '' }) => `${pname} ${version}`))].sort()
  }
  const whole = (entries: PackageChanges['added']) =>
    entries.flatMap(({ name, version = '', outputs }) => (outputs ? [] : [`${name} ${version}`]))

  test('the changes turn the packages of the first into those of the second', () => {
    fc.assert(
      fc.property(image, image, (before, after) => {
        const { added, removed, updated } = compareStorePaths(before, after)
        const gone = [...whole(removed), ...updated.map(({ name, from }) => `${name} ${from}`)]
        const fresh = [...whole(added), ...updated.map(({ name, to }) => `${name} ${to}`)]
        const kept = versionsOf(before).filter((one) => !gone.includes(one))
        expect([...kept, ...fresh].sort()).toEqual(versionsOf(after))
        expect(kept).toHaveLength(versionsOf(before).length - gone.length)
      }),
    )
  })

  test('the changes back are the same ones reversed', () => {
    fc.assert(
      fc.property(image, image, (before, after) => {
        const { added, removed, updated, rebuilt } = compareStorePaths(before, after)
        const back = compareStorePaths(after, before)
        expect({ added: back.removed, removed: back.added, rebuilt: back.rebuilt }).toEqual({ added, removed, rebuilt })
        const reversed = back.updated.map(({ name, from, to }) => `${name} ${to} ${from}`)
        expect(reversed.sort()).toEqual(updated.map(({ name, from, to }) => `${name} ${from} ${to}`).sort())
      }),
    )
  })

  test('the order of the store paths does not matter, and an image has no changes against itself', () => {
    fc.assert(
      fc.property(image, image, (before, after) => {
        expect(compareStorePaths(before.toReversed(), after.toReversed())).toEqual(compareStorePaths(before, after))
        expect(compareStorePaths(after, after.toReversed())).toEqual(NOTHING)
      }),
    )
  })

  test('a package never has more added and removed versions left than one of them', () => {
    fc.assert(
      fc.property(image, image, (before, after) => {
        const { added, removed } = compareStorePaths(before, after)
        const versioned = (entries: PackageChanges['added']) =>
          entries.flatMap(({ name, version, outputs }) => (outputs || version === undefined ? [] : [name]))
        expect(versioned(added).filter((name) => versioned(removed).includes(name))).toEqual([])
      }),
    )
  })
})
