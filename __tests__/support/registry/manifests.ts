import { type Call, isDigest } from './call.ts'
import { contentOf, type RegistryError, type Reply, refuse, reply, replyJson, replyWith } from './reply.ts'
import { type Manifest, type Repository, sha256 } from './store.ts'

export const mediaTypes = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
} as const

/** `GET` and `HEAD` of a manifest, in the media type it was pushed with, if the client accepts that. */
export function getManifest(call: Call): Reply {
  if (isMalformed(call.reference)) return refuse(400, { code: 'DIGEST_INVALID' })
  const repository = call.store.find(call.repository)
  const found = repository && findManifest(repository, call.reference)
  if (repository === undefined || found === undefined) return unknown(call)
  const manifest = acceptable(call, repository, found)
  if ('status' in manifest) return manifest
  const { bytes, digest, mediaType } = manifest
  const known = call.headers['if-none-match']
  if (known === digest || known === `"${digest}"`) return reply(304)
  const headers = { 'content-type': mediaType, 'docker-content-digest': digest, etag: `"${digest}"` }
  return replyWith(200, contentOf(bytes), headers)
}

/** Stores a manifest if everything that it references exists, and moves the tag to it if it was pushed by tag. */
export async function putManifest(call: Call): Promise<Reply> {
  const { locate, reference, repository, store } = call
  if (isMalformed(reference)) return refuse(400, { code: 'DIGEST_INVALID' })
  const bytes = await readLimited(call.body)
  if (bytes === undefined) return refuse(400, { code: 'MANIFEST_INVALID', detail: 'http: request body too large' })
  const mediaType = (call.headers['content-type'] ?? '').replace(/;.*/, '').trim()
  const digest = sha256(bytes)
  const parts = partsOf(bytes, mediaType)
  if (parts === undefined) return refuse(400, { code: 'MANIFEST_INVALID', detail: {} })
  if (isDigest(reference) && reference !== digest) return refuse(400, { code: 'DIGEST_INVALID' })
  const missing = missingFrom(store.repository(repository), parts)
  if (missing.length > 0) return refuse(400, ...missing)
  saveManifest(store.repository(repository), { bytes, mediaType, digest }, reference)
  const subject = call.referrers ? parse(bytes)?.subject?.digest : undefined
  const location = locate(`/v2/${repository}/manifests/${digest}`)
  return reply(201, { 'docker-content-digest': digest, location, ...(subject && { 'oci-subject': subject }) })
}

/** https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers */
export function listReferrers({ reference, repository, store }: Call): Reply {
  const all = [...(store.find(repository)?.manifests.values() ?? [])]
  const manifests = all.flatMap(({ bytes, digest, mediaType }) => {
    const { artifactType, annotations, subject } = parse(bytes) ?? {}
    return subject?.digest === reference ? [{ mediaType, digest, size: bytes.length, artifactType, annotations }] : []
  })
  const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests }
  return replyJson(200, index, { 'content-type': mediaTypes.ociIndex })
}

/** By digest only, including the tags that point to it. Docker Distribution 2.8 does not delete tags by name. */
export function deleteManifest({ reference, repository, store }: Call): Reply {
  if (!isDigest(reference)) return refuse(400, { code: 'DIGEST_INVALID' })
  const found = store.find(repository)
  if (found === undefined || !found.manifests.delete(reference)) return refuse(404, { code: 'MANIFEST_UNKNOWN' })
  for (const [tag, digest] of found.tags) if (digest === reference) found.tags.delete(tag)
  return reply(202)
}

export function listTags({ repository, store }: Call): Reply {
  const found = store.find(repository)
  if (found === undefined || !found.tagged) return refuse(404, { code: 'NAME_UNKNOWN', detail: { name: repository } })
  const tags = [...found.tags.keys()].sort()
  return replyJson(200, { name: repository, tags: tags.length === 0 ? null : tags })
}

export function findManifest({ manifests, tags }: Repository, reference: string): Manifest | undefined {
  return manifests.get(isDigest(reference) ? reference : (tags.get(reference) ?? ''))
}

export function saveManifest(repository: Repository, manifest: Manifest, reference: string): void {
  repository.manifests.set(manifest.digest, manifest)
  if (!isDigest(reference)) tagManifest(repository, reference, manifest.digest)
}

export function tagManifest(repository: Repository, tag: string, digest: string): void {
  repository.tags.set(tag, digest)
  repository.tagged = true
}

/** The limit of Docker Distribution and most registries. */
const sizeLimit = 4 * 1024 * 1024

