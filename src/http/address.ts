import { BlockList, isIP } from 'node:net'

/** The kind of network of an address, from the most public to the nearest. No connection may lead to a forbidden address. */
export type Zone = 'public' | 'private' | 'loopback' | 'forbidden'

/** The kind of an IP address. */
export interface AddressKind {
  readonly zone: Zone
  /** For messages, with an article: `a link-local address`. */
  readonly name: string
}

const PUBLIC: AddressKind = { zone: 'public', name: 'a public address' }
const PRIVATE: AddressKind = { zone: 'private', name: 'a private address' }
const LOOPBACK: AddressKind = { zone: 'loopback', name: 'a loopback address' }
const LINK_LOCAL: AddressKind = { zone: 'forbidden', name: 'a link-local address' }
const CLOUD_METADATA: AddressKind = { zone: 'forbidden', name: 'a metadata address of a cloud' }
const MULTICAST: AddressKind = { zone: 'forbidden', name: 'a multicast address' }
const RESERVED: AddressKind = { zone: 'forbidden', name: 'a reserved address' }

/**
 * Returns the kind of an IP address. An IPv6 address that embeds an IPv4 address has that address's kind.
 * Source: https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry
 */
export function classifyAddress(address: string): AddressKind {
  const bare = address.replace(/%.*$/, '')
  const family = isIP(bare)
  if (family === 0) return RESERVED
  if (family === 4) return listedKind(bare, 'ipv4') ?? PUBLIC
  const known = listedKind(bare, 'ipv6')
  if (known !== undefined) return known
  const embedded = embeddedAddress(groupsOf(bare))
  if (embedded !== undefined) return classifyAddress(embedded)
  return GLOBAL.check(bare, 'ipv6') ? PUBLIC : RESERVED
}

/** Reports whether a host name or address is this machine, for which plain http is allowed. */
export function isLoopback(hostname: string): boolean {
  const address = unbracketed(hostname)
  if (address === 'localhost') return true
  return isIP(address) !== 0 && THIS_MACHINE.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

/** Returns the host of a URL as Node's network functions expect it: IPv6 addresses without brackets. */
export function unbracketed(hostname: string): string {
  return hostname.replace(/^\[|\]$/g, '')
}

function blockList(networks: readonly string[]): BlockList {
  const list = new BlockList()
  for (const network of networks) {
    const [address = '', prefix] = network.split('/')
    list.addSubnet(address, Number(prefix), isIP(address) === 6 ? 'ipv6' : 'ipv4')
  }
  return list
}

const THIS_MACHINE = blockList(['127.0.0.0/8', '::1/128'])

/** Global unicast addresses: https://www.iana.org/assignments/ipv6-address-space */
const GLOBAL = blockList(['2000::/3'])

/** The kinds of address blocks. The first entry that contains an address counts. */
const ADDRESS_KINDS: readonly (readonly [AddressKind, BlockList])[] = [
  [LINK_LOCAL, blockList(['169.254.0.0/16', 'fe80::/10'])],
  [
    CLOUD_METADATA,
    blockList([
      '168.63.129.16/32', // Azure
      '100.100.100.200/32', // Alibaba Cloud
      '192.0.0.192/32', // Oracle Cloud
      'fd00:ec2::/32', // AWS
      'fd20:ce::254/128', // Google Cloud
      'fd00:c1::a9fe:a9fe/128', // Oracle Cloud
      'fd00:42::42/128', // Scaleway
    ]),
  ],
  [LOOPBACK, blockList(['127.0.0.0/8', '0.0.0.0/32', '::1/128', '::/128'])],
  [MULTICAST, blockList(['224.0.0.0/4', 'ff00::/8'])],
  [RESERVED, blockList(['0.0.0.0/8', '255.255.255.255/32', '100::/64', '100:0:0:1::/64'])],
  [
    PRIVATE,
    blockList([
      '10.0.0.0/8',
      '100.64.0.0/10',
      '172.16.0.0/12',
      '192.0.0.0/24',
      '192.168.0.0/16',
      '198.18.0.0/15',
      '240.0.0.0/4', // Reserved, but service meshes give services such addresses.
      'fc00::/7',
      'fec0::/10',
      '64:ff9b:1::/48',
    ]),
  ],
]

function listedKind(address: string, family: 'ipv4' | 'ipv6'): AddressKind | undefined {
  return ADDRESS_KINDS.find(([, list]) => list.check(address, family))?.[0]
}

/** Returns the IPv4 address that an IPv6 address embeds, if any. */
function embeddedAddress(groups: readonly number[]): string | undefined {
  const [first = 0, second = 0, third = 0, , , , seventh = 0, eighth = 0] = groups
  const prefix = groups.slice(0, 6).join(':')
  if (EMBEDDING_PREFIXES.has(prefix)) return dotted(seventh, eighth)
  // 6to4, RFC 3056.
  if (first === 0x2002) return dotted(second, third)
  // Teredo, RFC 4380: the client's address, each bit inverted.
  if (first === 0x2001 && second === 0) return dotted(seventh ^ 0xffff, eighth ^ 0xffff)
  return undefined
}

const EMBEDDING_PREFIXES = new Set(
  [
    [0, 0, 0, 0, 0, 0], // IPv4-compatible, RFC 4291
    [0, 0, 0, 0, 0, 0xffff], // IPv4-mapped, RFC 4291
    [0, 0, 0, 0, 0xffff, 0], // IPv4-translated, RFC 2765
    [0x64, 0xff9b, 0, 0, 0, 0], // NAT64, RFC 6052
  ].map((groups) => groups.join(':')),
)

function dotted(high: number, low: number): string {
  return [high >> 8, high & 0xff, low >> 8, low & 0xff].join('.')
}

/** The eight groups of an IPv6 address. */
function groupsOf(address: string): readonly number[] {
  // In a URL, an IPv4 address at the end is written as two groups.
  const [head = '', tail] = unbracketed(new URL(`http://[${address}]`).hostname).split('::')
  const parse = (part: string): readonly number[] =>
    part === '' ? [] : part.split(':').map((group) => parseInt(group, 16))
  const before = parse(head)
  const after = parse(tail ?? '')
  return [...before, ...Array(8 - before.length - after.length).fill(0), ...after]
}
