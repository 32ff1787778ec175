import type { Readable } from 'node:stream'
import { type Digest, digestOf, isDigest } from '../oci/digest.ts'
import { MANIFEST_TYPES } from '../oci/media-type.ts'
import { printRepository, type Repository } from '../oci/reference.ts'
import type { RegistrySettings } from './authorization.ts'
import { parseChallenge } from './challenge.ts'
import type { CredentialSource } from './credentials.ts'
import type { HttpReply, HttpSuccess } from './http.ts'
import { RegistryError, type RegistryProblem, readErrorAnswer } from './registry-error.ts'
import { createTransport, isAsSafe, type TransportRequest, wireHost } from './transport.ts'

/** A manifest or index as the registry holds it; its digest is the hash of its bytes. */
export interface StoredManifest {
  readonly bytes: Buffer
  readonly digest: Digest
  readonly mediaType: string
}

/** The distribution protocol: https://github.com/opencontainers/distribution-spec/blob/main/spec.md */
export interface Registry {
  /**
   * Reads a manifest or index by tag or digest; by digest, its bytes are hashed before they are believed.
   * @returns nothing where the registry has none
   * @throws RegistryError
   */
  getManifest(repository: Repository, reference: string, look?: Look): Promise<StoredManifest | undefined>
  /**
   * Asks for the digest that a tag points to, and for no more: Docker Hub counts each reading of a manifest as a pull.
   * @returns nothing where the registry has none
   * @throws RegistryError
   */
  findDigest(repository: Repository, tag: string): Promise<Digest | undefined>
  /**
   * Stores a manifest or index under a tag or its digest.
   * @throws RegistryError, also where the registry claims another digest than that of the bytes sent
   */
  putManifest(repository: Repository, reference: string, mediaType: string, bytes: Uint8Array): Promise<void>
  /**
   * Takes a tag away, where the registry can do that at all.
   * @returns whether it is gone
   */
  deleteTag(repository: Repository, tag: string): Promise<boolean>
  /**
   * Reads a small blob, such as an image's config, and hashes it before it is believed.
   * @param limit the number of bytes at which to give up
   * @returns nothing where the registry has none
   * @throws RegistryError
   */
  getBlob(repository: Repository, digest: Digest, limit: number): Promise<Buffer | undefined>
  hasBlob(repository: Repository, digest: Digest): Promise<boolean>
  /**
   * Begins to read a blob of any size. The reader must compare the bytes with the digest.
   * @returns its bytes; reading them fails when the transfer stalls
   * @throws RegistryError, also where there is none
   */
  openBlob(repository: Repository, digest: Digest): Promise<AsyncIterable<Buffer>>
  /**
   * Has a repository take over a blob of another one of the same registry.
   * @returns whether it did; registries refuse for many reasons, and then the blob is to be uploaded
   */
  mountBlob(repository: Repository, digest: Digest, from: Repository): Promise<boolean>
  /**
   * Stores a blob in one request of known length.
   * @throws RegistryError, also where the registry claims another digest than that of the bytes sent
   */
  putBlob(repository: Repository, blob: Blob): Promise<void>
  /**
   * Logs in for reading and writing at once, so that what is read first needs no token of its own.
   * @throws RegistryError where the login is refused
   */
  authorizePush(repository: Repository): Promise<void>
  /**
   * Makes sure that images may be pushed to the repository, by beginning an upload and giving it up.
   * @throws RegistryError that says why they may not
   */
  checkPush(repository: Repository): Promise<void>
}

/** How to look for something. */
export interface Look {
  /** It is known to be there, so that one look without success proves nothing. */
  readonly written?: boolean
}

/** Bytes to upload. */
export interface Blob {
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  /** Its bytes, from the first; as often as they are wanted. */
  open(): Readable
}

/** The OCI specification asks registries to take manifests of 4 MiB; no client need take larger ones. */
const MANIFEST_LIMIT = 4 * 1024 * 1024

/** How long to wait before what a registry has lost sight of is sent again, in milliseconds. */
const LOST_PAUSES = [500, 2000]

/** How long to wait before each further look at what was written just now, in milliseconds. */
const WRITTEN_PAUSES = [500, 1000, 2000, 4000]

