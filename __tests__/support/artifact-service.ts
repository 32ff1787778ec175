import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { crc32, inflateRawSync } from 'node:zlib'
import * as v from 'valibot'
import { digestOf } from './digest.ts'

/** A finished artifact, as a test reads it. */
export interface StoredArtifact {
  readonly id: number
  readonly name: string
  /** The requested days between creation and expiry. Undefined means the repository's setting. */
  readonly retentionDays: number | undefined
  /** The archive's files by path, decompressed. */
  readonly files: ReadonlyMap<string, Buffer>
}

/**
 * One request: a Twirp method (`CreateArtifact`, …) or a blob operation (`PutBlock`, `PutBlockList`, `PutBlob`,
 * `GetBlob`).
 */
export interface ArtifactCall {
  readonly method: string
  /** The artifact's name, if the request concerns one. */
  readonly name?: string
}

/**
 * Injects a fault: an answer instead of the real one, a connection reset before (`reset`) or after (`lost`) the request
 * is processed, no answer at all (`stall`), or half an answer (`truncated`). `count` is the number of requests of this
 * method, including this one.
 */
export type ArtifactFault = (
  call: ArtifactCall & { readonly count: number },
) => ArtifactFaultAnswer | 'reset' | 'lost' | 'stall' | 'truncated' | undefined

export interface ArtifactFaultAnswer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

/** GitHub's artifact service for one workflow run, in this process. */
export interface ArtifactService {
  /** The environment that the runner gives a job to find the service. */
  readonly env: { readonly ACTIONS_RESULTS_URL: string; readonly ACTIONS_RUNTIME_TOKEN: string }
  /** Every request so far, including refused ones. */
  readonly calls: readonly ArtifactCall[]
  /** The signatures of all URLs that it has issued. */
  readonly signatures: readonly string[]
  /** The finalized artifacts, oldest first. */
  artifacts(): Promise<readonly StoredArtifact[]>
  /**
   * Stores an artifact as another job of the run would. `files` maps paths to text. Replaces an artifact of the same
   * name.
   * @param links symbolic links and their targets
   */
  put(name: string, files: Readonly<Record<string, string>>, links?: Readonly<Record<string, string>>): Promise<void>
  /** Stores any bytes as an artifact's archive. */
  putArchive(name: string, content: Buffer): Promise<void>
  setFault(fault?: ArtifactFault): void
  close(): Promise<void>
}

export interface ArtifactServiceOptions {
  /** The run's backend ID, as in the token's scope. */
  readonly runId?: string
  /** How long a signed URL is valid. With 0, it has expired when it arrives. */
  readonly signedUrlSeconds?: number
  /**
   * Behaves like the artifact server of act: refuses unknown fields and lists before the first upload, and pads
   * signatures.
   */
  readonly act?: boolean
}

/**
 * Starts a stand-in for the service that `@actions/artifact` 6 uses for the current run: Twirp over JSON, and
 * signed URLs of a blob store with Azure's block operations.
 *
 * As with GitHub's service, a run owns a name as soon as it is created: an artifact that was never finalized is not
 * listed, can't be deleted by the client (which looks it up first), and still makes the same name conflict (seen in
 * dotnet/orleans#10961).
 */
