/** What a registry asks for, from `WWW-Authenticate`. */
export type Challenge =
  | { readonly scheme: 'basic' }
  | {
      readonly scheme: 'bearer'
      readonly realm: string
      readonly service?: string
      /** Why the token of the request was refused, such as `insufficient_scope`. */
      readonly error?: string
    }

/**
 * Reads the challenge that this client answers: Bearer before Basic, whichever is first.
 * Source: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1, https://distribution.github.io/distribution/spec/auth/token/
 */
export function parseChallenge(header: string | null): Challenge | undefined {
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

interface RawChallenge {
  readonly scheme: string
  readonly parameters: Map<string, string>
}

/** A parameter, or else a word, which begins the next challenge. */
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
