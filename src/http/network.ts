import { ADDRCONFIG } from 'node:dns'
import { lookup } from 'node:dns/promises'
import { isIP, type LookupFunction } from 'node:net'
import { TLSSocket } from 'node:tls'
import { buildConnector } from 'undici'
import { type AddressKind, classifyAddress, unbracketed, type Zone } from './address.ts'
import { HttpError } from './http-error.ts'

/** An address that a host name resolves to. */
export interface ResolvedAddress {
  readonly address: string
  readonly family: number
}

export interface NetworkSettings {
  /** Resolves a host name. Replaced by tests. */
  readonly resolve?: (hostname: string) => Promise<readonly ResolvedAddress[]>
  /** Replaced by tests, which only have loopback addresses. */
  readonly classify?: (address: string) => AddressKind
}

/** The properties of a request that decide which addresses it may be sent to. */
export interface NetworkCall {
  readonly url: URL
  /** Used in messages, after "Can't". */
  readonly operation: string
  /** The server that caused the request. If undefined, every address is allowed. */
  readonly initiator?: URL | undefined
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

/** Decides which IP addresses requests may be sent to. Host names don't count, because they can point anywhere. */
export interface Network {
  /** Opens connections within a reach. Connections of different reaches must not be shared. */
  connector(reach: Reach): buildConnector.connector
  /**
   * Returns the nearest zone that a request may be sent to. The initiator may be at any address that is not forbidden. It
   * may cause requests to hosts at public addresses, and to hosts in nearer zones only if it is in such a zone itself.
   */
  reachFor(call: NetworkCall): Promise<Reach>
  /**
   * Checks a request through a proxy, which resolves the host name itself: checks the address in the URL, or the addresses
   * that this machine resolves the name to, if it can.
   * @throws RefusedAddress
   */
  checkProxied(url: URL, reach: Reach): Promise<void>
  /** Returns the validity of the last certificate of an origin, unless it was reached through a proxy. */
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

/** The timeout for resolving the host name of a request through a proxy, which does not need it, in milliseconds. */
const PROXIED_LOOKUP_TIMEOUT = 3_000

const CONNECT_TIMEOUT = 10_000

export function createNetwork({
  // Like net.connect, ignores IPv6 addresses on machines without IPv6.
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

  /** Returns the addresses of a host, or none if this machine can't resolve its name. */
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

  async function zoneOf(server: URL): Promise<Zone> {
    const connected = zones.get(server.origin)
    if (connected !== undefined) return connected
    const all = (await addressesOf(server.hostname)).map((address) => classify(address).zone)
    return all.toSorted((one, other) => NEARNESS[one] - NEARNESS[other])[0] ?? 'public'
  }

  return {
    connector(reach) {
      const connect = buildConnector({ allowH2: false, timeout: CONNECT_TIMEOUT, lookup: lookupWithin(reach) })
      return (options, callback) => {
        // net.connect does not call `lookup` for IP addresses.
        const refused = isIP(options.hostname) === 0 ? undefined : refusalOf(options.hostname, reach)
        if (refused !== undefined) return queueMicrotask(() => callback(refused, null))
        const origin = `${options.protocol}//${options.host}`
        // undici returns the socket, although its types say otherwise. After an error, the certificate is no longer available.
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
    async reachFor({ url, initiator }) {
      if (initiator === undefined) return undefined
      if (url.origin === initiator.origin) return 'loopback'
      const zone = await zoneOf(initiator)
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

/** Returns the error of a request to an address that its initiator must not direct requests to. */
export function refusedAddress(
  { url, operation, initiator = url }: NetworkCall,
  { address, kind }: RefusedAddress,
  reach: Reach,
): HttpError {
  const { host } = initiator
  const own = url.origin === initiator.origin
  const target = isIP(unbracketed(url.hostname)) === 0 ? `${url.host} (${address})` : url.host
  const leads = own ? `${target} is` : `${host} points to ${target},`
  if (kind.zone === 'forbidden' || reach === undefined)
    return new HttpError({
      host,
      problem: 'other',
      message: `Can't ${operation}: ${leads} ${kind.name}, which this action never connects to`,
      hint: own
        ? `Check the name ${host}, and the address that it resolves to on the runner.`
        : `Check that ${host} is the host you mean. If it is, report this to its operator.`,
    })
  const near = kind.zone === 'loopback' ? 'a loopback address' : 'a private address'
  return new HttpError({
    host,
    problem: 'other',
    message: `Can't ${operation}: ${leads} ${kind.name}, but ${host} itself is at a ${reach} address`,
    hint: `If you operate ${host}, make it point to a public address, or make the runner reach ${host} at ${near}.`,
  })
}