export async function startArtifactService(options: ArtifactServiceOptions = {}): Promise<ArtifactService> {
  const runId = options.runId ?? randomUUID()
  const token = runtimeToken(runId)
  const calls: ArtifactCall[] = []
  let fault: ArtifactFault | undefined

  const answerOf = (received: Received, call: ArtifactCall) =>
    (options.act && refuseAsAct(received, call, store)) || answer(received, call, store)

  const server = createServer((request, response) => {
    void buffer(request)
      .then((body) => ({ request, body, url: new URL(request.url ?? '/', origin) }))
      .then((received) => {
        const call = describeCall(received, store)
        calls.push(call)
        const broken = fault?.({ ...call, count: calls.filter(({ method }) => method === call.method).length })
        if (typeof broken === 'object') return withFault(broken)
        if (broken === 'stall' || broken === 'reset') return broken
        const reply = answerOf(received, call)
        if (broken !== 'truncated') return broken === 'lost' ? 'reset' : reply
        const length = Buffer.byteLength(reply.body) + 1
        return { ...reply, headers: { ...reply.headers, 'content-length': String(length) }, cut: true }
      })
      .catch((error: unknown): Reply => twirpError(500, 'internal', String(error)))
      .then((reply) => {
        if (reply === 'stall') return
        if (reply !== 'reset' && reply.cut === true) {
          response.writeHead(reply.status, reply.headers).write(reply.body, () => request.socket.destroy())
          return
        }
        if (reply === 'reset') {
          request.socket.resetAndDestroy()
          return
        }
        response.writeHead(reply.status, reply.headers).end(reply.body)
      })
  })
  const origin = await listen(server)
  const store: Store = {
    runId,
    token,
    artifacts: new Map(),
    ids: counter(1001),
    sign: urlSigner(origin, (options.signedUrlSeconds ?? 600) * 1000, options.act === true),
  }

  return {
    env: { ACTIONS_RESULTS_URL: `${origin}/`, ACTIONS_RUNTIME_TOKEN: token },
    calls,
    signatures: store.sign.signatures,
    artifacts: async () => finalized(store).map(storedArtifact),
    put: async (name, files, links) => putArchive(store, name, zip(files, links)),
    putArchive: async (name, content) => putArchive(store, name, content),
    setFault: (next) => {
      fault = next
    },
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

/** https://github.com/nektos/act/issues/6022, observed with act 0.2.89 */
function refuseAsAct({ body }: Received, { method }: ArtifactCall, { artifacts }: Store): Reply | undefined {
  const broken = { status: 500, headers: { 'content-type': 'text/plain' }, body: 'Error decode request body' }
  if (method === 'CreateArtifact' && body.includes('mime_type')) return broken
  return method === 'ListArtifacts' && artifacts.size === 0 ? broken : undefined
}

function putArchive(store: Store, name: string, content: Buffer): void {
  const artifact = createArtifact(store, { name, jobId: randomUUID() })
  artifact.blob.content = content
  artifact.finalized = { size: content.length, digest: digestOf(content) }
}

interface Artifact {
  readonly id: number
  readonly name: string
  readonly jobId: string
  readonly createdAt: Date
  readonly expiresAt: Date | undefined
  readonly blob: { readonly blocks: Map<string, Buffer>; type: string; content?: Buffer }
  finalized?: { readonly size: number; readonly digest: string | undefined }
}

interface Store {
  readonly runId: string
  readonly token: string
  /** By name. */
  readonly artifacts: Map<string, Artifact>
  readonly ids: () => number
  readonly sign: UrlSigner
}

interface Received {
  readonly request: IncomingMessage
  readonly url: URL
  readonly body: Buffer
}

interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer | string
  /** The connection ends after the body, which is shorter than its header says. */
  readonly cut?: boolean
}

const TWIRP = '/twirp/github.actions.results.api.v1.ArtifactService/'

function describeCall({ request, url, body }: Received, store: Store): ArtifactCall {
  if (url.pathname.startsWith(TWIRP)) {
    const parsed = v.safeParse(twirpRequest, parseJson(body))
    const name = parsed.success ? parsed.output.name : undefined
    return { method: url.pathname.slice(TWIRP.length), ...(name !== undefined && { name }) }
  }
  const name = artifactOfBlob(url, store)?.name
  return { method: blobMethod(request, url), ...(name !== undefined && { name }) }
}

function answer(received: Received, call: ArtifactCall, store: Store): Reply {
  return received.url.pathname.startsWith(TWIRP)
    ? answerTwirp(received, call, store)
    : answerBlob(received, call, store)
}

function withFault({ status, headers = {}, body = '{}' }: ArtifactFaultAnswer): Reply {
  // The client parses every answer of the service as JSON, so an empty one would cause a different error.
  return { status, headers, body }
}

// The service

/** The union of the five requests, as protobuf's JSON writes them: wrapped values are bare, times are ISO strings. */
const twirpRequest = v.object({
  workflow_run_backend_id: v.string(),
  workflow_job_run_backend_id: v.string(),
  name: v.optional(v.string()),
  expires_at: v.optional(v.pipe(v.string(), v.isoTimestamp())),
  size: v.optional(v.string()),
  hash: v.optional(v.string()),
  name_filter: v.optional(v.string()),
  id_filter: v.optional(v.string()),
})
type TwirpRequest = v.InferOutput<typeof twirpRequest>

function answerTwirp({ request, body }: Received, { method }: ArtifactCall, store: Store): Reply {
  if (request.headers.authorization !== `Bearer ${store.token}`) {
    return twirpError(401, 'unauthenticated', 'the token is missing or not valid')
  }
  const handler = methods.get(method)
  if (handler === undefined || request.method !== 'POST') {
    return twirpError(404, 'bad_route', `no handler for ${request.method} ${method}`)
  }
  const parsed = v.safeParse(twirpRequest, parseJson(body))
  if (!parsed.success) return twirpError(400, 'malformed', v.summarize(parsed.issues))
  if (parsed.output.workflow_run_backend_id !== store.runId) {
    return twirpError(403, 'permission_denied', 'the token is for another workflow run')
  }
  return handler(parsed.output, store)
}

const methods: ReadonlyMap<string, (request: TwirpRequest, store: Store) => Reply> = new Map([
  ['CreateArtifact', create],
  ['FinalizeArtifact', finalize],
  ['ListArtifacts', list],
  ['GetSignedArtifactURL', getSignedUrl],
  ['DeleteArtifact', remove],
])

function create(request: TwirpRequest, store: Store): Reply {
  const { name } = request
  if (name === undefined || /["<>|*?:\\/\r\n]/.test(name)) {
    return twirpError(400, 'invalid_argument', 'the artifact name is not valid')
  }
  if (store.artifacts.has(name)) {
    return twirpError(409, 'already_exists', 'an artifact with this name already exists on the workflow run')
  }
  const expiresAt = request.expires_at === undefined ? undefined : new Date(request.expires_at)
  const artifact = createArtifact(store, { name, jobId: request.workflow_job_run_backend_id, expiresAt })
  return json({ ok: true, signed_upload_url: store.sign.url(blobPath(artifact, store), 'w') })
}

function createArtifact(store: Store, made: { name: string; jobId: string; expiresAt?: Date | undefined }): Artifact {
  const artifact: Artifact = {
    ...made,
    id: store.ids(),
    createdAt: new Date(),
    expiresAt: made.expiresAt,
    blob: { blocks: new Map(), type: 'application/zip' },
  }
  store.artifacts.delete(made.name)
  store.artifacts.set(made.name, artifact)
  return artifact
}

function finalize({ name, size, hash }: TwirpRequest, store: Store): Reply {
  const artifact = store.artifacts.get(name ?? '')
  if (artifact === undefined) return twirpError(404, 'not_found', 'artifact not found')
  const stored = artifact.blob.content?.length
  if (stored === undefined || String(stored) !== size) {
    return twirpError(400, 'failed_precondition', `${stored ?? 'no'} bytes were uploaded, not ${size}`)
  }
  artifact.finalized = { size: stored, digest: hash }
  return json({ ok: true, artifact_id: String(artifact.id) })
}

function list({ name_filter, id_filter }: TwirpRequest, store: Store): Reply {
  const artifacts = finalized(store)
    .filter(({ name }) => name_filter === undefined || name === name_filter)
    .filter(({ id }) => id_filter === undefined || String(id) === id_filter)
    .slice(0, 1000)
    .map((artifact) => ({
      workflow_run_backend_id: store.runId,
      workflow_job_run_backend_id: artifact.jobId,
      database_id: String(artifact.id),
      name: artifact.name,
      size: String(artifact.finalized?.size),
      created_at: artifact.createdAt.toISOString(),
      digest: artifact.finalized?.digest,
    }))
  return json({ artifacts })
}

function getSignedUrl({ name }: TwirpRequest, store: Store): Reply {
  const artifact = finalized(store).find((one) => one.name === name)
  if (artifact === undefined) return twirpError(404, 'not_found', 'artifact not found')
  return json({ signed_url: store.sign.url(blobPath(artifact, store), 'r') })
}

function remove({ name }: TwirpRequest, store: Store): Reply {
  const artifact = finalized(store).find((one) => one.name === name)
  if (artifact === undefined) return twirpError(404, 'not_found', 'artifact not found')
  store.artifacts.delete(artifact.name)
  return json({ ok: true, artifact_id: String(artifact.id) })
}

function finalized(store: Store): readonly Artifact[] {
  return [...store.artifacts.values()].filter((artifact) => artifact.finalized !== undefined)
}

function storedArtifact({ id, name, createdAt, expiresAt, blob }: Artifact): StoredArtifact {
  const day = 24 * 60 * 60 * 1000
  // The client adds days in local time. If the clocks change in between, they are not all 24 hours long.
  const retentionDays = expiresAt && Math.round((expiresAt.getTime() - createdAt.getTime()) / day)
  return { id, name, retentionDays, files: unzip(blob.content ?? Buffer.alloc(0)) }
}

// The blob store

function answerBlob(received: Received, { method }: ArtifactCall, store: Store): Reply {
  const artifact = artifactOfBlob(received.url, store)
  if (!store.sign.holds(received.url, method === 'GetBlob' ? 'r' : 'w')) {
    return blobError(403, 'AuthenticationFailed', 'Server failed to authenticate the request.')
  }
  if (artifact === undefined) return blobError(404, 'BlobNotFound', 'The specified blob does not exist.')
  return (blobOperations.get(method) ?? unsupported)(artifact.blob, received)
}

type BlobOperation = (blob: Artifact['blob'], received: Received) => Reply

const blobOperations: ReadonlyMap<string, BlobOperation> = new Map([
  ['PutBlock', putBlock],
  ['PutBlockList', putBlockList],
  ['PutBlob', putBlob],
  ['GetBlob', getBlob],
])

function blobMethod({ method }: IncomingMessage, url: URL): string {
  const name = `${method?.[0]}${method?.slice(1).toLowerCase()}`
  const component = url.searchParams.get('comp') ?? 'blob'
  return name + (components.get(component) ?? component)
}

const components: ReadonlyMap<string, string> = new Map([
  ['blob', 'Blob'],
  ['block', 'Block'],
  ['blocklist', 'BlockList'],
])

function putBlock(blob: Artifact['blob'], { url, body }: Received): Reply {
  blob.blocks.set(url.searchParams.get('blockid') ?? '', body)
  return created
}

/**
 * https://learn.microsoft.com/rest/api/storageservices/put-block-list: the blob is the listed blocks in their order.
 */
function putBlockList(blob: Artifact['blob'], { request, body }: Received): Reply {
  const ids = Array.from(body.toString().matchAll(/<(?:Latest|Uncommitted)>([^<]*)</g), ([, id]) => id ?? '')
  const blocks = ids.flatMap((id) => blob.blocks.get(id) ?? [])
  if (blocks.length < ids.length) return blobError(400, 'InvalidBlockList', 'The specified block list is invalid.')
  return keep(blob, request, Buffer.concat(blocks))
}

function putBlob(blob: Artifact['blob'], { request, body }: Received): Reply {
  return keep(blob, request, body)
}

function keep(blob: Artifact['blob'], { headers }: IncomingMessage, content: Buffer): Reply {
  blob.content = content
  blob.type = String(headers['x-ms-blob-content-type'] ?? 'application/octet-stream')
  blob.blocks.clear()
  return created
}

function getBlob({ content, type }: Artifact['blob']): Reply {
  if (content === undefined) return blobError(404, 'BlobNotFound', 'The specified blob does not exist.')
  return { status: 200, headers: { 'content-type': type, 'content-length': String(content.length) }, body: content }
}

function unsupported(): Reply {
  return blobError(400, 'UnsupportedHttpVerb', 'The resource does not support the specified operation.')
}

function blobPath(artifact: Artifact, { runId }: Store): string {
  return `/artifacts/${runId}/${artifact.id}.zip`
}

function artifactOfBlob({ pathname }: URL, store: Store): Artifact | undefined {
  return [...store.artifacts.values()].find((artifact) => blobPath(artifact, store) === pathname)
}

interface UrlSigner {
  readonly signatures: readonly string[]
  url(path: string, permission: 'r' | 'w'): string
  holds(url: URL, permission: 'r' | 'w'): boolean
}

/** @param act whether to leave the padding of a signature unescaped in URLs */
function urlSigner(origin: string, lifetime: number, act: boolean): UrlSigner {
  const key = randomBytes(32)
  const signatures: string[] = []
  const signature = (path: string, permission: string, expiry: string) => {
    const hash = createHmac('sha256', key).update([path, permission, expiry].join('\n'))
    return act ? `${hash.digest('base64url')}=` : hash.digest('base64')
  }
  return {
    signatures,
    url: (path, permission) => {
      const expiry = new Date(Date.now() + lifetime).toISOString()
      const sig = signature(path, permission, expiry)
      signatures.push(sig)
      const query = new URLSearchParams({ sp: permission, se: expiry, ...(!act && { sig }) })
      return `${origin}${path}?${query}${act ? `&sig=${sig}` : ''}`
    },
    holds: ({ pathname, searchParams }, permission) => {
      const expiry = searchParams.get('se') ?? ''
      const signed = searchParams.get('sig') === signature(pathname, permission, expiry)
      return signed && Date.now() < Date.parse(expiry)
    },
  }
}

// Answers

const created: Reply = { status: 201, headers: {}, body: '' }

function json(value: unknown): Reply {
  return { status: 200, headers: { 'content-type': 'application/json' }, body: JSON.stringify(value) }
}

function twirpError(status: number, code: string, msg: string): Reply {
  return { ...json({ code, msg }), status }
}

function blobError(status: number, code: string, message: string): Reply {
  const headers = { 'content-type': 'application/xml', 'x-ms-error-code': code }
  const body = `<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`
  return { status, headers, body }
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    return undefined
  }
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve)
  })
  // A server that listens on a port always has an address of this form.
  const { port } = server.address() as AddressInfo
  return `http://127.0.0.1:${port}`
}

