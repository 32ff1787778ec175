/**
 * The length of the shortest secret that is masked, in characters. Secrets are masked everywhere, and the runner drops
 * outputs that contain them: a password such as `sha256` would garble the log and remove digests.
 */
const SHORTEST_SECRET = 8

const known = new Set<string>()

/**
 * Registers a secret of this process.
 * @returns the forms of the secret to mask, except those that were registered before
 */
export function addSecret(secret: string): readonly string[] {
  const added = formsOf(secret).filter((form) => !known.has(form))
  for (const form of added) known.add(form)
  return added
}

/** Replaces every secret in a text, in any of its forms, with `***`. */
export function withoutSecrets(text: string): string {
  // Longest first: replacing a secret that is part of another one would leave the rest of that one.
  const forms = [...known].filter((form) => text.includes(form)).sort((a, b) => b.length - a.length)
  return forms.reduce((redacted, form) => redacted.replaceAll(form, '***'), text)
}

/** Returns the forms of a secret in URLs, form data, headers, JSON and the output of other programs. */
function formsOf(secret: string): readonly string[] {
  if (secret.length < SHORTEST_SECRET) return []
  const bytes = Buffer.from(secret)
  const forms = [
    secret,
    encodeURIComponent(secret),
    new URLSearchParams([['', secret]]).toString().slice(1),
    JSON.stringify(secret).slice(1, -1),
    // Without padding, which is optional.
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('base64url'),
  ]
  return [...new Set(forms)]
}
