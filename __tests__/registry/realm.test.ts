import { describe, expect, test } from '@jest/globals'
import { isLoopback, realmProblem } from '../../src/registry/realm.ts'

// Addresses for documentation (RFC 5737, RFC 3849): public ones, and no name has to be looked up.
const publicRegistry = new URL('https://203.0.113.7/v2/')
const corporateRegistry = new URL('https://10.0.0.7/v2/')
const localRegistry = new URL('http://127.0.0.1:5000/v2/')
const unencrypted = 'the credentials would go there unencrypted'
const inside = 'it is an address of a private network, and the registry is a public one'

describe('a password goes to a token service', () => {
  test.each([
    ['over https', 'https://198.51.100.1/token', publicRegistry],
    ['over https with a port', 'https://[2001:db8::1]:8443/token', publicRegistry],
    ['on the loopback host of the registry', 'http://127.0.0.1:5001/token', localRegistry],
    ['on the private network of the registry', 'https://192.168.1.1/token', corporateRegistry],
    ['on this machine, for a registry on it', 'https://localhost/token', localRegistry],
  ])('%s', async (_, realm, registry) => {
    expect(await realmProblem(realm, registry, true)).toBeUndefined()
  })
})

describe('a password goes nowhere else', () => {
  test.each([
    ['http://198.51.100.1/token', publicRegistry, unencrypted],
    ['http://203.0.113.7/token', publicRegistry, unencrypted],
    ['http://10.0.0.7/token', corporateRegistry, unencrypted],
    ['http://localhost:5001/token', localRegistry, unencrypted],
    ['http://127.0.0.2:5001/token', localRegistry, unencrypted],
    ['http://127.0.0.1.example/token', localRegistry, unencrypted],
    ['/token', publicRegistry, 'that is no URL'],
    ['file:///etc/passwd', publicRegistry, 'it is neither https nor http'],
    ['ftp://198.51.100.1/token', publicRegistry, 'it is neither https nor http'],
  ])('not to %s', async (realm, registry, problem) => {
    expect(await realmProblem(realm, registry, true)).toBe(problem)
  })
})

describe('a public registry gets no look into private networks', () => {
  test.each([
    'https://10.1.2.3/token',
    'https://172.31.0.1/token',
    'https://192.168.0.1/token',
    'https://100.64.0.1/token',
    'https://127.0.0.1/token',
    'https://localhost/token',
    'https://0.0.0.0/token',
    'http://169.254.169.254/latest/meta-data/',
    'http://2852039166/latest/meta-data/',
    'http://0xa9fea9fe/latest/meta-data/',
    'http://[::ffff:169.254.169.254]/latest/meta-data/',
    'https://[::]/token',
    'https://[::1]/token',
    'https://[fe80::1]/token',
    'https://[fd00::1]/token',
  ])('by %s', async (realm) => {
    expect(await realmProblem(realm, publicRegistry, false)).toBe(inside)
    expect(await realmProblem(realm, corporateRegistry, false)).toBeUndefined()
  })

  test('and may say http where nothing secret goes along', async () => {
    expect(await realmProblem('http://198.51.100.1/token', publicRegistry, false)).toBeUndefined()
  })
})

test.each([
  ['localhost', true],
  ['127.0.0.1', true],
  ['127.255.0.1', true],
  ['[::1]', true],
  ['::1', true],
  ['[::ffff:7f00:1]', true],
  ['10.0.0.1', false],
  ['0.0.0.0', false],
  ['[2001:db8::1]', false],
  ['localhost.example', false],
  ['127.0.0.1.example', false],
  ['ghcr.io', false],
])('plain http may be spoken to %s: %p', (host, expected) => {
  expect(isLoopback(host)).toBe(expected)
})
