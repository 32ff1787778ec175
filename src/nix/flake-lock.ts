import * as v from 'valibot'
import { FormatError } from '../errors.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'

/** https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md */
export interface ResourceDescriptor {
  readonly name?: string | undefined
  readonly uri: string
  readonly digest?: Readonly<Record<string, string>> | undefined
  readonly annotations?: Readonly<Record<string, string>> | undefined
}

/** A resource in JSON of another job. */
export const RESOURCE = v.object({
  name: v.optional(v.string()),
  uri: v.string(),
  digest: v.optional(v.record(v.string(), v.string())),
  annotations: v.optional(v.record(v.string(), v.string())),
})

const TEXT = v.optional(v.string())
const LOCKED = v.looseObject({
  type: v.string(),
  owner: TEXT,
  repo: TEXT,
  host: TEXT,
  url: TEXT,
  path: TEXT,
  id: TEXT,
  dir: TEXT,
  rev: TEXT,
  narHash: TEXT,
})
type Locked = v.InferOutput<typeof LOCKED>

const LOCK = v.object({
  version: v.number(),
  root: v.string(),
  nodes: v.record(v.string(), v.object({ locked: v.optional(LOCKED) })),
})

/**
 * Returns the locked inputs of a flake, sorted by name. in-toto has no digest for a NAR, so that its hash is an annotation.
 * Source: https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix3-flake.html#lock-files
 * @param json a lock file, or `locks` of `nix flake metadata --json`
 * @param name the name of the document in errors: `flake.lock`
 * @throws FormatError
 */
export function readLockedInputs(json: string | Uint8Array, name: string): readonly ResourceDescriptor[] {
  const read = readJson(LOCK, json)
  if (!read.ok) {
    const problem = read.place === undefined ? read.problem : `${read.place}: ${read.problem}`
    throw new FormatError({ message: `${name} is not a valid lock file: ${sanitizeLine(problem)}` })
  }
  const { version, root, nodes } = read.value
  if (version < 5 || version > 7)
    throw new FormatError({ message: `${name} has version ${version}, but only the versions 5 to 7 are supported` })
  return Object.entries(nodes)
    .flatMap(([key, { locked }]) => (key === root || locked === undefined ? [] : [describeInput(key, locked)]))
    .sort(byName)
}

function byName({ name: one = '' }: ResourceDescriptor, { name: other = '' }: ResourceDescriptor): number {
  if (one === other) return 0
  return one < other ? -1 : 1
}

function describeInput(name: string, locked: Locked): ResourceDescriptor {
  const { narHash, dir, rev, type } = locked
  const annotations = { ...(dir && { dir }), ...(narHash && { narHash }) }
  return {
    name,
    uri: uriOf(locked),
    // Mercurial's revisions look the same.
    ...(rev && type !== 'hg' && { digest: { gitCommit: rev } }),
    ...(Object.keys(annotations).length > 0 && { annotations }),
  }
}

/** The hosts of the types of inputs that are an owner and a repository. */
const FORGES: Readonly<Record<string, string>> = {
  github: 'github.com',
  gitlab: 'gitlab.com',
  sourcehut: 'git.sr.ht',
}

function uriOf({ type, owner, repo, host, url, path, id, rev }: Locked): string {
  const revision = rev === undefined ? '' : `@${rev}`
  const forge = FORGES[type]
  if (forge !== undefined && owner !== undefined && repo !== undefined)
    // Subgroups of GitLab: `group%2Fsubgroup`.
    return `git+https://${host ?? forge}/${owner.replace(/%2F/gi, '/')}/${repo}${revision}`
  if (url === undefined) return `${type}:${path ?? id ?? ''}`
  const address = withoutCredentials(url)
  if (type === 'git' || type === 'hg') return `${type}+${address}${revision}`
  return address
}

/** Removes the user and password of a URL, and parameters that may be secrets. */
function withoutCredentials(text: string): string {
  if (!URL.canParse(text)) return text
  const url = new URL(text)
  const secrets = [...url.searchParams.keys()].filter((key) =>
    /token|secret|password|auth|credential|sig|key/i.test(key),
  )
  // SSH needs its user: `git@`.
  if (secrets.length === 0 && url.password === '' && (url.username === '' || url.protocol === 'ssh:')) return text
  for (const key of secrets) url.searchParams.delete(key)
  url.password = ''
  if (url.protocol !== 'ssh:') url.username = ''
  return url.href
}