function runtimeToken(runId: string): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const scp = `Actions.GenericRead:${randomUUID()} Actions.Results:${runId}:${randomUUID()}`
  return `${part({ alg: 'RS256', typ: 'JWT' })}.${part({ scp })}.${randomBytes(32).toString('base64url')}`
}

function counter(first: number): () => number {
  let next = first
  return () => next++
}

// The parts of zip that artifacts need: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT

/** A zip of one file with this content. @param method the declared compression method: 8 for deflate */
export function archiveOf(path: string, content: Buffer, method = 0): Buffer {
  const archive = zip({ [path]: content.toString('latin1') }, {}, 'latin1')
  const directory = archive.lastIndexOf('504b0102', undefined, 'hex')
  archive.writeUInt16LE(method, directory + 10)
  return archive
}

/** Writes a zip of stored (uncompressed) entries. The content of a symbolic link is its target. */
function zip(
  files: Readonly<Record<string, string>>,
  links: Readonly<Record<string, string>> = {},
  encoding: BufferEncoding = 'utf8',
): Buffer {
  const locals: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const [path, text] of [...Object.entries(links), ...Object.entries(files)]) {
    const name = Buffer.from(path)
    const content = Buffer.from(text, encoding)
    const common = zipEntryFields(name, content)
    const local = Buffer.concat([Buffer.from('504b0304', 'hex'), common, name, content])
    const rest = Buffer.alloc(14)
    rest.writeUInt32LE((Object.hasOwn(links, path) ? 0o120777 : 0o100644) * 2 ** 16, 6) // mode
    rest.writeUInt32LE(offset, 10)
    directory.push(Buffer.from('504b01021403', 'hex'), common, rest, name) // made by Unix
    locals.push(local)
    offset += local.length
  }
  const central = Buffer.concat(directory)
  const end = Buffer.alloc(22)
  end.write('504b0506', 'hex')
  end.writeUInt16LE(locals.length, 8)
  end.writeUInt16LE(locals.length, 10)
  end.writeUInt32LE(central.length, 12)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...locals, central, end])
}

