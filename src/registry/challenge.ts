/** What a registry asks for, from `WWW-Authenticate`. */
export type Challenge =
  | { readonly scheme: 'basic' }
  | { readonly scheme: 'bearer'; readonly realm: string; readonly service?: string; readonly scope?: string }

/**
 * Reads the first challenge that this client can answer.
 * Source: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1, https://distribution.github.io/distribution/spec/auth/token/
 */
export function parseChallenge(header: string | null): Challenge | undefined {
  const challenges = splitChallenges(header ?? '')
  const bearer = challenges.find((one) => one.scheme === 'bearer' && one.parameters.get('realm'))
  if (bearer) {
    const { realm = '', service, scope } = Object.fromEntries(bearer.parameters) as Readonly<Record<string, string>>
    return { scheme: 'bearer', realm, ...(service !== undefined && { service }), ...(scope !== undefined && { scope }) }
  }
  return challenges.some((one) => one.scheme === 'basic') ? { scheme: 'basic' } : undefined
}

interface RawChallenge {
  readonly scheme: string
  readonly parameters: ReadonlyMap<string, string>
}

function splitChallenges(header: string): readonly RawChallenge[] {
  // A scheme is a word that is followed by a space and a parameter, or stands alone.
  return header.split(/,?\s*(?=\b(?:Bearer|Basic)\b(?:\s|$))/i).map((text) => {
    const [scheme = ''] = text.trim().split(/\s/, 1)
    const parameters = [...text.slice(scheme.length).matchAll(/([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))/g)]
    return {
      scheme: scheme.toLowerCase(),
      parameters: new Map(
        parameters.map(([, name = '', quoted, plain]) => [
          name.toLowerCase(),
          quoted?.replace(/\\(.)/g, '$1') ?? plain ?? '',
        ]),
      ),
    }
  })
}
