/**
 * The shortest text that counts as a secret, in characters. A secret is hidden wherever it occurs, and the runner drops
 * outputs that contain it: with an ordinary word for a password, such as `sha256`, neither the log nor a digest would be
 * left. Passwords so short protect nothing.
 */
const SHORTEST_SECRET = 8

const known = new Set<string>()

/**
 * Registers a secret of this process.
 * @returns the forms of it that are to be masked, without those that were registered before
 */
export function addSecret(secret: string): readonly string[] {
  const added = formsOf(secret).filter((form) => !known.has(form))
  for (const form of added) known.add(form)
  return added
}

/** Returns a text with `***` in place of each secret, in any of its forms. */
export function withoutSecrets(text: string): string {
  // The longest first: a secret within another one must not leave the rest of that one behind.
  const forms = [...known].filter((form) => text.includes(form)).sort((a, b) => b.length - a.length)
  return forms.reduce((redacted, form) => redacted.replaceAll(form, '***'), text)
}

/** Returns a secret as it may occur in a URL, a form, a header, JSON, or in what another program prints. */
function formsOf(secret: string): readonly string[] {
  if (secret.length < SHORTEST_SECRET) return []
  const bytes = Buffer.from(secret)
  const forms = [
    secret,
    encodeURIComponent(secret),
    new URLSearchParams([['', secret]]).toString().slice(1),
    JSON.stringify(secret).slice(1, -1),
    // Without its padding, which not everybody writes.
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('base64url'),
  ]
  return [...new Set(forms)]
}
