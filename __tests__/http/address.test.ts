import { expect, test } from '@jest/globals'
import { classifyAddress, isLoopback } from '../../src/http/address.ts'

const linkLocal = 'a link-local address'
const platform = 'a metadata address of a cloud'

test.each([
  ['8.8.8.8', 'public', 'a public address'],
  ['203.0.113.7', 'public', 'a public address'],
  ['172.15.255.255', 'public', 'a public address'],
  ['172.32.0.0', 'public', 'a public address'],
  ['100.128.0.1', 'public', 'a public address'],
  ['2001:db8::1', 'public', 'a public address'],
  ['2606:4700::1111', 'public', 'a public address'],
  ['10.1.2.3', 'private', 'a private address'],
  ['172.31.0.1', 'private', 'a private address'],
  ['192.168.0.1', 'private', 'a private address'],
  ['100.64.0.1', 'private', 'a private address'],
  ['198.18.0.1', 'private', 'a private address'],
  ['192.0.0.1', 'private', 'a private address'],
  ['240.240.0.1', 'private', 'a private address'],
  ['fc00::1', 'private', 'a private address'],
  ['fd00::1', 'private', 'a private address'],
  ['fec0::1', 'private', 'a private address'],
  ['64:ff9b:1::1', 'private', 'a private address'],
  ['127.0.0.1', 'loopback', 'a loopback address'],
  ['127.255.255.255', 'loopback', 'a loopback address'],
  ['0.0.0.0', 'loopback', 'a loopback address'],
  ['::', 'loopback', 'a loopback address'],
  ['::1', 'loopback', 'a loopback address'],
  ['169.254.169.254', 'forbidden', linkLocal],
  ['169.254.0.1', 'forbidden', linkLocal],
  ['fe80::1', 'forbidden', linkLocal],
  ['fe80::1%eth0', 'forbidden', linkLocal],
  ['febf::1', 'forbidden', linkLocal],
  ['168.63.129.16', 'forbidden', platform],
  ['100.100.100.200', 'forbidden', platform],
  ['192.0.0.192', 'forbidden', platform],
  ['fd00:ec2::254', 'forbidden', platform],
  ['fd20:ce::254', 'forbidden', platform],
  ['224.0.0.1', 'forbidden', 'a multicast address'],
  ['ff02::1', 'forbidden', 'a multicast address'],
  ['0.0.0.1', 'forbidden', 'a reserved address'],
  ['255.255.255.255', 'forbidden', 'a reserved address'],
  ['100::1', 'forbidden', 'a reserved address'],
  ['4000::1', 'forbidden', 'a reserved address'],
  ['nonsense', 'forbidden', 'a reserved address'],
])('%s is %s: %s', (address, zone, name) => {
  expect(classifyAddress(address)).toEqual({ zone, name })
})

const forms: readonly (readonly [string, (high: string, low: string) => string])[] = [
  ['IPv4-mapped', (high, low) => `::ffff:${high}:${low}`],
  ['IPv4-compatible', (high, low) => `::${high}:${low}`],
  ['IPv4-translated', (high, low) => `::ffff:0:${high}:${low}`],
  ['NAT64', (high, low) => `64:ff9b::${high}:${low}`],
  ['6to4', (high, low) => `2002:${high}:${low}::1`],
]

test.each(forms)('an address in the form of %s has the kind of the IPv4 address in it', (_, write) => {
  expect(classifyAddress(write('a9fe', 'a9fe')).name).toBe(linkLocal)
  expect(classifyAddress(write('a83f', '8110')).name).toBe(platform)
  expect(classifyAddress(write('7f00', '2')).zone).toBe('loopback')
  expect(classifyAddress(write('a01', '203')).zone).toBe('private')
  expect(classifyAddress(write('808', '808')).zone).toBe('public')
})

test.each([
  ['::ffff:169.254.169.254', 'forbidden'],
  ['64:ff9b::10.0.0.1', 'private'],
  ['2001:0:808:808::5601:5601', 'forbidden'],
  ['2001:0:a9fe:a9fe::f7f7:f7f7', 'public'],
])('the embedded address of the receiver decides: %s is %s', (address, zone) => {
  expect(classifyAddress(address).zone).toBe(zone)
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
])('plain http is allowed for %s: %p', (host, expected) => {
  expect(isLoopback(host)).toBe(expected)
})
