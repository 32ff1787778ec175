import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import { type BasicAuth, type BearerAuth, createGuard, type Guard, needsOf } from './registry/authorization.ts'
import type { Call } from './registry/call.ts'
import { type Fault, type Outcome, underFault } from './registry/faults.ts'
import { findManifest, saveManifest, tagManifest } from './registry/manifests.ts'
import { type Reply, readAll, refuse, replyText } from './registry/reply.ts'
import { handlerOf, type Route, type RouteName, routeOf } from './registry/routes.ts'
import { createStore, type Manifest, type Store, sha256 } from './registry/store.ts'

export type { BasicAuth, BearerAuth, Fault, Manifest, RouteName }

export interface RegistryOptions {
  /** Store blobs in files here rather than in memory. The folder is the caller's to delete. */
  readonly folder?: string
  /** With `bearer` the same server is also the token realm, at `/token`. */
  readonly auth?: BasicAuth | BearerAuth
  /** Says for each request, before it is handled, what goes wrong with it. */
  readonly fault?: FaultOf
  /** Added to each request, in milliseconds. */
  readonly delayMs?: number
  /** Serve https, with this key and certificate in PEM. */
  readonly tls?: { readonly key: string; readonly cert: string }
  /** Answer with a `Location` that is a path, as the specification allows. */
  readonly relativeLocations?: boolean
  /** Write `http:` into each `Location`, as behind a proxy that ends TLS and does not say so. */
  readonly unawareOfTls?: boolean
  /**
   * Send clients to an object store for uploads and downloads, as large registries do: the same server under the name
   * `localhost`, where the URL is the permission and an `Authorization` header is refused, as by Amazon S3.
   */
  readonly objectStore?: boolean
  /** Refuse to write a tag with status 412 if it points to something else than `If-Match` says, as the proposal has it. */
  readonly preconditions?: boolean
}

export type FaultOf = (request: SeenRequest) => Fault | undefined

export interface SeenRequest {
  readonly method: string
  /** With its query. */
  readonly path: string
  readonly route: RouteName
  readonly repository?: string
  /** Tag, digest or upload id. */
  readonly reference?: string
  readonly authorization?: string
  readonly headers: IncomingHttpHeaders
  /** 1 for the first request of this method and route, 2 for the next. */
  readonly count: number
  /** Bytes of the body read so far; all of them once the request was answered, unless by a fault. */
  readonly bodyBytes: number
  /** Of the answer; undefined before it, and without one. */
  readonly status: number | undefined
}

export interface TestRegistry {
  /** As in an image's name: `127.0.0.1:43215`. */
  readonly host: string
  readonly requests: readonly SeenRequest[]
  /** Tag → digest. */
  readonly tags: (repository: string) => ReadonlyMap<string, string>
  /** By tag or digest. */
  readonly manifest: (repository: string, reference: string) => Manifest | undefined
  readonly blob: (repository: string, digest: string) => Promise<Buffer | undefined>
  /** Puts a blob there without a request; returns its digest. */
  readonly seedBlob: (repository: string, bytes: Buffer) => Promise<string>
  /** Puts a manifest there, unchecked, and tags it if there is a tag; returns its digest. */
  readonly seedManifest: (repository: string, bytes: Buffer, mediaType: string, tag?: string) => string
  /** Points a tag to a digest, as if somebody else had moved it. */
  readonly seedTag: (repository: string, tag: string, digest: string) => void
  readonly setFault: (fault: FaultOf | undefined) => void
  /** Makes all tokens given so far as good as expired. */
  readonly expireTokens: () => void
  /** Breaks what is still under way. */
  readonly close: () => Promise<void>
}

/**
 * Starts a registry in this process, on a free port of 127.0.0.1. It behaves as Docker Distribution 2.8 does, which
 * registry-contract.ts holds it to, and is stricter where the specification is: names in lower case, chunks in order,
 * an index only of manifests that are there.
 */
export async function startRegistry(options: RegistryOptions = {}): Promise<TestRegistry> {
  const listener = (request: IncomingMessage, response: ServerResponse): void => void serve(state, request, response)
  const server = options.tls === undefined ? createServer(listener) : createSecureServer(options.tls, listener)
  // A connection that the server ends on its own would look to a client like a fault that no test asked for.
  server.keepAliveTimeout = 0
  server.requestTimeout = 0
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const state = createState(options, (server.address() as AddressInfo).port)
  return {
    ...contentsOf(state.store),
    host: state.host,
    requests: state.requests,
    setFault: (fault) => {
      state.fault = fault
    },
    expireTokens: state.guard.expireTokens,
    close: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
      for (const upload of state.store.uploads.values()) await upload.cancel()
    },
  }
}

interface State {
  readonly host: string
  readonly origin: string
  readonly options: RegistryOptions
  readonly store: Store
  readonly guard: Guard
  readonly requests: Seen[]
  /** In a URL, in place of credentials. */
  readonly signature: string
  fault: FaultOf | undefined
}

type Seen = { -readonly [Key in keyof SeenRequest]: SeenRequest[Key] }

function createState(options: RegistryOptions, port: number): State {
  const host = `127.0.0.1:${port}`
  const origin = `${options.tls === undefined ? 'http' : 'https'}://${host}`
  return {
    host,
    origin,
    options,
    store: createStore(options.folder),
    guard: createGuard(options.auth, `${origin}/token`),
    requests: [],
    signature: randomUUID(),
    fault: options.fault,
  }
}

type Contents = Pick<TestRegistry, 'tags' | 'manifest' | 'blob' | 'seedBlob' | 'seedManifest' | 'seedTag'>

