import { createHash } from 'node:crypto'
import * as v from 'valibot'
import { FormatError } from '../errors.ts'

/** A repository: `ghcr.io/owner/app` is host `ghcr.io` and path `owner/app`. */
export interface Repository {
  /** The host name and port, as in image names: `docker.io` for Docker Hub. */
  readonly host: string
  readonly path: string
}

/** A repository with a tag, a digest, both, or neither. */
export interface Reference {
  readonly repository: Repository
  readonly tag?: string
  readonly digest?: Digest
}

const HUB = 'docker.io'
const HUB_ALIASES = new Set(['index.docker.io', 'registry-1.docker.io'])
const HOST = /^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(?::[0-9]+)?$/
const PATH = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/

/**
 * Parses a reference as Docker does: the first part is a host if it has a dot or a colon, or is `localhost`. Otherwise
 * the image is on Docker Hub, where a name of one part is in `library/`. Unlike Docker, takes a name of one part with a
 * dot for a host without a path, and refuses it.
 * Grammar: https://github.com/distribution/reference/blob/main/reference.go
 * @throws FormatError that names the invalid part
 */
export function parseReference(text: string): Reference {
  if (/^[a-z]+:\/\//i.test(text)) throw new FormatError({ message: `"${text}" is a URL; remove "${schemeOf(text)}"` })
  const [beforeDigest = '', digest, ...more] = text.split('@')
  if (more.length > 0 || (digest !== undefined && !isDigest(digest)))
    throw new FormatError({ message: `"${text}": what follows "@" must be sha256: and 64 hexadecimal digits` })
  const colon = beforeDigest.lastIndexOf(':')
  const tagged = colon > beforeDigest.lastIndexOf('/')
  const repository = parseName(tagged ? beforeDigest.slice(0, colon) : beforeDigest, text)
  const tag = tagged ? beforeDigest.slice(colon + 1) : undefined
  if (tag !== undefined && !isTag(tag)) throw new FormatError({ message: `"${text}": ${tagProblem(tag)}` })
  return { repository, ...(tag !== undefined && { tag }), ...(digest !== undefined && { digest }) }
}

/** Returns whether `parseReference` accepts a text. */
export function isReference(text: string): boolean {
  try {
    parseReference(text)
    return true
  } catch {
    return false
  }
}

/** Formats the canonical name, including the host: `docker.io/library/app` for `app`. */
export function formatRepository(repository: Repository): string {
  return `${repository.host}/${repository.path}`
}

/** Formats the full reference: `ghcr.io/owner/app:latest`. */
export function formatReference({ repository, tag, digest }: Reference): string {
  return `${formatRepository(repository)}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`
}

/** Returns whether two repositories are the same. Both are canonical. */
export function sameRepository(one: Repository, other: Repository): boolean {
  return one.host === other.host && one.path === other.path
}

/** Returns whether a text is a valid tag. */
export function isTag(text: string): boolean {
  return TAG.test(text)
}

/** Explains why a text is not a valid tag. */
export function tagProblem(text: string): string {
  if (text === '') return 'a tag must not be empty'
  if (text.length > 128) return `the tag "${text}" has ${text.length} characters, at most 128 are allowed`
  return `"${text}" is not a tag: a tag consists of letters, digits, "_", "." and "-", and begins with a letter, a digit or "_"`
}

function parseName(name: string, whole: string): Repository {
  const slash = name.indexOf('/')
  // Docker would look for this on Docker Hub. The user means a registry.
  if (slash === -1 && /\.|^localhost$/.test(name))
    throw new FormatError({
      message: `"${whole}" is not an image name: there is nothing after the host`,
      hint: `Add the name of the image: ${whole}/owner/app. For an image on Docker Hub, write the full name: docker.io/library/${name}.`,
    })
  const first = slash === -1 ? '' : name.slice(0, slash)
  const hosted = first === 'localhost' || /[.:]/.test(first)
  const host = hosted ? first : HUB
  const rest = hosted ? name.slice(slash + 1) : name
  const canonicalHost = HUB_ALIASES.has(host) ? HUB : host
  const path = canonicalHost === HUB && rest !== '' && !rest.includes('/') ? `library/${rest}` : rest
  if (!HOST.test(host) || !URL.canParse(`https://${host}/`))
    throw new FormatError({ message: `"${whole}": "${host}" is not a host name` })
  if (!PATH.test(path)) throw new FormatError({ message: `"${whole}" is not an image name: ${pathProblem(rest)}` })
  if (path.length > 255) throw new FormatError({ message: `"${whole}": an image name has at most 255 characters` })
  return { host: canonicalHost, path }
}

function pathProblem(path: string): string {
  if (path === '') return 'there is nothing after the host'
  const odd = path.match(/[^a-z0-9._/-]/)
  if (odd) return `it can't contain "${odd[0]}"`
  return 'each part between slashes begins and ends with a lower-case letter or a digit, with ".", "_", "__" or "-" between them'
}

function schemeOf(text: string): string {
  return text.slice(0, text.indexOf('://') + 3)
}

/** A reference to a tag. */
export interface TagReference extends Reference {
  readonly tag: string
}

/** `sha256:` and 64 lower-case hexadecimal digits. SHA-256 is the algorithm that every registry supports. */
export type Digest = `sha256:${string}`

const DIGEST_PATTERN = /^sha256:[0-9a-f]{64}$/

/** Returns whether a text is a SHA-256 digest. */
export function isDigest(text: string): text is Digest {
  return DIGEST_PATTERN.test(text)
}

/** Returns the first 12 digits of a digest, as Docker shows it. */
export function shortDigest(digest: Digest): string {
  return digest.slice('sha256:'.length, 'sha256:'.length + 12)
}

/** Returns the digest of bytes. */
export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** The schema of a digest in a document. */
export const DIGEST = v.custom<Digest>(
  (value) => typeof value === 'string' && isDigest(value),
  'is not a sha256 digest',
)
