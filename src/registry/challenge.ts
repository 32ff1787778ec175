import { isLoopback } from '../http/address.ts'

/** A challenge from a `WWW-Authenticate` header. */
export type Challenge =
  | { readonly scheme: 'basic' }
  | {
      readonly scheme: 'bearer'
      readonly realm: string
      readonly service?: string
      /** The reason why the token of the request was refused, such as `insufficient_scope`. */
      readonly error?: string
    }

/**
 * Parses a `WWW-Authenticate` header. Prefers Bearer to Basic.
 * Source: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1, https://distribution.github.io/distribution/spec/auth/token/
 */
export function parseChallenge(header: string | undefined): Challenge | undefined {
  const challenges = splitChallenges(header ?? '')
  const bearer = challenges.find(({ scheme, parameters }) => scheme === 'bearer' && parameters.get('realm'))?.parameters
  const realm = bearer?.get('realm')
  if (bearer === undefined || realm === undefined)
    return challenges.some(({ scheme }) => scheme === 'basic') ? { scheme: 'basic' } : undefined
  const [service, error] = [bearer.get('service'), bearer.get('error')]
  return {
    scheme: 'bearer',
    realm,
    ...(service !== undefined && { service }),
    ...(error !== undefined && { error }),
  }
}

/**
 * Returns why a token must not be fetched from the realm of a challenge, or undefined if it may. The IP address is checked
 * separately, when connecting.
 * @param registry the registry that sent it
 * @param withSecret whether a password or identity token is sent along
 */
export function realmProblem(realm: string, registry: URL, withSecret: boolean): string | undefined {
  if (!URL.canParse(realm))
    return URL.canParse(realm, registry.href)
      ? 'it must be an absolute URL, such as https://auth.example.org/token'
      : 'it is not a URL'
  const url = new URL(realm)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'its scheme must be https or http'
  const sameLoopback = url.hostname === registry.hostname && isLoopback(url.hostname)
  if (withSecret && url.protocol === 'http:' && !sameLoopback) return 'the credentials would be sent unencrypted'
  return undefined
}

interface RawChallenge {
  readonly scheme: string
  readonly parameters: Map<string, string>
}

/** A parameter, or a scheme, which begins the next challenge. */
const PART = /[\s,]*(?:([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([^\s,="]+))/gy

function splitChallenges(header: string): readonly RawChallenge[] {
  const challenges: RawChallenge[] = []
  for (const [, name, quoted, plain, scheme] of header.matchAll(PART)) {
    if (scheme !== undefined) challenges.push({ scheme: scheme.toLowerCase(), parameters: new Map() })
    else if (name !== undefined)
      challenges.at(-1)?.parameters.set(name.toLowerCase(), quoted?.replace(/\\(.)/g, '$1') ?? plain ?? '')
  }
  return challenges
}
