import { isLoopback } from '../http/address.ts'

/**
 * Returns why a token must not be fetched from where a registry's challenge says, or nothing if it may. The address is
 * checked when the connection is made.
 * @param realm the URL in the challenge
 * @param registry the registry that sent it
 * @param withSecret whether a password or identity token is sent along
 */
export function realmProblem(realm: string, registry: URL, withSecret: boolean): string | undefined {
  if (!URL.canParse(realm))
    return URL.canParse(realm, registry.href)
      ? 'it is a relative URL, and clients need a complete one, such as https://auth.example.org/token'
      : 'it is not a URL'
  const url = new URL(realm)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'it is neither https nor http'
  const sameLoopback = url.hostname === registry.hostname && isLoopback(url.hostname)
  if (withSecret && url.protocol === 'http:' && !sameLoopback) return 'the credentials would go there unencrypted'
  return undefined
}
