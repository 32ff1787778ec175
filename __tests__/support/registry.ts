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
  /** Stores blobs in files here rather than in memory. The caller removes the folder. */
  readonly folder?: string
  /** With `bearer`, the same server is also the token realm, at `/token`. */
  readonly auth?: BasicAuth | BearerAuth
  /** Decides the fault of each request before it is handled. */
  readonly fault?: FaultOf
  /** The delay of each request, in milliseconds. */
  readonly delayMs?: number
  /** Serves HTTPS with this key and certificate in PEM format. */
  readonly tls?: { readonly key: string; readonly cert: string }
  /** The name by which clients reach this server through a proxy. Its token realm is there. */
  readonly name?: string
  /** Answers with a `Location` that is a path, as the specification allows. */
  readonly relativeLocations?: boolean
  /** Writes `http:` into each `Location`, like a registry behind a proxy that terminates TLS without a header that says so. */
  readonly unawareOfTls?: boolean
  /**
   * Redirects clients to an object store for uploads and downloads, as large registries do: the same server under the
   * name `localhost`, where the URL grants access and an `Authorization` header is refused, as by Amazon S3.
   */
  readonly objectStore?: boolean
  /** Refuses to write a tag, with status 412, if it does not point to the digest in `If-Match`, as proposed. */
  readonly preconditions?: boolean
  /** Lists referrers, as the specification asks for since version 1.1. Docker Distribution 2.8 does not. */
  readonly referrers?: boolean
}

export type FaultOf = (request: SeenRequest) => Fault | undefined

export interface SeenRequest {
  readonly method: string
  /** Includes the query. */
  readonly path: string
  readonly route: RouteName
  readonly repository?: string
  /** Tag, digest or upload ID. */
  readonly reference?: string
  readonly authorization?: string
  readonly headers: IncomingHttpHeaders
  /** Counts from 1 for each method and route. */
  readonly count: number
  /** Bytes of the body read so far; all of them after the answer, unless a fault prevents it. */
  readonly bodyBytes: number
  /** The status of the answer; undefined before it, and if there is none. */
  readonly status: number | undefined
}

export interface TestRegistry {
  /** Host and port, as in an image's name: `127.0.0.1:43215`. */
  readonly host: string
  readonly requests: readonly SeenRequest[]
  /** Tag → digest. */
  readonly tags: (repository: string) => ReadonlyMap<string, string>
  /** By tag or digest. */
  readonly manifest: (repository: string, reference: string) => Manifest | undefined
  readonly blob: (repository: string, digest: string) => Promise<Buffer | undefined>
  /** Adds a blob without a request. Returns its digest. */
  readonly seedBlob: (repository: string, bytes: Buffer) => Promise<string>
  /** Adds a manifest without checks, and sets the tag if there is one. Returns its digest. */
  readonly seedManifest: (repository: string, bytes: Buffer, mediaType: string, tag?: string) => string
  /** Points a tag to a digest, like another client would. */
  readonly seedTag: (repository: string, tag: string, digest: string) => void
  readonly setFault: (fault: FaultOf | undefined) => void
  /** Makes all tokens that were issued so far expire. */
  readonly expireTokens: () => void
  /** Closes all connections. */
  readonly close: () => Promise<void>
}

/**
 * Starts a registry in this process, on a free port of 127.0.0.1. It behaves like Docker Distribution 2.8, which
 * registry-contract.ts verifies, and is stricter where the specification is: lower-case names, chunks in order,
 * an index only of existing manifests.
 */
export async function startRegistry(options: RegistryOptions = {}): Promise<TestRegistry> {
  const listener = (request: IncomingMessage, response: ServerResponse): void => void serve(state, request, response)
  const server = options.tls === undefined ? createServer(listener) : createSecureServer(options.tls, listener)
  // If the server closed a connection by itself, clients would see a fault that no test asked for.
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
  /** In a URL, instead of credentials. */
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
    guard: createGuard(options.auth, `${options.name === undefined ? origin : `https://${options.name}`}/token`),
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
    // A client that has disconnected gets no answer. Other errors must fail the test that causes them.
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
  const { referrers = false } = state.options
  if (route.name === 'other' || (route.name === 'referrers' && !referrers)) return notFound(url)
  if (signed && headers.authorization !== undefined) return replyText(400, 'Only one auth mechanism allowed')
  const refused = signed
    ? undefined
    : state.guard.check(headers.authorization, needsOf(method, route.repository, query))
  if (refused !== undefined) return refused
  const tagged = state.store.find(route.repository)?.tags.get(route.reference)
  const expected = headers['if-match']
  if (state.options.preconditions && method === 'PUT' && expected !== undefined && expected !== `"${tagged}"`)
    return refuse(412, { code: 'UNKNOWN', detail: 'the tag has moved' })
  const { store } = state
  const call = { method, query, headers, body, ...route, store, referrers, ...locations(state, headers, signed) }
  return await handlerOf(route.name, method)(call)
}

async function* countBytes(request: IncomingMessage, seen: Seen): AsyncGenerator<Buffer> {
  for await (const chunk of request) {
    seen.bodyBytes += chunk.length
    yield chunk
  }
}

/** Like Docker Distribution, redirects a URL without a trailing slash to the one with it. */
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
  // The host by which the client addresses this server, like Docker Distribution.
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
  // Without an answer, the connection stays open until the client or `close` closes it.
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
  // Node can't reset a TLS connection.
  if (socket instanceof TLSSocket) socket.destroy()
  else socket.resetAndDestroy()
}
