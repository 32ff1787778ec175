import { describe, expect, test } from '@jest/globals'
import { realmProblem } from '../../src/registry/challenge.ts'

// Addresses for documentation (RFC 5737, RFC 3849): public ones, and no name has to be looked up.
const publicRegistry = new URL('https://203.0.113.7/v2/')
const corporateRegistry = new URL('https://10.0.0.7/v2/')
const localRegistry = new URL('http://127.0.0.1:5000/v2/')
const unencrypted = 'the credentials would be sent unencrypted'

describe('a password is sent to a token service', () => {
  test.each([
    ['over https', 'https://198.51.100.1/token', publicRegistry],
    ['over https with a port', 'https://[2001:db8::1]:8443/token', publicRegistry],
    ['on the loopback host of the registry', 'http://127.0.0.1:5001/token', localRegistry],
    ['on the private network of the registry', 'https://192.168.1.1/token', corporateRegistry],
    ['on this machine, for a registry on it', 'https://localhost/token', localRegistry],
  ])('%s', (_, realm, registry) => {
    expect(realmProblem(realm, registry, true)).toBeUndefined()
  })
})

describe('a password is not sent anywhere else', () => {
  test.each([
    ['http://198.51.100.1/token', publicRegistry, unencrypted],
    ['http://203.0.113.7/token', publicRegistry, unencrypted],
    ['http://10.0.0.7/token', corporateRegistry, unencrypted],
    ['http://localhost:5001/token', localRegistry, unencrypted],
    ['http://127.0.0.2:5001/token', localRegistry, unencrypted],
    ['http://127.0.0.1.example/token', localRegistry, unencrypted],
    ['/token', publicRegistry, 'it must be an absolute URL, such as https://auth.example.org/token'],
    ['http://[/token', publicRegistry, 'it is not a URL'],
    ['file:///etc/passwd', publicRegistry, 'its scheme must be https or http'],
    ['ftp://198.51.100.1/token', publicRegistry, 'its scheme must be https or http'],
  ])('not to %s', (realm, registry, problem) => {
    expect(realmProblem(realm, registry, true)).toBe(problem)
  })
})

test('http is allowed without credentials', () => {
  expect(realmProblem('http://198.51.100.1/token', publicRegistry, false)).toBeUndefined()
})
