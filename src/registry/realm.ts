import { lookup } from 'node:dns/promises'
import { BlockList, isIP } from 'node:net'

/**
 * Why a token must not be fetched from where a registry's challenge says, or nothing where it may. A challenge is a
 * stranger's word: it must not send a password in the clear, nor make this machine talk to its own network.
 * @param realm the URL in the challenge
 * @param registry the registry that sent it
 * @param withSecret whether a password or identity token goes along
 */
export async function realmProblem(realm: string, registry: URL, withSecret: boolean): Promise<string | undefined> {
  if (!URL.canParse(realm)) return 'that is no URL'
  const url = new URL(realm)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'it is neither https nor http'
  const sameLoopback = url.hostname === registry.hostname && isLoopback(url.hostname)
  if (withSecret && url.protocol === 'http:' && !sameLoopback) return 'the credentials would go there unencrypted'
  const [toPrivate, fromPrivate] = await Promise.all([isPrivate(url.hostname), isPrivate(registry.hostname)])
  return toPrivate && !fromPrivate
    ? 'it is an address of a private network, and the registry is a public one'
    : undefined
}

/** Whether a host name or address is this machine. */
export function isLoopback(hostname: string): boolean {
  const address = unbracketed(hostname)
  if (address === 'localhost') return true
  return isIP(address) !== 0 && LOOPBACK.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8)
LOOPBACK.addAddress('::1', 'ipv6')

const PRIVATE = new BlockList()
for (const [network, prefix] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
] as const)
  PRIVATE.addSubnet(network, prefix)
for (const [network, prefix] of [
  ['::', 127],
  ['fc00::', 7],
  ['fe80::', 10],
] as const)
  PRIVATE.addSubnet(network, prefix, 'ipv6')

/** Names are looked up; one that can't be (a proxy may know it all the same) counts as public. */
async function isPrivate(hostname: string): Promise<boolean> {
  const host = unbracketed(hostname)
  const addresses = isIP(host) ? [{ address: host }] : await lookup(host, { all: true }).catch(() => [])
  return addresses.some(({ address }) => PRIVATE.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4'))
}

function unbracketed(hostname: string): string {
  return hostname.replace(/^\[|\]$/g, '')
}