/** A client for all registries, with one login and one token for each, however many requests there are. */
export function createRegistry(settings: RegistrySettings): Registry {
  const { pause: wait, drain, read } = settings.http
  const transport = createTransport(settings)

  /** @throws RegistryError for every answer but success */
  async function demand(call: TransportRequest): Promise<HttpSuccess> {
    const reply = await transport.send(call)
    if (isSuccess(reply)) return reply
    throw await refusal(call, drain(reply), settings.credentials)
  }

  /** As `demand`, but nothing where the registry does not have it. */
  async function find(call: TransportRequest): Promise<HttpSuccess | undefined> {
    const reply = await transport.send(call)
    if (reply.status === 404) return undefined
    if (isSuccess(reply)) return reply
    throw await refusal(call, drain(reply), settings.credentials)
  }

  /** GHCR may say for a moment that it does not know blobs that it has just taken. */
  async function sendOnceBlobsAreKnown(call: TransportRequest): Promise<HttpReply> {
    for (const pause of LOST_PAUSES) {
      const reply = await transport.send(call)
      if (reply.ok || !/unknown blob|BLOB_UNKNOWN/i.test(reply.text)) return reply
      await wait(pause)
    }
    return transport.send(call)
  }

  async function getManifest(repository: Repository, reference: string): Promise<StoredManifest | undefined> {
    const call = { ...manifestCall('GET', repository, reference), limit: MANIFEST_LIMIT }
    const reply = await find(call)
    if (reply === undefined) return undefined
    const bytes = contentOf(reply, call)
    const digest = digestOf(bytes)
    const expected = isDigest(reference) ? reference : reply.headers.get('docker-content-digest')
    confirmDigest(call, expected, digest)
    return { bytes, digest, mediaType: reply.headers.get('content-type') ?? '' }
  }

  async function uploadOnce(repository: Repository, { digest, size, open }: Blob, purpose: string): Promise<HttpReply> {
    const upload = { repository, access: 'pull,push', purpose } as const
    const begun = await transport.send({
      ...upload,
      method: 'POST',
      path: 'blobs/uploads/',
      headers: { 'content-length': '0' },
      attempts: 1,
    })
    if (!isSuccess(drain(begun))) return begun
    const path = locationOf(begun, upload)
    if (path === undefined)
      throw new RegistryError({
        host: repository.host,
        problem: 'other',
        what: `Can't ${purpose}: ${repository.host} does not say where to send it`,
        words: `it answered with status ${begun.status} and no Location`,
        help: 'A proxy in front of the registry may have taken that header away.',
      })
    path.searchParams.set('digest', digest)
    return transport.send({
      ...upload,
      method: 'PUT',
      path,
      headers: { 'content-type': 'application/octet-stream', 'content-length': String(size) },
      body: open(),
      attempts: 1,
      // Some registries answer only when they have stored gigabytes elsewhere.
      patience: 600_000,
    })
  }

  /** A courtesy: registries forget an upload by themselves, and some know no other way. */
  async function cancelUpload(repository: Repository, begun: HttpReply): Promise<void> {
    const name = printRepository(repository)
    const path = locationOf(begun, { repository, purpose: `push to ${name}` })
    if (path === undefined) return
    const purpose = `give up an upload to ${name}`
    const call = { method: 'DELETE', repository, access: 'delete', path, purpose, attempts: 1 } as const
    await transport.send(call).then(drain, () => undefined)
  }

  return {
    async getManifest(repository, reference, { written = false } = {}) {
      for (const pause of written ? WRITTEN_PAUSES : []) {
        const manifest = await getManifest(repository, reference)
        if (manifest !== undefined) return manifest
        await wait(pause)
      }
      return getManifest(repository, reference)
    },

    async findDigest(repository, tag) {
      const reply = await transport.send(manifestCall('HEAD', repository, tag))
      if (reply.status === 404) return undefined
      const digest = isSuccess(drain(reply)) ? (reply.headers.get('docker-content-digest') ?? '') : ''
      // Not all give it, and whoever refuses says why only where there is a body.
      return isDigest(digest) ? digest : (await getManifest(repository, tag))?.digest
    },

    async putManifest(repository, reference, mediaType, bytes) {
      const call = { ...manifestCall('PUT', repository, reference, { 'content-type': mediaType }), body: bytes }
      const reply = drain(await sendOnceBlobsAreKnown(call))
      if (!isSuccess(reply)) throw await refusal(call, reply, settings.credentials)
      confirmDigest(call, digestOf(bytes), reply.headers.get('docker-content-digest'))
    },

    async deleteTag(repository, tag) {
      return isSuccess(drain(await transport.send(manifestCall('DELETE', repository, tag))))
    },

    async getBlob(repository, digest, limit) {
      const name = `${printRepository(repository)}@${digest}`
      const path = `blobs/${digest}`
      const call = { method: 'GET', repository, access: 'pull', path, limit, purpose: `read the blob ${name}` } as const
      const reply = await find(call)
      if (reply === undefined) return undefined
      const bytes = contentOf(reply, call)
      confirmDigest(call, digest, digestOf(bytes))
      return bytes
    },

    async hasBlob(repository, digest) {
      const purpose = `look for the blob ${printRepository(repository)}@${digest}`
      const reply = await find({ method: 'HEAD', repository, access: 'pull', path: `blobs/${digest}`, purpose })
      if (reply !== undefined) drain(reply)
      return reply !== undefined
    },

    async openBlob(repository, digest) {
      const purpose = `read the blob ${printRepository(repository)}@${digest}`
      const reply = await demand({ method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, purpose })
      return read(reply)
    },

    authorizePush: (repository) => transport.authorize(repository, 'pull,push'),

    async mountBlob(repository, digest, from) {
      const query = new URLSearchParams({ mount: digest, from: from.path })
      const name = printRepository(repository)
      const call = {
        method: 'POST',
        repository,
        access: 'pull,push',
        from,
        path: `blobs/uploads/?${query}`,
        headers: { 'content-length': '0' },
        purpose: `mount ${digest} in ${name}`,
        // Without it the blob is uploaded, which is no loss that is worth a minute.
        attempts: 2,
      } as const
      const reply = await transport.send(call).catch(() => undefined)
      if (reply === undefined) return false
      drain(reply)
      if (reply.status === 202) await cancelUpload(repository, reply)
      return reply.status === 201
    },

    async putBlob(repository, blob) {
      const purpose = `upload the blob ${printRepository(repository)}@${blob.digest}`
      // Once bytes have arrived at an upload it can't be sent them again: each attempt begins a new one.
      const upload = () => transport.retry(repository, purpose, () => uploadOnce(repository, blob, purpose))
      let reply = await upload()
      // A token that ran out between the first request and the second.
      if (reply.status === 401) reply = await upload()
      for (const pause of LOST_PAUSES) {
        // ACR and GHCR may forget an upload that they have begun: https://github.com/Azure/azure-sdk-for-net/issues/42293
        if (reply.ok || !/BLOB_UPLOAD_(UNKNOWN|INVALID)/.test(reply.text)) break
        await wait(pause)
        reply = await upload()
      }
      const call = { repository, purpose }
      if (!isSuccess(reply)) throw await refusal(call, drain(reply), settings.credentials)
      confirmDigest(call, blob.digest, drain(reply).headers.get('docker-content-digest'))
    },

    async checkPush(repository) {
      const name = printRepository(repository)
      const upload = { repository, access: 'pull,push', purpose: `push to ${name}` } as const
      const reply = await demand({
        ...upload,
        method: 'POST',
        path: 'blobs/uploads/',
        headers: { 'content-length': '0' },
      })
      await cancelUpload(repository, drain(reply))
    },
  }
}

