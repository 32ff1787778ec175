import * as v from 'valibot'
import { FormatError } from '../errors.ts'
import type { ResponseHeaders } from '../http/messages.ts'
import { readJson } from '../json.ts'
import { type Descriptor, OCI_INDEX, parseManifest } from '../oci/manifest.ts'
import { type Digest, formatReference, type Repository } from '../oci/reference.ts'
import { settleAll, settled } from '../promises.ts'
import type { Registry, StoredManifest } from './registry.ts'
import { RegistryError } from './registry-error.ts'
import { contentWithinLimit, formatContentName, isSuccess, type Requests } from './requests.ts'
import type { TransportRequest } from './transport.ts'

/** In bytes, for each page. The same as for a manifest. */
const LIST_LIMIT = 4 * 1024 * 1024
const PAGES_LIMIT = 32

/** Statuses that say nothing about whether a registry supports referrers. */
const UNRELATED = new Set([401, 403, 408, 429])

/** https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers */
export function createReferrersReader({
  http,
  transport,
  errorOf,
}: Pick<Requests, 'http' | 'transport' | 'errorOf'>): Pick<Registry, 'listReferrers'> {
  return {
    async listReferrers(repository, digest) {
      const name = formatContentName(repository, digest)
      const first: TransportRequest = {
        method: 'GET',
        repository,
        access: 'pull',
        path: `referrers/${digest}`,
        headers: { accept: OCI_INDEX },
        limit: LIST_LIMIT,
        operation: `list the referrers of ${name}`,
      }
      const manifests: Descriptor[] = []
      let call: TransportRequest | undefined = first
      for (let page = 0; call !== undefined; page++) {
        assertWithinLimit(page, repository, name)
        const reply = await transport.send(call)
        if (!reply.ok && (UNRELATED.has(reply.status) || reply.status >= 500))
          throw await errorOf(call, http.drain(reply))
        const listed = isSuccess(reply) ? entriesOf(contentWithinLimit(reply, call), reply.headers, name) : undefined
        // Proxies and old registries answer unknown paths in many ways.
        if (listed === undefined) return undefined
        manifests.push(...listed)
        const next = nextPage(reply.headers, reply.url)
        call = next && { ...first, path: next }
      }
      return manifests
    },
  }
}

/** A part of the list would look complete: its readers would miss attestations, or not copy them. */
function assertWithinLimit(page: number, { host }: Repository, name: string): void {
  if (page < PAGES_LIMIT) return
  throw new RegistryError({
    host,
    problem: 'other',
    message: `The list of referrers of ${name} has more than ${PAGES_LIMIT} pages`,
    hint: 'Delete signatures and attestations of this image that are no longer needed.',
  })
}

const EMPTY_LIST = v.object({ mediaType: v.literal(OCI_INDEX), manifests: v.null() })

/** Returns undefined for anything but an index. */
function entriesOf(bytes: Buffer, headers: ResponseHeaders, name: string): readonly Descriptor[] | undefined {
  // olareg writes null for an empty list.
  if (readJson(EMPTY_LIST, bytes).ok) return []
  try {
    const parsed = parseManifest(bytes, headers.get('content-type') ?? '', `the list of referrers of ${name}`)
    return parsed.kind === 'index' ? parsed.manifests : undefined
  } catch (error) {
    if (error instanceof FormatError) return undefined
    throw error
  }
}

/** https://www.rfc-editor.org/rfc/rfc8288 */
function nextPage(headers: ResponseHeaders, current: URL): URL | undefined {
  const [, target] = /<([^<>]+)>\s*;[^,]*\brel="?next\b/i.exec(headers.get('link') ?? '') ?? []
  if (target === undefined || !URL.canParse(target, current.href)) return undefined
  const next = new URL(target, current)
  return next.origin === current.origin ? next : undefined
}

/** The manifests whose `subject` is a manifest, such as its signatures. */
export interface Referrers {
  readonly manifests: readonly Descriptor[]
  /** Whether the registry lists referrers itself. If not, clients keep a list under a tag. */
  readonly supported: boolean
}

