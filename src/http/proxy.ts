import { BlockList, isIP } from 'node:net'
import { messageOf } from '../errors.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { isLoopback, unbracketed } from './address.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** What is to be asked, and what for. */
interface ProxiedCall {
  readonly url: URL
  readonly operation: string
}

/** The variables of the environment, as curl and Go read them. */
export interface Proxies {
  readonly http: NamedProxy | undefined
  readonly https: NamedProxy | undefined
  /** What is asked without a proxy. */
  readonly except: readonly string[]
}

export interface NamedProxy {
  /** That names it. */
  readonly variable: string
  /** Nothing where the value is none that can be used. */
  readonly url: URL | undefined
}

/** Reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in either case; names in lower case come first. */
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
  // undici leaves names to a SOCKS proxy in any case, which is what the `h` asks for.
  const text = (value.includes('://') ? value : `http://${value.trim()}`).replace(/^\s*socks5h:/i, 'socks5:')
  if (!URL.canParse(text)) return undefined
  const url = new URL(text)
  // What follows the host is most likely the rest of a password that holds a slash.
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

/** The proxy through which a host is asked, if any. */
export function proxyFor(url: URL, { http, https, except }: Proxies): NamedProxy | undefined {
  // No proxy can know this machine by the name that it has for itself.
  if (isLoopback(url.hostname)) return undefined
  const host = unbracketed(url.hostname).replace(/\.$/, '')
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  if (except.some((entry) => covers(entry, host, port))) return undefined
  return url.protocol === 'https:' ? https : http
}

/** Whether an entry of NO_PROXY means a host: `*`, an address, a network such as 10.0.0.0/8, or a domain and all in it. */
function covers(entry: string, host: string, port: string): boolean {
  const [, name = entry, onlyPort = port] = /^(\[.+\]|[^:]+):(\d+)$/.exec(entry) ?? []
  if (onlyPort !== port) return false
  const [network = '', prefix] = name.replace(/^\[|\]$/g, '').split('/')
  if (isIP(network) !== 0) return isWithin(host, network, prefix)
  const domain = name
    .replace(/^\*?\./, '')
    .replace(/\.$/, '')
    .toLowerCase()
  if (domain === '') return false
  return domain === '*' || host.endsWith(`.${domain}`) || (host === domain && !name.startsWith('*'))
}

function isWithin(host: string, network: string, prefix: string | undefined): boolean {
  const [bits, family] = isIP(network) === 6 ? ([128, 'ipv6'] as const) : ([32, 'ipv4'] as const)
  const length = prefix === undefined ? bits : Number(prefix)
  if (isIP(host) !== isIP(network) || prefix === '' || !Number.isInteger(length) || length < 0 || length > bits)
    return false
  const list = new BlockList()
  list.addSubnet(network, length, family)
  return list.check(host, family)
}

/** The error of a variable that can't be used. Without its value, which may hold a password. */
export function unusableProxy(variable: string, { url, operation }: ProxiedCall): RegistryError {
  return new RegistryError({
    host: url.host,
    problem: 'other',
    message: `Can't ${operation}: the environment variable ${variable} holds no address of a proxy that can be used`,
    hint: `Give it one of these forms, with %25 for a % in the user name or password, %40 for an @ and %2F for a /:
  ${variable}: http://proxy.example:3128
  ${variable}: http://user:password@proxy.example:3128
  ${variable}: socks5://proxy.example:1080
${goDirect(url)}`,
  })
}

function goDirect({ hostname }: URL): string {
  return `Or add ${hostname} to NO_PROXY, where the runner can reach it without a proxy.`
}

/** The status with which a proxy has made no way to a host: undici tells it in its message alone. */
export function proxyStatus(error: unknown): number | undefined {
  const [, status] = /^Proxy (?:response|Authentication Required) \((\d{3})\)/.exec(messageOf(error)) ?? []
  return status === undefined ? undefined : Number(status)
}

/** The error of a proxy that has refused to make a way to a host. */
export function refusedByProxy(
  proxy: URL,
  variable: string,
  status: number,
  { url, operation }: ProxiedCall,
  cause: unknown,
): RegistryError {
  const hint =
    status === 407
      ? `Give it the user name and password that it wants:\n  ${variable}: ${proxy.protocol}//user:password@${proxy.host}`
      : `Have the proxy allow connections to ${url.host}.`
  return new RegistryError({
    host: url.host,
    problem: 'other',
    message: `Can't ${operation}: the proxy ${proxy.host} answered with status ${status}, and makes no way to ${url.host}`,
    hint: `${hint}\n${goDirect(url)}`,
    cause,
  })
}