function manifestCall(
  method: TransportRequest['method'],
  repository: Repository,
  reference: string,
  headers: Readonly<Record<string, string>> = { accept: MANIFEST_TYPES.join(', ') },
): TransportRequest {
  const name = `${printRepository(repository)}${isDigest(reference) ? '@' : ':'}${reference}`
  const verb = { GET: 'read', HEAD: 'look for', PUT: 'write', POST: 'write', DELETE: 'delete' }[method]
  const access = ({ GET: 'pull', HEAD: 'pull', PUT: 'pull,push', POST: 'pull,push', DELETE: 'delete' } as const)[method]
  return { method, repository, access, path: `manifests/${reference}`, headers, purpose: `${verb} ${name}` }
}

/**
 * Where an upload that has begun goes on; where the registry is reached by https, so is that. Registries behind a proxy
 * that ends TLS often name themselves by http: https://github.com/distribution/distribution/issues/479
 */
function locationOf(reply: HttpReply, { repository, purpose }: Asked): URL | undefined {
  const location = reply.headers.get('location')
  if (!isSuccess(reply) || location === null || !URL.canParse(location, reply.url.href)) return undefined
  const url = new URL(location, reply.url)
  if (isAsSafe(url, reply.url)) return url
  if (url.protocol === 'http:' && url.hostname === reply.url.hostname)
    return new URL(`${url.pathname}${url.search}`, reply.url)
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    what: `Can't ${purpose}: ${repository.host} points to ${url.protocol}//${url.host}, which is not encrypted`,
  })
}

