import { describe, expect, test } from '@jest/globals'
import { readLockedInputs } from '../../src/nix/flake-lock.ts'

describe('the inputs of a lock file', () => {
  const inputOf = (locked: object, version = 7) => {
    const nodes = { root: { inputs: { it: 'it' } }, it: { locked, original: { type: 'indirect', id: 'it' } } }
    return readLockedInputs(JSON.stringify({ nodes, root: 'root', version }), 'flake.lock')
  }
  const rev = '0123456789abcdef0123456789abcdef01234567'
  const narHash = 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='

  test.each([
    [{ type: 'github', owner: 'NixOS', repo: 'nixpkgs', rev }, `git+https://github.com/NixOS/nixpkgs@${rev}`],
    [{ type: 'github', owner: 'o', repo: 'r', rev, host: 'git.example' }, `git+https://git.example/o/r@${rev}`],
    [{ type: 'gitlab', owner: 'group%2Fsub', repo: 'r', rev }, `git+https://gitlab.com/group/sub/r@${rev}`],
    [{ type: 'sourcehut', owner: '~me', repo: 'r', rev }, `git+https://git.sr.ht/~me/r@${rev}`],
    [{ type: 'git', url: 'https://git.example/r', rev }, `git+https://git.example/r@${rev}`],
    [{ type: 'git', url: 'https://me:secret@git.example/r', rev }, `git+https://git.example/r@${rev}`],
    [{ type: 'git', url: 'ssh://git@git.example/r', rev }, `git+ssh://git@git.example/r@${rev}`],
  ])('%j is a Git commit', (locked, uri) => {
    expect(inputOf({ ...locked, narHash, lastModified: 1 })).toEqual([
      { name: 'it', uri, digest: { gitCommit: rev }, annotations: { narHash } },
    ])
  })

  test.each([
    [{ type: 'tarball', url: 'https://a.example/x.tar.gz' }, { uri: 'https://a.example/x.tar.gz' }],
    [
      { type: 'tarball', url: 'https://me@a.example/x.tar.gz?access_token=secret&ref=1' },
      { uri: 'https://a.example/x.tar.gz?ref=1' },
    ],
    [
      { type: 'tarball', url: 'https://a.example/x.tar.gz', rev },
      { uri: 'https://a.example/x.tar.gz', digest: { gitCommit: rev } },
    ],
    [{ type: 'file', url: 'https://a.example/x' }, { uri: 'https://a.example/x' }],
    [{ type: 'path', path: './lib', parent: [], lastModified: 1 }, { uri: 'path:./lib' }],
    [
      { type: 'path', path: './lib', dir: 'sub' },
      { uri: 'path:./lib', annotations: { dir: 'sub' } },
    ],
    [{ type: 'hg', url: 'https://hg.example/r', rev }, { uri: `hg+https://hg.example/r@${rev}` }],
    [{ type: 'indirect', id: 'nixpkgs' }, { uri: 'indirect:nixpkgs' }],
  ])('%j is described', (locked, expected) => {
    expect(inputOf(locked)).toEqual([{ name: 'it', ...expected }])
  })

  test.each([5, 6, 7])('are read from version %i, without the flake itself, sorted by name', (version) => {
    const node = (name: string) => ({ locked: { type: 'path', path: name }, inputs: { other: ['b'] }, flake: false })
    const nodes = { b: node('b'), top: { ...node('top'), inputs: { b: 'b', a: 'a' } }, a: node('a') }
    const inputs = readLockedInputs(JSON.stringify({ nodes, root: 'top', version }), 'flake.lock')
    expect(inputs.map(({ name }) => name)).toEqual(['a', 'b'])
  })

  test.each([
    ['not JSON', 'flake.lock is not a valid lock file: it is not JSON'],
    ['{"version":7,"root":"root","nodes":{"a":{"locked":{}}}}', 'nodes.a.locked.type'],
    ['{"version":8,"root":"root","nodes":{}}', 'flake.lock has version 8'],
  ])('%s is refused', (text, message) => {
    expect(() => readLockedInputs(text, 'flake.lock')).toThrow(message)
  })
})
