import { Readable } from 'node:stream'
import { firstLine } from '../errors.ts'
import type { Work } from '../http/budget.ts'
import { errorCode } from '../http/http-error.ts'
import type { HttpReply } from '../http/messages.ts'
import { isRetryableError } from '../http/retry.ts'
import { type Digest, digestOf, formatRepository, isDigest, type Repository } from '../oci/reference.ts'
import { settled } from '../promises.ts'
import type { FailedCall } from './refusal.ts'
import type { Blob, Registry } from './registry.ts'
import { RegistryError } from './registry-error.ts'
import {
  contentWithinLimit,
  formatContentName,
  isClientError,
  isSuccess,
  notStored,
  type Requests,
  wrongDigest,
} from './requests.ts'
import { isAsSafe, type TransportRequest } from './transport.ts'

/** The properties that all requests of an upload share. */
interface UploadRequest extends Pick<TransportRequest, 'repository' | 'access' | 'operation'> {
  readonly work: Work
}

export function createBlobWriter(requests: Requests): Pick<Registry, 'mountBlob' | 'putBlob' | 'checkPush'> {
  const { transport, http } = requests

  // Hosts that have not answered a request to mount a blob, which may have taken minutes.
  const hostsWithoutMount = new Set<string>()

  /** Looks once for a blob, after an upload whose answer does not tell whether the blob is stored. */
  async function findUploaded(
    { repository, operation }: FailedCall,
    digest: Digest,
    work: Work,
  ): Promise<HttpReply | undefined> {
    const call = { method: 'HEAD', repository, access: 'pull,push', path: `blobs/${digest}`, operation, work } as const
    const { value: reply } = await settled(transport.send(call))
    return reply !== undefined && isSuccess(http.drain(reply)) && isBlobAnswer(reply, digest) ? reply : undefined
  }

  async function uploadOnce(upload: UploadRequest, blob: Blob): Promise<HttpReply> {
    const { repository, operation } = upload
    const begun = await transport.send({
      ...upload,
      method: 'POST',
      path: 'blobs/uploads/',
      headers: { 'content-length': '0' },
    })
    if (!http.drain(begun).ok) return begun
    const location = uploadLocation(begun, upload)
    if (location === undefined)
      throw new RegistryError({
        host: repository.host,
        problem: 'doubtful',
        message: `Can't ${operation}: ${repository.host} did not return an upload location`,
        detail: `it answered with status ${begun.status}${isSuccess(begun) ? ' and no Location' : ''}`,
      })
    return sendBlob(upload, location, blob)
  }

  /** Sends a blob to an upload location. If the answer does not tell whether the blob is stored, looks for it. */
  async function sendBlob(upload: UploadRequest, location: URL, { digest, size, open }: Blob): Promise<HttpReply> {
    const path = new URL(location)
    path.searchParams.set('digest', digest)
    const headers = { 'content-type': 'application/octet-stream', 'content-length': String(size) }
    const call = { ...upload, method: 'PUT', path, headers, body: open() } as const
    const { value: reply, error } = await settled(transport.send(call))
    if (reply !== undefined && (provesBlob(reply, digest) || isClientError(reply))) return reply
    // Other errors are not caused by the registry.
    if (reply === undefined && !isRetryableError(errorCode(error), true)) throw error
    const found = await findUploaded(upload, digest, upload.work)
    if (found !== undefined) return found
    if (reply === undefined) throw error
    if (reply.ok) throw notStored(upload, http.drain(reply), digest)
    return reply
  }

  /**
   * Cancels an upload in the background. Registries discard unfinished uploads anyway; some refuse to cancel them, and
   * zot takes seconds to refuse.
   * @param from the repository that a blob was to be mounted from when the upload was begun
   */
  function cancelUpload(repository: Repository, path: URL, from?: Repository): void {
    const operation = `cancel an upload to ${formatRepository(repository)}`
    transport.sendInBackground({
      method: 'DELETE',
      repository,
      access: 'pull,push',
      path,
      operation,
      ...(from && { from }),
    })
  }

  /**
   * Asks a registry to mount a blob.
   * @returns the location of the upload that the registry has begun instead, or undefined if it does neither
   */
  async function askToMount(
    repository: Repository,
    digest: Digest,
    from: Repository,
  ): Promise<'mounted' | URL | undefined> {
    if (hostsWithoutMount.has(repository.host)) return undefined
    const query = new URLSearchParams({ mount: digest, from: from.path })
    const call = {
      method: 'POST',
      repository,
      access: 'pull,push',
      from,
      path: `blobs/uploads/?${query}`,
      headers: { 'content-length': '0' },
      operation: `mount ${digest} in ${formatRepository(repository)}`,
      // An upload is the alternative, so that retrying for minutes is not worthwhile.
      attempts: 2,
    } as const
    const { value: reply, error } = await settled(transport.send(call))
    if (reply === undefined) {
      http.log.debug(firstLine(error))
      // With a status, a token service has refused access, possibly only to the other repository.
      if (!(error instanceof RegistryError) || error.status === undefined) hostsWithoutMount.add(repository.host)
      return undefined
    }
    http.drain(reply)
    if (!reply.ok) http.log.debug(`Can't ${call.operation}: status ${reply.status}`)
    if (reply.status === 201) return 'mounted'
    return reply.status === 202 ? uploadLocation(reply, call) : undefined
  }

  /** Sends a blob to an upload that has begun. Returns undefined if that fails; a new upload may succeed. */
  async function finishUpload(upload: UploadRequest, location: URL, blob: Blob): Promise<HttpReply | undefined> {
    const { value: reply } = await settled(sendBlob(upload, location, blob))
    return reply !== undefined && isSuccess(http.drain(reply)) ? reply : undefined
  }

  return {
    async mountBlob(repository, digest, from) {
      const begun = await askToMount(repository, digest, from)
      if (begun instanceof URL) cancelUpload(repository, begun, from)
      return begun === 'mounted'
    },

    async putBlob(repository, blob, from) {
      let begun = from && (await askToMount(repository, blob.digest, from))
      if (begun === 'mounted') return begun
      const operation = `upload the blob ${formatRepository(repository)}@${blob.digest}`
      const attempt = async (work: Work): Promise<HttpReply> => {
        const upload = { repository, access: 'pull,push', operation, work } as const
        const location = begun
        // An upload that has received bytes can't be restarted, so each attempt begins a new one.
        begun = undefined
        const reply = location instanceof URL ? await finishUpload(upload, location, blob) : undefined
        return reply ?? uploadOnce(upload, blob)
      }
      const upload = () => requests.retryDoubtful(() => transport.retry(repository, operation, attempt))
      const send = async () => {
        const reply = await upload()
        // The token may have expired between the first request and the second.
        return reply.status === 401 && reply.url.searchParams.has('digest') ? upload() : reply
      }
      const reply = await requests.retryRefused(formatContentName(repository, blob.digest), send)
      if (isSuccess(http.drain(reply))) return 'uploaded'
      throw await requests.errorOf({ method: 'PUT', repository, operation }, reply)
    },

    async checkPush(repository) {
      const name = formatRepository(repository)
      const upload = { repository, access: 'pull,push', operation: `push to ${name}` } as const
      const call = { ...upload, method: 'POST', path: 'blobs/uploads/', headers: { 'content-length': '0' } } as const
      const begun = await requests.retryDoubtful(async () => {
        const reply = await requests.retryRefused(name, () => transport.send(call))
        if (isSuccess(http.drain(reply))) return reply
        throw await requests.errorOf(call, reply)
      })
      const location = uploadLocation(begun, call)
      if (location !== undefined) cancelUpload(repository, location)
    },
  }
}