/** What a failure tells of a request. */
type Asked = Pick<TransportRequest, 'repository' | 'purpose'>

function isSuccess(reply: HttpReply): reply is HttpSuccess {
  return reply.ok && reply.status < 300
}

function contentOf(reply: HttpSuccess, { repository, purpose, limit = 0 }: TransportRequest): Buffer {
  if (reply.content !== undefined) return reply.content
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    what: `Can't ${purpose}: it is larger than ${limit / 1024} KiB, which nothing of its kind should be`,
  })
}

/** @throws RegistryError where both are digests, and different ones */
function confirmDigest({ repository, purpose }: Asked, expected: string | null, actual: string | null): void {
  if (expected === null || actual === null || !isDigest(expected) || !isDigest(actual) || expected === actual) return
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    what: `Can't ${purpose}: its digest should be ${expected}, but is ${actual}`,
    help: `${repository.host}, or a proxy in front of it, has changed or damaged the content. Nothing of it is used.`,
  })
}

const REASONS: Readonly<Partial<Record<RegistryProblem, string>>> = {
  'no-credentials': 'it wants a login, and there are no credentials for it',
  'wrong-credentials': 'it does not accept the credentials',
  denied: 'it does not allow that',
  'not-found': 'it does not know that',
  'rate-limited': 'it limits how often it is asked',
}

async function refusal(
  { repository: { host }, purpose }: Asked,
  reply: HttpReply,
  credentials: CredentialSource,
): Promise<RegistryError> {
  const answer = reply.ok ? { words: 'this is no answer to such a request' } : readErrorAnswer(reply.text)
  // No login of the registry counts at an object store that it points to.
  const elsewhere = reply.url.host !== new URL(`${reply.url.protocol}//${wireHost(host)}`).host
  const who = elsewhere ? `${reply.url.host}, which ${host} points to,` : host
  const wantsLogin = !elsewhere && (reply.status === 401 || reply.status === 403)
  const problem = wantsLogin
    ? loginProblem(reply, (await credentials(host)) !== undefined)
    : (PROBLEMS.get(reply.status) ?? 'other')
  const reason = REASONS[problem] === undefined ? '' : `: ${REASONS[problem]}`
  return new RegistryError({
    host,
    problem,
    status: reply.status,
    code: answer.code,
    what: `Can't ${purpose}: ${who} answered with status ${reply.status}${reason}`,
    words: answer.words === '' ? undefined : answer.words,
  })
}

const PROBLEMS: ReadonlyMap<number, RegistryProblem> = new Map([
  [404, 'not-found'],
  [429, 'rate-limited'],
])

function loginProblem({ status, headers }: HttpReply, loggedIn: boolean): RegistryProblem {
  if (!loggedIn) return 'no-credentials'
  // Whoever has a token has shown the right password; Docker Distribution says 401 where it means 403.
  const challenge = parseChallenge(headers.get('www-authenticate'))
  return status === 403 || challenge?.scheme === 'bearer' ? 'denied' : 'wrong-credentials'
}
