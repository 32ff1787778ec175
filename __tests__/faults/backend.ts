import { digestOf } from '../support/digest.ts'
import { startDistribution } from '../support/distribution.ts'
import { createGuard, needsOf } from '../support/registry/authorization.ts'
import type { Reply } from '../support/registry/reply.ts'
import { routeOf } from '../support/registry/routes.ts'
import { startRegistry } from '../support/registry.ts'
import { SIGN_IN_PAGE } from './faults.ts'
import type { Answer, ProxyOptions } from './proxy.ts'

/** A registry behind the proxy, read and written without faults. */
export interface Backend {
  readonly host: string
  putBlob(repository: string, bytes: Buffer): Promise<void>
  putManifest(repository: string, bytes: Buffer, mediaType: string, tag?: string): Promise<void>
  close(): Promise<void>
}

/** Starts the stand-in for a registry, or for `distribution` the real one. */
export async function startBackend(kind: 'stand-in' | 'distribution'): Promise<Backend> {
  if (kind === 'distribution') {
    const { host, close } = await startDistribution()
    return { host, close, ...uploadsTo(host) }
  }
  const registry = await startRegistry()
  return {
    host: registry.host,
    close: registry.close,
    putBlob: async (repository, bytes) => void (await registry.seedBlob(repository, bytes)),
    putManifest: async (repository, bytes, mediaType, tag) =>
      void registry.seedManifest(repository, bytes, mediaType, tag),
  }
}

function uploadsTo(host: string): Pick<Backend, 'putBlob' | 'putManifest'> {
  return {
    async putBlob(repository, bytes) {
      const begun = await fetch(`http://${host}/v2/${repository}/blobs/uploads/`, { method: 'POST' })
      const url = new URL(begun.headers.get('location') ?? '', begun.url)
      url.searchParams.set('digest', digestOf(bytes))
      await fetch(url, { method: 'PUT', body: new Uint8Array(bytes) })
    },
    async putManifest(repository, bytes, mediaType, tag = digestOf(bytes)) {
      const headers = { 'content-type': mediaType }
      const url = `http://${host}/v2/${repository}/manifests/${tag}`
      await fetch(url, { method: 'PUT', headers, body: new Uint8Array(bytes) })
    },
  }
}

/** Manifests and blobs of a registry. */
export interface Content {
  readonly manifests: readonly { readonly bytes: Buffer; readonly mediaType: string; readonly tag?: string }[]
  readonly blobs: readonly Buffer[]
}

/**
 * Reads everything that references refer to, directly or indirectly.
 * @throws Error if a part is missing or damaged
 */
export async function readContent(host: string, repository: string, references: readonly string[]): Promise<Content> {
  const read = await Promise.all(references.map((reference) => readOne(host, repository, reference)))
  return { manifests: read.flatMap(({ manifests }) => manifests), blobs: read.flatMap(({ blobs }) => blobs) }
}

const ACCEPT = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
].join(', ')

interface Document {
  readonly manifests?: readonly { readonly digest: string }[]
  readonly config?: { readonly digest: string }
  readonly layers?: readonly { readonly digest: string }[]
}

async function readOne(host: string, repository: string, reference: string): Promise<Content> {
  const { bytes, mediaType } = await get(host, `${repository}/manifests/${reference}`)
  if (reference.includes(':') && digestOf(bytes) !== reference) throw new Error(`${reference} is damaged`)
  const { manifests = [], config, layers = [] }: Document = JSON.parse(bytes.toString())
  const inner = await readContent(
    host,
    repository,
    manifests.map(({ digest }) => digest),
  )
  const blobs = [...(config === undefined ? [] : [config]), ...layers].map(async ({ digest }) => {
    const blob = await get(host, `${repository}/blobs/${digest}`)
    if (digestOf(blob.bytes) !== digest) throw new Error(`${digest} is damaged`)
    return blob.bytes
  })
  const own = { bytes, mediaType, ...(!reference.includes(':') && { tag: reference }) }
  return { manifests: [...inner.manifests, own], blobs: [...inner.blobs, ...(await Promise.all(blobs))] }
}

async function get(host: string, path: string): Promise<{ readonly bytes: Buffer; readonly mediaType: string }> {
  const response = await fetch(`http://${host}/v2/${path}`, { headers: { accept: ACCEPT } })
  if (!response.ok) throw new Error(`${path} is missing: status ${response.status}`)
  const mediaType = response.headers.get('content-type') ?? ''
  return { bytes: Buffer.from(await response.arrayBuffer()), mediaType }
}

/** Writes content to a registry. */
export async function putContent(backend: Backend, repository: string, content: Content): Promise<void> {
  for (const blob of content.blobs) await backend.putBlob(repository, blob)
  for (const { bytes, mediaType, tag } of content.manifests) {
    await backend.putManifest(repository, bytes, mediaType)
    if (tag !== undefined) await backend.putManifest(repository, bytes, mediaType, tag)
  }
}

/** Returns the digest of each tag. */
export async function readTags(host: string, repository: string): Promise<ReadonlyMap<string, string>> {
  const listed = await fetch(`http://${host}/v2/${repository}/tags/list`)
  const { tags } = (await listed.json()) as { readonly tags?: readonly string[] | null }
  const found = (tags ?? []).map(async (tag): Promise<[string, string]> => {
    const { bytes } = await get(host, `${repository}/manifests/${tag}`)
    return [tag, digestOf(bytes)]
  })
  return new Map(await Promise.all(found))
}

export const ACCOUNT = { user: 'octocat', password: 'correct horse battery staple' }

/** Makes the proxy require and issue tokens, like a registry. */
export function withTokens(): Required<Pick<ProxyOptions, 'answer'>> {
  let guard: ReturnType<typeof createGuard> | undefined
  return {
    answer: async ({ method, url, headers, body }) => {
      guard ??= createGuard({ kind: 'bearer', expiresIn: 300, ...ACCOUNT }, `http://${url.host}/token`)
      if (url.pathname === '/login') return SIGN_IN_PAGE
      const { authorization } = headers
      if (url.pathname === '/token')
        return answerOf(
          await guard.answerTokenRequest({ method, query: url.searchParams, authorization, body: chunks(body) }),
        )
      const refused = guard.check(authorization, needsOf(method, routeOf(url.pathname).repository, url.searchParams))
      // The base path has no repository, but requires authentication too.
      const bare = url.pathname === '/v2/' && authorization === undefined
      if (refused !== undefined) return answerOf(refused)
      return bare ? answerOf(required(guard.check(undefined, [{ repository: 'any', actions: ['pull'] }]))) : undefined
    },
  }
}

function required<Value>(value: Value | undefined): Value {
  if (value === undefined) throw new Error('the token check accepts a request without a token')
  return value
}

async function* chunks(body: Buffer): AsyncGenerator<Buffer> {
  yield body
}

async function answerOf({ status, headers, body }: Reply): Promise<Answer> {
  const parts: Buffer[] = []
  if (body !== undefined) for await (const part of body.open()) parts.push(part as Buffer)
  return { status, headers, body: Buffer.concat(parts) }
}

/** Names the kind of a request to a registry: `PUT manifest by tag`. */
export function registryKind(method: string, { pathname, searchParams }: URL): string | undefined {
  const { name, reference } = routeOf(pathname)
  if (name === 'other') return undefined
  if (name === 'base') return `${method} /v2/`
  if (name === 'manifest') return `${method} manifest by ${reference.includes(':') ? 'digest' : 'tag'}`
  if (name === 'uploads') return searchParams.has('mount') ? 'POST mount' : 'POST upload'
  return `${method} ${name}`
}
