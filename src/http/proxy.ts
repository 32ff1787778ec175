import { BlockList, isIP } from 'node:net'
import { Agent, type Dispatcher, Pool, ProxyAgent } from 'undici'
import { messageOf } from '../errors.ts'
import { isLoopback, unbracketed } from './address.ts'
import { HttpError } from './http-error.ts'
import type { Network, Reach } from './network.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** A request that needs a proxy. */
interface ProxiedCall {
  readonly url: URL
  readonly operation: string
}

/** The proxies that the environment names, interpreted as curl and Go do. */
export interface Proxies {
  readonly http: NamedProxy | undefined
  readonly https: NamedProxy | undefined
  /** The hosts that are reached without a proxy. */
  readonly except: readonly string[]
}

export interface NamedProxy {
  /** The name of the environment variable. */
  readonly variable: string
  /** Undefined if the value is not a valid proxy URL. */
  readonly url: URL | undefined
}

/** Reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Lower-case names take precedence. */
export function readProxies(env: Environment): Proxies {
  const variableOf = (name: string) => [name.toLowerCase(), name].find((one) => env[one])
  const proxyOf = (name: string): NamedProxy | undefined => {
    const variable = variableOf(name)
    return variable === undefined ? undefined : { variable, url: readProxy(env[variable] ?? '') }
  }
  const except = env[variableOf('NO_PROXY') ?? ''] ?? ''
  return { http: proxyOf('HTTP_PROXY'), https: proxyOf('HTTPS_PROXY'), except: except.split(/[\s,]+/) }
}

const PROXY_PROTOCOLS = new Set(['http:', 'https:', 'socks:', 'socks5:'])

