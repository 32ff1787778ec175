import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { selfSigned } from './certificate.ts'
import { startProxy } from './proxy.ts'
import type { Account } from './registry/authorization.ts'
import { type RegistryOptions, startRegistry, type TestRegistry } from './registry.ts'

export interface GitHubRegistry extends TestRegistry {
  /** The environment with which clients reach it. */
  readonly env: Readonly<Record<string, string>>
  /** The hosts and ports that clients have connected to through the proxy. */
  readonly targets: readonly string[]
  /** Its certificate, in PEM format. */
  readonly certificate: string
}

/**
 * Starts a registry that clients know as `ghcr.io`: a proxy leads there, and this process trusts its certificate. Like
 * GHCR, it issues tokens itself.
 */
export async function startGitHubRegistry(account: Account, options: RegistryOptions = {}): Promise<GitHubRegistry> {
  const tls = selfSigned('ghcr.io')
  const trusted = getCACertificates()
  setDefaultCACertificates([...trusted, tls.cert])
  const registry = await startRegistry({ name: 'ghcr.io', tls, auth: { kind: 'bearer', ...account }, ...options })
  const proxy = await startProxy(registry.host, () => 'tunnel')
  return {
    ...registry,
    env: { HTTPS_PROXY: `http://${proxy.host}`, NO_PROXY: '127.0.0.1' },
    targets: proxy.targets,
    certificate: tls.cert,
    close: async () => {
      setDefaultCACertificates(trusted)
      await proxy.close()
      await registry.close()
    },
  }
}