async function readLimited(body: AsyncIterable<Buffer>): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size <= sizeLimit) chunks.push(chunk)
  }
  return size > sizeLimit ? undefined : Buffer.concat(chunks)
}

function isMalformed(reference: string): boolean {
  return reference.includes(':') && !isDigest(reference)
}

function unknown({ reference, repository }: Call): Reply {
  const detail = isDigest(reference) ? { Name: repository, Revision: reference } : { Tag: reference }
  return refuse(404, { code: 'MANIFEST_UNKNOWN', detail })
}

/**
 * Docker Distribution 2.8's answer to an `Accept` without the manifest's type, including wildcards
 * (registry/handlers/manifests.go): no OCI manifest, and for a Docker list by tag, the linux/amd64 manifest.
 */
function acceptable(call: Call, repository: Repository, manifest: Manifest): Manifest | Reply {
  const accepted = (call.headers.accept ?? '').split(',').map((type) => type.replace(/;.*/, '').trim())
  if (accepted.includes(manifest.mediaType)) return manifest
  // The real registry would convert it to schema 1, which no test reads.
  if (manifest.mediaType === mediaTypes.dockerManifest) return refuse(400, { code: 'MANIFEST_INVALID', detail: {} })
  if (manifest.mediaType !== mediaTypes.dockerList) return refuse(404, { code: 'MANIFEST_UNKNOWN' })
  if (isDigest(call.reference)) return manifest
  return amd64Of(manifest, repository) ?? refuse(404, { code: 'MANIFEST_UNKNOWN' })
}

function amd64Of(list: Manifest, repository: Repository): Manifest | undefined {
  const { manifests = [] } = parse(list.bytes) ?? {}
  const child = manifests.find(({ platform }) => platform?.os === 'linux' && platform.architecture === 'amd64')
  return repository.manifests.get(child?.digest ?? '')
}

interface Descriptor {
  readonly digest?: string
  readonly platform?: { readonly os?: string; readonly architecture?: string }
}

interface Document {
  readonly schemaVersion?: number
  readonly mediaType?: string
  readonly config?: Descriptor
  readonly layers?: readonly Descriptor[]
  readonly manifests?: readonly Descriptor[]
  readonly subject?: Descriptor
  readonly artifactType?: string
  readonly annotations?: Readonly<Record<string, string>>
}

interface Parts {
  readonly blobs: readonly Descriptor[]
  readonly manifests: readonly Descriptor[]
}

/** The blobs and manifests that must exist before the manifest; undefined if it is not of its media type. */
function partsOf(bytes: Buffer, mediaType: string): Parts | undefined {
  const document = parse(bytes)
  if (document?.schemaVersion !== 2 || !isDeclared(document, mediaType)) return undefined
  switch (mediaType) {
    case mediaTypes.ociManifest:
    case mediaTypes.dockerManifest:
      return imageParts(document)
    case mediaTypes.ociIndex:
    case mediaTypes.dockerList:
      return indexParts(document)
    default:
      return undefined
  }
}

/** The document may omit the type in OCI, but not in Docker's format. */
function isDeclared(document: Document, mediaType: string): boolean {
  return document.mediaType === mediaType || (document.mediaType === undefined && mediaType.includes('.oci.'))
}

function imageParts({ config = {}, layers = [], manifests }: Document): Parts | undefined {
  return manifests === undefined ? { blobs: [config, ...layers], manifests: [] } : undefined
}

function indexParts({ config, layers, manifests = [] }: Document): Parts | undefined {
  return config === undefined && layers === undefined ? { blobs: [], manifests } : undefined
}

function parse(bytes: Buffer): Document | undefined {
  try {
    const document: Document | null = JSON.parse(bytes.toString())
    return document ?? undefined
  } catch {
    // Invalid JSON is not a manifest, which the caller reports.
    return undefined
  }
}

function missingFrom(repository: Repository, parts: Parts): readonly RegistryError[] {
  const missing = [
    ...parts.blobs.filter(({ digest }) => !repository.blobs.has(digest ?? '')),
    ...parts.manifests.filter(({ digest }) => !repository.manifests.has(digest ?? '')),
  ]
  return missing.flatMap(({ digest = '' }): readonly RegistryError[] => {
    const unknownBlob = { code: 'MANIFEST_BLOB_UNKNOWN', detail: digest } as const
    return isDigest(digest) ? [unknownBlob] : [{ code: 'DIGEST_INVALID' }, unknownBlob]
  })
}