function readProxy(value: string): URL | undefined {
  // undici always lets a SOCKS proxy resolve names, which is what the `h` means.
  const text = (value.includes('://') ? value : `http://${value.trim()}`).replace(/^\s*socks5h:/i, 'socks5:')
  if (!URL.canParse(text)) return undefined
  const url = new URL(text)
  // A path is most likely the rest of a password that contains a slash.
  const bare = /^\/?$/.test(url.pathname + url.search + url.hash) && url.hostname !== ''
  return bare && PROXY_PROTOCOLS.has(url.protocol) && isDecodable(url.username + url.password) ? url : undefined
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

/** Returns the proxy for a URL, if any. */
export function proxyFor(url: URL, { http, https, except }: Proxies): NamedProxy | undefined {
  // For a proxy, a loopback address is the proxy itself.
  if (isLoopback(url.hostname)) return undefined
  const host = unbracketed(url.hostname).replace(/\.$/, '')
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  if (except.some((entry) => covers(entry, host, port))) return undefined
  return url.protocol === 'https:' ? https : http
}

/** Reports whether an entry of NO_PROXY covers a host: `*`, an address, a network such as 10.0.0.0/8, or a domain. */
function covers(entry: string, host: string, port: string): boolean {
  const [, name = entry, onlyPort = port] = /^(\[.+\]|[^:]+):(\d+)$/.exec(entry) ?? []
  if (onlyPort !== port) return false
  const [network = '', prefix] = name.replace(/^\[|\]$/g, '').split('/')
  if (isIP(network) !== 0) return isInNetwork(host, network, prefix)
  const domain = name
    .replace(/^\*?\./, '')
    .replace(/\.$/, '')
    .toLowerCase()
  if (domain === '') return false
  return domain === '*' || host.endsWith(`.${domain}`) || (host === domain && !name.startsWith('*'))
}

function isInNetwork(host: string, network: string, prefix: string | undefined): boolean {
  const [bits, family] = isIP(network) === 6 ? ([128, 'ipv6'] as const) : ([32, 'ipv4'] as const)
  const length = prefix === undefined ? bits : Number(prefix)
  if (isIP(host) !== isIP(network) || prefix === '' || !Number.isInteger(length) || length < 0 || length > bits)
    return false
  const list = new BlockList()
  list.addSubnet(network, length, family)
  return list.check(host, family)
}

/** Returns the error of a variable with an invalid value. Leaves out the value, which may contain a password. */
export function unusableProxy(variable: string, { url, operation }: ProxiedCall): HttpError {
  return new HttpError({
    host: url.host,
    problem: 'other',
    message: `Can't ${operation}: the environment variable ${variable} is not a valid proxy URL`,
    hint: `Use one of these forms. In the user name and password, write %25 for %, %40 for @ and %2F for /:
  ${variable}: http://proxy.example:3128
  ${variable}: http://user:password@proxy.example:3128
  ${variable}: socks5://proxy.example:1080
${goDirect(url)}`,
  })
}

function goDirect({ hostname }: URL): string {
  return `Or add ${hostname} to NO_PROXY, if the runner can reach it without a proxy.`
}

/** Returns the status with which a proxy refused to open a tunnel. undici has it only in the message of its error. */
export function proxyStatus(error: unknown): number | undefined {
  const [, status] = /^Proxy (?:response|Authentication Required) \((\d{3})\)/.exec(messageOf(error)) ?? []
  return status === undefined ? undefined : Number(status)
}

/** Returns the error of a proxy that refused to open a tunnel to a host. */
export function refusedByProxy(
  proxy: URL,
  variable: string,
  status: number,
  { url, operation }: ProxiedCall,
  cause: unknown,
): HttpError {
  const hint =
    status === 407
      ? `Set its user name and password:\n  ${variable}: ${proxy.protocol}//user:password@${proxy.host}`
      : `Allow connections to ${url.host} in the proxy's configuration.`
  return new HttpError({
    host: url.host,
    problem: 'other',
    message: `Can't ${operation}: the proxy ${proxy.host} answered the request to connect to ${url.host} with status ${status}`,
    hint: `${hint}\n${goDirect(url)}`,
    cause,
  })
}

/** The most connections to one host. A merge requests hundreds of blobs at a time. */
const CONNECTIONS = 64

// Blobs are transferred in parallel over separate connections; a single HTTP/2 connection would queue them.
const OPTIONS = { allowH2: false, connections: CONNECTIONS }

/** The connections of the process, kept open between requests. */
export interface Connections {
  /** Returns the way for a request, directly or through a proxy. @throws HttpError or RefusedAddress */
  dispatcherFor(call: ConnectionCall): Promise<Dispatcher>
  /** Closes all connections and cancels their requests. */
  close(): Promise<void>
}

/** The properties of a request that decide how to connect. */
export interface ConnectionCall {
  readonly url: URL
  readonly operation: string
  readonly initiator?: URL
}

/** @param tunnelTimeout how long a proxy may take to open a tunnel, in milliseconds */
export function createConnections(network: Network, proxies: Proxies, tunnelTimeout: number): Connections {
  const direct = new Map<Reach, Agent>()
  const proxied = new Map<string, ProxyAgent>()
  let closed = false

  // undici's headers timeout, five minutes by default, also limits the wait for a tunnel.
  const clientFactory = (origin: URL, options: object) =>
    new Pool(origin, { ...options, headersTimeout: tunnelTimeout })

  /** Requests share a connection only if they may reach the same addresses. */
  function agentFor(reach: Reach): Agent {
    const agent = direct.get(reach) ?? new Agent({ ...OPTIONS, connect: network.connector(reach) })
    direct.set(reach, agent)
    return agent
  }

  function proxyAgentFor(uri: string): ProxyAgent {
    const agent = proxied.get(uri) ?? new ProxyAgent({ ...OPTIONS, uri, clientFactory })
    proxied.set(uri, agent)
    return agent
  }

  return {
    async dispatcherFor(call) {
      const proxy = proxyFor(call.url, proxies)
      if (proxy !== undefined && proxy.url === undefined) throw unusableProxy(proxy.variable, call)
      const reach = await network.reachFor(call)
      if (proxy?.url !== undefined) await network.checkProxied(call.url, reach)
      if (closed) throw new Error('the client is closed')
      return proxy?.url === undefined ? agentFor(reach) : proxyAgentFor(proxy.url.href)
    },
    async close() {
      closed = true
      await Promise.all([...direct.values(), ...proxied.values()].map((agent) => agent.destroy()))
    },
  }
}
