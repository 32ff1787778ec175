import { ADDRCONFIG } from 'node:dns'
import { lookup } from 'node:dns/promises'
import { isIP, type LookupFunction } from 'node:net'
import { TLSSocket } from 'node:tls'
import { buildConnector } from 'undici'
import { RegistryError } from '../registry/registry-error.ts'
import { type AddressKind, classifyAddress, unbracketed, type Zone } from './address.ts'

/** An address that a host name resolves to. */
export interface ResolvedAddress {
  readonly address: string
  readonly family: number
}

export interface NetworkSettings {
  /** Resolves a host name. Replaced by tests. */
  readonly resolve?: (hostname: string) => Promise<readonly ResolvedAddress[]>
  /** Replaced by tests, which have loopback addresses alone. */
  readonly classify?: (address: string) => AddressKind
}

/** A request, as far as it decides which addresses may be connected to. */
export interface NetworkCall {
  readonly url: URL
  /** Used in messages, after "Can't". */
  readonly operation: string
  /** The registry that causes the request; without one, every address is allowed. */
  readonly registry?: URL | undefined
}

/**
 * The nearest zone that a connection may lead to: `private` allows public and private addresses. Undefined allows every
 * address.
 */
export type Reach = Exclude<Zone, 'forbidden'> | undefined

/** When a certificate is valid, in milliseconds since 1970. */
export interface Validity {
  readonly from: number
  readonly to: number
}

/** Decides which addresses requests may be sent to, by the address itself: names can be pointed anywhere. */
export interface Network {
  /** Opens connections within a reach. Connections of different reaches must not be shared. */
  connector(reach: Reach): buildConnector.connector
  /**
   * Returns how far a request may go. A registry may be at any address that is not forbidden. It may send this client to
   * other hosts at public addresses, and to nearer ones only if it is as near itself.
   */
  reachFor(call: NetworkCall): Promise<Reach>
  /**
   * Checks a request that goes through a proxy, which alone knows the address. An address in the URL is judged as it is,
   * and a name by what it resolves to on this machine, if it does.
   * @throws RefusedAddress
   */
  checkProxied(url: URL, reach: Reach): Promise<void>
  /** Returns the validity of the certificate that an origin has shown last, unless a proxy is in between. */
  certificateOf(origin: string): Validity | undefined
}

/** An address that a connection must not be made to. */
export class RefusedAddress extends Error {
  override readonly name = 'RefusedAddress'
  readonly address: string
  readonly kind: AddressKind

  constructor(address: string, kind: AddressKind) {
    super(`${address} is ${kind.name}`)
    this.address = address
    this.kind = kind
  }
}

/** How long a name is looked up for a request through a proxy, which needs no such look-up, in milliseconds. */
const PROXIED_LOOKUP_TIMEOUT = 3_000

const CONNECT_TIMEOUT = 10_000