/** Lists the referrers of a manifest, which need not exist. @throws RegistryError */
export async function findReferrers(registry: Registry, repository: Repository, digest: Digest): Promise<Referrers> {
  const manifests = await registry.listReferrers(repository, digest)
  if (manifests !== undefined) return { manifests, supported: true }
  const list = await readReferrersTag(registry, repository, digest)
  return { manifests: list?.entries ?? [], supported: false }
}

/**
 * Returns the tag for the list of referrers of a manifest.
 * Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
 */
export function referrersTag(digest: Digest): string {
  return digest.replace(':', '-')
}

interface TaggedList {
  readonly stored: StoredManifest
  readonly entries: readonly Descriptor[]
}

/** Returns undefined if the tag does not exist. @throws RegistryError if it is not an index */
async function readReferrersTag(
  registry: Registry,
  repository: Repository,
  digest: Digest,
): Promise<TaggedList | undefined> {
  const tag = referrersTag(digest)
  const stored = await registry.getManifest(repository, tag)
  if (stored === undefined) return undefined
  const name = formatReference({ repository, tag })
  const parsed = parseManifest(stored.bytes, stored.mediaType, name)
  if (parsed.mediaType === OCI_INDEX && parsed.kind === 'index') return { stored, entries: parsed.manifests }
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `${name} should be the list of referrers of ${digest}, but is an image`,
    hint: 'Delete this tag.',
  })
}

/** How often a list is read and written again because another client has changed it. */
const CONFLICT_ATTEMPTS = 4

/**
 * Adds referrers to the list that clients keep for registries that don't list referrers. Keeps all other entries, except
 * those whose manifests were deleted if the registry refuses the list because of them.
 * @throws RegistryError
 */
export async function addReferrers(
  registry: Registry,
  repository: Repository,
  subject: Digest,
  added: readonly Descriptor[],
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const list = await readReferrersTag(registry, repository, subject)
    const put = async (bytes: Uint8Array): Promise<void> => {
      await registry.putManifest(repository, referrersTag(subject), OCI_INDEX, bytes, list?.stored.etag)
    }
    const bytes = composeList(list, added)
    if (bytes === undefined) return
    const { error } = await settled(put(bytes))
    if (error === undefined) return
    if (error instanceof RegistryError && error.status === 412 && attempt < CONFLICT_ATTEMPTS) continue
    const deleted = await findDeleted(registry, repository, list, error)
    const rest = deleted.length > 0 ? composeList(list, added, deleted) : undefined
    if (rest === undefined) throw error
    return put(rest)
  }
}

/** Returns undefined if all referrers are in the list. Keeps fields and entries as they are. */
function composeList(
  list: TaggedList | undefined,
  added: readonly Descriptor[],
  deleted: readonly Digest[] = [],
): Uint8Array | undefined {
  const missing = added.filter(({ digest }) => !list?.entries.some((entry) => entry.digest === digest))
  if (missing.length === 0) return undefined
  const before: { readonly manifests: readonly { readonly digest: Digest }[] } =
    list === undefined
      ? { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }
      : JSON.parse(list.stored.bytes.toString('utf8'))
  const manifests = [...before.manifests.filter(({ digest }) => !deleted.includes(digest)), ...missing]
  return new TextEncoder().encode(JSON.stringify({ ...before, manifests }))
}

/** Returns the entries that may be why a registry refuses a list. */
async function findDeleted(
  registry: Registry,
  repository: Repository,
  list: TaggedList | undefined,
  error: unknown,
): Promise<readonly Digest[]> {
  if (!(error instanceof RegistryError) || !/(BLOB|MANIFEST)_UNKNOWN/.test(error.code ?? '')) return []
  const found = await settleAll(
    (list?.entries ?? []).map(async ({ digest }) =>
      (await registry.findDigest(repository, digest)) === undefined ? [digest] : [],
    ),
  )
  return found.flat()
}