function contentsOf(store: Store): Contents {
  return {
    tags: (repository) => new Map(store.find(repository)?.tags),
    manifest: (repository, reference) => findManifest(store.repository(repository), reference),
    blob: async (repository, digest) => {
      const blob = store.find(repository)?.blobs.get(digest)
      return blob && (await readAll(blob.open()))
    },
    seedBlob: async (repository, bytes) => {
      const digest = sha256(bytes)
      const upload = await store.startUpload(repository)
      await upload.write([bytes])
      await upload.finish(digest)
      return digest
    },
    seedManifest: (repository, bytes, mediaType, tag) => {
      const digest = sha256(bytes)
      saveManifest(store.repository(repository), { bytes, mediaType, digest }, tag ?? digest)
      return digest
    },
    seedTag: (repository, tag, digest) => tagManifest(store.repository(repository), tag, digest),
  }
}

async function serve(state: State, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? '/', state.origin)
  const route = routeOf(url.pathname)
  const seen = see(state, request, route)
  try {
    if (state.options.delayMs !== undefined) await delay(state.options.delayMs)
    const handle = async (): Promise<Reply> => await answer(state, route, url, request, seen)
    await send(request, response, await underFault(state.fault?.(seen), handle), seen)
  } catch (error) {
    // A client that has gone gets no answer; what breaks in here is to be seen in the test that it breaks.
    if (response.destroyed || response.headersSent) response.destroy()
    else await send(request, response, refuse(500, { code: 'UNKNOWN', detail: String(error) }), seen)
  }
}

function see(state: State, request: IncomingMessage, { name, repository, reference }: Route): Seen {
  const { headers, method = '', url: path = '' } = request
  const alike = state.requests.filter((other) => other.route === name && other.method === method)
  const seen: Seen = {
    method,
    path,
    route: name,
    ...(repository !== '' && { repository }),
    ...(reference !== '' && { reference }),
    ...(headers.authorization !== undefined && { authorization: headers.authorization }),
    headers,
    count: alike.length + 1,
    bodyBytes: 0,
    status: undefined,
  }
  state.requests.push(seen)
  return seen
}

async function answer(state: State, route: Route, url: URL, request: IncomingMessage, seen: Seen): Promise<Reply> {
  const { method = '', headers } = request
  const query = url.searchParams
  const body = countBytes(request, seen)
  const signed = state.options.objectStore === true && query.get('signature') === state.signature
  if (route.name === 'token') {
    return await state.guard.answerTokenRequest({ method, query, authorization: headers.authorization, body })
  }
  if (route.name === 'other') return notFound(url)
  if (signed && headers.authorization !== undefined) return replyText(400, 'Only one auth mechanism allowed')
  const refused = signed
    ? undefined
    : state.guard.check(headers.authorization, needsOf(method, route.repository, query))
  if (refused !== undefined) return refused
  const tagged = state.store.find(route.repository)?.tags.get(route.reference)
  const expected = headers['if-match']
  if (state.options.preconditions && method === 'PUT' && expected !== undefined && expected !== `"${tagged}"`)
    return refuse(412, { code: 'UNKNOWN', detail: 'the tag has moved' })
  const call = { method, query, headers, body, ...route, store: state.store, ...locations(state, headers, signed) }
  return await handlerOf(route.name, method)(call)
}

async function* countBytes(request: IncomingMessage, seen: Seen): AsyncGenerator<Buffer> {
  for await (const chunk of request) {
    seen.bodyBytes += chunk.length
    yield chunk
  }
}

/** As in Docker Distribution, a URL without the slash at its end leads to the one with it. */
function notFound({ pathname }: URL): Reply {
  const withSlash = `${pathname}/`
  if (routeOf(withSlash).name === 'other') return replyText(404, '404 page not found')
  return replyText(301, 'Moved Permanently', { location: withSlash })
}

function locations(
  { options, origin, signature }: State,
  headers: IncomingHttpHeaders,
  signed: boolean,
): Pick<Call, 'locate' | 'locateBytes' | 'servesBytes'> {
  const own = new URL(origin)
  // The host that the client knows this server by, as Docker Distribution has it.
  const base =
    options.relativeLocations === true
      ? ''
      : `${options.unawareOfTls === true ? 'http:' : own.protocol}//${headers.host ?? own.host}`
  const locate = (path: string): string => base + path
  if (options.objectStore !== true) return { locate, locateBytes: locate, servesBytes: true }
  const locateBytes = (path: string): string =>
    `${own.protocol}//localhost:${own.port}${path}${path.includes('?') ? '&' : '?'}signature=${signature}`
  return { locate, locateBytes, servesBytes: signed }
}

async function send(request: IncomingMessage, response: ServerResponse, outcome: Outcome, seen: Seen): Promise<void> {
  // Without an answer the connection stays open until the client or `close` ends it.
  if (outcome === 'hang') return
  if (outcome === 'reset') return reset(request)
  const { body, headers, status } = outcome
  seen.status = status
  const length = status === 204 || status === 304 ? {} : { 'content-length': String(body?.size ?? 0) }
  response.writeHead(status, { 'docker-distribution-api-version': 'registry/2.0', ...length, ...headers })
  if (body === undefined || request.method === 'HEAD') response.end()
  else await pipeline(body.open(), response)
}

function reset({ socket }: IncomingMessage): void {
  // Node has no way to reset a TLS connection.
  if (socket instanceof TLSSocket) socket.destroy()
  else socket.resetAndDestroy()
}
