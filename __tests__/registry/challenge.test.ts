import { expect, test } from '@jest/globals'
import { parseChallenge } from '../../src/registry/challenge.ts'

const realm = 'https://auth.example/token'

test.each([
  [`Bearer realm="${realm}",service="registry",scope="repository:app:pull,push"`, { realm, service: 'registry' }],
  [`bearer Realm="${realm}"`, { realm }],
  [`Bearer realm=${realm}, service=registry`, { realm, service: 'registry' }],
  [`Bearer service="a \\"quoted\\" one" , realm = "${realm}"`, { realm, service: 'a "quoted" one' }],
  [
    `Bearer realm="${realm}",service="the Basic registry, or Bearer of it"`,
    { realm, service: 'the Basic registry, or Bearer of it' },
  ],
  [`Basic realm="x", Bearer realm="${realm}",service="s"`, { realm, service: 's' }],
  [`Negotiate, Bearer realm="${realm}"`, { realm }],
])('%s requires a token', (header, expected) => {
  expect(parseChallenge(header)).toEqual({ scheme: 'bearer', ...expected })
})

test.each([
  'Basic realm="Registry Realm"',
  'basic',
  'Negotiate, Basic realm="x"',
  'Basic realm="Bearer of x"',
  'Bearer, Basic realm="x"',
])('%s requires a user name and password', (header) => {
  expect(parseChallenge(header)).toEqual({ scheme: 'basic' })
})

test.each([
  undefined,
  '',
  'Negotiate',
  'Digest realm="x", nonce="y"',
  'Bearer',
  'Bearer service="s"',
  'Bearer realm=""',
])('%p is not supported', (header) => {
  expect(parseChallenge(header)).toBeUndefined()
})
