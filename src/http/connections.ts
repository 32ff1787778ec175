import { Agent, type Dispatcher, Pool, ProxyAgent } from 'undici'
import type { Network, Reach } from './network.ts'
import { type Proxies, proxyFor, unusableProxy } from './proxy.ts'

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