export function createNetwork({
  // As net.connect does: without IPv6 addresses on machines that have no IPv6.
  resolve = (hostname) => lookup(hostname, { all: true, hints: ADDRCONFIG }),
  classify = classifyAddress,
}: NetworkSettings): Network {
  /** The most public zone that connections to an origin have led to. */
  const zones = new Map<string, Zone>()
  const resolved = new Map<string, Promise<readonly string[]>>()
  const certificates = new Map<string, Validity>()

  function refusalOf(address: string, reach: Reach): RefusedAddress | undefined {
    const kind = classify(address)
    return reach === undefined || NEARNESS[kind.zone] <= NEARNESS[reach] ? undefined : new RefusedAddress(address, kind)
  }

  function lookupWithin(reach: Reach): LookupFunction {
    return (hostname, { all }, callback) => {
      resolve(hostname).then(
        (addresses) => {
          const usable = addresses.filter(({ address }) => refusalOf(address, reach) === undefined)
          const [first] = usable
          const [refused] = addresses.flatMap(({ address }) => refusalOf(address, reach) ?? [])
          if (first === undefined) callback(refused ?? new Error(`${hostname} has no address`), '')
          else if (all) callback(null, [...usable])
          else callback(null, first.address, first.family)
        },
        (error) => callback(error, ''),
      )
    }
  }

  function remember(origin: string, address: string): void {
    const { zone } = classify(address)
    const known = zones.get(origin)
    if (known === undefined || NEARNESS[zone] < NEARNESS[known]) zones.set(origin, zone)
  }

  /** The addresses of a host, as far as this machine knows them. */
  function addressesOf(hostname: string): Promise<readonly string[]> {
    const host = unbracketed(hostname)
    const known = resolved.get(host)
    if (known !== undefined) return known
    const addresses = isIP(host)
      ? Promise.resolve([host])
      : within(PROXIED_LOOKUP_TIMEOUT, resolve(host)).then(
          (all) => all.map(({ address }) => address),
          () => [],
        )
    resolved.set(host, addresses)
    return addresses
  }

  async function zoneOf(registry: URL): Promise<Zone> {
    const connected = zones.get(registry.origin)
    if (connected !== undefined) return connected
    const all = (await addressesOf(registry.hostname)).map((address) => classify(address).zone)
    return all.toSorted((one, other) => NEARNESS[one] - NEARNESS[other])[0] ?? 'public'
  }

  return {
    connector(reach) {
      const connect = buildConnector({ allowH2: false, timeout: CONNECT_TIMEOUT, lookup: lookupWithin(reach) })
      return (options, callback) => {
        // Addresses are not looked up.
        const refused = isIP(options.hostname) === 0 ? undefined : refusalOf(options.hostname, reach)
        if (refused !== undefined) return queueMicrotask(() => callback(refused, null))
        const origin = `${options.protocol}//${options.host}`
        // undici returns the socket, which its types leave out. A certificate that is refused is gone with its socket.
        const opened: unknown = connect(options, (...result) => {
          const [, socket] = result
          if (socket?.remoteAddress !== undefined) remember(origin, socket.remoteAddress)
          callback(...result)
        })
        if (opened instanceof TLSSocket)
          opened.prependOnceListener('secure', () => {
            const { valid_from, valid_to } = opened.getPeerCertificate()
            if (valid_from !== undefined)
              certificates.set(origin, { from: Date.parse(valid_from), to: Date.parse(valid_to) })
          })
      }
    },
    async reachFor({ url, registry }) {
      if (registry === undefined) return undefined
      if (url.origin === registry.origin) return 'loopback'
      const zone = await zoneOf(registry)
      return zone === 'forbidden' ? 'public' : zone
    },
    async checkProxied(url, reach) {
      if (reach === undefined) return
      for (const address of await addressesOf(url.hostname)) {
        const refused = refusalOf(address, reach)
        if (refused !== undefined) throw refused
      }
    },
    certificateOf: (origin) => certificates.get(origin),
  }
}

const NEARNESS: Readonly<Record<Zone, number>> = { public: 0, private: 1, loopback: 2, forbidden: 3 }

async function within<Result>(milliseconds: number, work: Promise<Result>): Promise<Result> {
  const { promise, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error('timed out')), milliseconds)
  try {
    return await Promise.race([work, promise])
  } finally {
    clearTimeout(timer)
  }
}

/** Returns the error of a request that a registry has sent to an address that it may not send anyone to. */
export function refusedAddress(
  { url, operation, registry = url }: NetworkCall,
  { address, kind }: RefusedAddress,
  reach: Reach,
): RegistryError {
  const { host } = registry
  const own = url.origin === registry.origin
  const target = isIP(unbracketed(url.hostname)) === 0 ? `${url.host} (${address})` : url.host
  const leads = own ? `${target} is` : `${host} points to ${target},`
  if (kind.zone === 'forbidden' || reach === undefined)
    return new RegistryError({
      host,
      problem: 'other',
      message: `Can't ${operation}: ${leads} ${kind.name}, and this action never connects to those`,
      hint: own
        ? "Check the registry's name, and the address that it resolves to on the runner."
        : `Check that ${host} is the registry you mean. If it is, report this to its operator.`,
    })
  const near = kind.zone === 'loopback' ? 'a loopback address' : 'a private address'
  return new RegistryError({
    host,
    problem: 'other',
    message: `Can't ${operation}: ${leads} ${kind.name}, but ${host} itself is at a ${reach} address`,
    hint: `If you operate ${host}, have it point to a public address, or have the runner reach ${host} itself at ${near}.`,
  })
}