/**
 * Returns the location of an upload that has begun, by https if the registry is reached by https. Registries behind a
 * proxy that terminates TLS often return http: https://github.com/distribution/distribution/issues/479
 */
function uploadLocation(reply: HttpReply, { repository, operation }: FailedCall): URL | undefined {
  const location = reply.headers.get('location')
  if (!isSuccess(reply) || location === undefined || !URL.canParse(location, reply.url.href)) return undefined
  const url = new URL(location, reply.url)
  if (isAsSafe(url, reply.url)) return url
  if (url.protocol === 'http:' && url.hostname === reply.url.hostname)
    return new URL(`${url.pathname}${url.search}`, reply.url)
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `Can't ${operation}: ${repository.host} points to ${url.protocol}//${url.host}, which is not encrypted`,
  })
}

/** Reports whether an answer proves that a blob is stored. Registries that have it already answer in different ways. */
function provesBlob({ ok, status, headers }: HttpReply, digest: Digest): boolean {
  const stored = headers.get('docker-content-digest') ?? ''
  if (isDigest(stored)) return stored === digest && ok && status < 300
  return status === 201 || status === 204
}

/** The digest of an empty blob. */
const EMPTY_BLOB = digestOf(new Uint8Array())

export function createBlobReader(requests: Requests): Pick<Registry, 'getBlob' | 'hasBlob' | 'openBlob'> {
  const { http } = requests

  async function findBlob(repository: Repository, digest: Digest, exists: boolean): Promise<true | undefined> {
    const operation = `look for the blob ${formatRepository(repository)}@${digest}`
    const call = { method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, operation } as const
    const read = async (): Promise<true | undefined> => {
      const reply = await requests.find(call)
      if (reply === undefined) return undefined
      http.drain(reply)
      return isBlobAnswer(reply, digest) || undefined
    }
    const found = await requests.look<true>(call, (reply) => isBlobAnswer(reply, digest) || undefined, read)
    return found === undefined && exists ? read() : found
  }

  return {
    async getBlob(repository, digest, limit, options) {
      const name = formatContentName(repository, digest)
      const operation = `read the blob ${name}`
      const call = { method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, limit, operation } as const
      const readBlob = async () => {
        const reply = await requests.find(call)
        if (reply === undefined) return undefined
        const bytes = contentWithinLimit(reply, call)
        const actual = digestOf(bytes)
        if (actual !== digest) throw wrongDigest(call, digest, actual)
        return bytes
      }
      return requests.retryNotFound(name, () => requests.retryDoubtful(readBlob), options)
    },

    async hasBlob(repository, digest, options = {}) {
      const find = () => findBlob(repository, digest, options.retryNotFound === true)
      return (await requests.retryNotFound(formatContentName(repository, digest), find, options)) === true
    },

    async openBlob(repository, digest) {
      const name = formatContentName(repository, digest)
      const operation = `read the blob ${name}`
      const call = { method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, operation } as const
      const found = await requests.retryNotFound(name, () => requests.find(call), { retryNotFound: true })
      return http.read(found ?? (await requests.demand(call)))
    },
  }
}

/** Reports whether an answer can be a blob's. Proxies that answer instead of the registry send nothing, or a page. */
export function isBlobAnswer({ headers }: Pick<HttpReply, 'headers'>, digest: Digest): boolean {
  if (headers.get('content-type')?.startsWith('text/html')) return false
  return headers.get('content-length') !== '0' || digest === EMPTY_BLOB
}

/** Returns a blob of bytes that are in memory. */
export function blobOf(bytes: Buffer): Blob {
  return {
    digest: digestOf(bytes),
    size: bytes.length,
    open: () => Readable.from([bytes], { objectMode: false }),
  }
}