/** The 26 bytes that an entry's local header and its directory record have in common. */
function zipEntryFields(name: Buffer, content: Buffer): Buffer {
  const fields = Buffer.alloc(26)
  fields.writeUInt16LE(20, 0) // version needed
  fields.writeUInt16LE(0x800, 2) // the name is UTF-8
  fields.writeUInt32LE(crc32(content), 10)
  fields.writeUInt32LE(content.length, 14)
  fields.writeUInt32LE(content.length, 18)
  fields.writeUInt16LE(name.length, 22)
  return fields
}

/** Reads a zip from its central directory, because a streamed zip has the sizes only there. */
function unzip(archive: Buffer): ReadonlyMap<string, Buffer> {
  const files = new Map<string, Buffer>()
  const end = archive.lastIndexOf('504b0506', undefined, 'hex')
  let at = archive.readUInt32LE(end + 16)
  for (let left = archive.readUInt16LE(end + 10); left > 0; left--) {
    const nameLength = archive.readUInt16LE(at + 28)
    const name = archive.toString('utf8', at + 46, at + 46 + nameLength)
    const local = archive.readUInt32LE(at + 42)
    const start = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28)
    const content = archive.subarray(start, start + archive.readUInt32LE(at + 20))
    files.set(name, archive.readUInt16LE(at + 10) === 0 ? content : inflateRawSync(content))
    at += 46 + nameLength + archive.readUInt16LE(at + 30) + archive.readUInt16LE(at + 32)
  }
  return files
}
