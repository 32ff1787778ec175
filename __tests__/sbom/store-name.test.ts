import { describe, expect, test } from '@jest/globals'
import { compareStorePaths } from '../../src/changes/packages.ts'
import { splitStoreName } from '../../src/sbom/store-name.ts'

describe('a store path whose derivation is unknown', () => {
  test.each([
    ['glibc-2.40-66', 'glibc', '2.40-66', undefined],
    ['glibc-2.40-66-bin', 'glibc', '2.40-66', 'bin'],
    ['openssl-3.4.1-dev', 'openssl', '3.4.1', 'dev'],
    ['bash-interactive-5.2p37-man', 'bash-interactive', '5.2p37', 'man'],
    ['gcc-14.3.0-libgcc', 'gcc', '14.3.0', 'libgcc'],
    ['python3.12-requests-2.32.3', 'python3.12-requests', '2.32.3', undefined],
    ['hello-unstable-2024-01-31', 'hello-unstable', '2024-01-31', undefined],
    ['app-1.0-beta', 'app', '1.0-beta', undefined],
    ['nss-cacert-3.111', 'nss-cacert', '3.111', undefined],
    ['entrypoint.sh', 'entrypoint.sh', undefined, undefined],
    ['user-lib', 'user-lib', undefined, undefined],
    ['a--1', 'a', '-1', undefined],
  ])('%s is split like Nix does, and has an output that is usual in nixpkgs', (name, pname, version, output) => {
    expect(splitStoreName(name, undefined)).toEqual({ pname, version, output })
  })

  test.each(['bin', 'data', 'debug', 'devman', 'getent', 'static', 'terminfo', 'tools'])(
    'has the output %s in the SBOM and in the changes',
    (output) => {
      const name = `glibc-2.40-66-${output}`
      const base = `/nix/store/${'0'.repeat(32)}-glibc-2.40-66`
      expect(splitStoreName(name, undefined)).toEqual({ pname: 'glibc', version: '2.40-66', output })
      expect(compareStorePaths([base], [base, `/nix/store/${'1'.repeat(32)}-${name}`]).added).toEqual([
        { name: 'glibc', version: '2.40-66', outputs: [output] },
      ])
    },
  )
})
