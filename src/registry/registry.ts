import type { Readable } from 'node:stream'
import { firstLine } from '../errors.ts'
import type { Work } from '../http/budget.ts'
import type { HttpReply, HttpSuccess } from '../http/client.ts'
import {
  isRetryable,
  isRetryableError,
  LOST_PAUSES,
  pauseFor as pauseAndLog,
  retryDoubtful as retryWork,
} from '../http/retry.ts'
import { codeOf } from '../http/unanswered.ts'
import { type Digest, digestOf, isDigest } from '../oci/digest.ts'
import { MANIFEST_TYPES } from '../oci/media-type.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import type { RegistrySettings } from './authorization.ts'
import { parseChallenge } from './challenge.ts'
import { type ErrorAnswer, RegistryError, type RegistryProblem, readErrorAnswer } from './registry-error.ts'
import { createTransport, isAsSafe, type Login, type TransportRequest, wireHost } from './transport.ts'

/** A manifest or index as the registry holds it; its digest is the hash of its bytes. */
export interface StoredManifest {
  readonly bytes: Buffer
  readonly digest: Digest
  readonly mediaType: string
  /** What the registry calls this state of the tag that was read, if it guarantees that the bytes are the same. */
  readonly etag?: string
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
   * Stores a manifest or index under a tag or its digest. If the registry's answer does not prove that, reads back what
   * it has there.
   * @param etag lets a registry that honours `If-Match` refuse, with status 412, if the tag has moved since it was read
   * @throws RegistryError that says what the tag points to now, unless the registry has plainly refused
   */
  putManifest(
    repository: Repository,
    reference: string,
    mediaType: string,
    bytes: Uint8Array,
    etag?: string,
  ): Promise<void>
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
  getBlob(repository: Repository, digest: Digest, limit: number, look?: Look): Promise<Buffer | undefined>
  hasBlob(repository: Repository, digest: Digest, look?: Look): Promise<boolean>
  /**
   * Begins to read a blob of any size. The reader must compare the bytes with the digest.
   * @returns its bytes; reading them fails when the transfer stalls
   * @throws RegistryError, also where there is none
   */
  openBlob(repository: Repository, digest: Digest): Promise<AsyncIterable<Buffer>>
  /**
   * Has a repository take over a blob of another one of the same registry.
   * @returns whether it did; registries refuse for many reasons
   */
  mountBlob(repository: Repository, digest: Digest, from: Repository): Promise<boolean>
  /**
   * Stores a blob in one request of known length. If the registry's answer does not prove that, looks for the blob.
   * @param from another repository of the same registry that has the blob: it is mounted from there if the registry
   * allows that, and uploaded otherwise
   * @throws RegistryError
   */
  putBlob(repository: Repository, blob: Blob, from?: Repository): Promise<'mounted' | 'uploaded'>
  /**
   * Makes sure that images may be pushed to the repository, by beginning an upload, which is cancelled in the background.
   * What is read meanwhile is read with the same token.
   * @throws RegistryError that says why they may not
   */
  checkPush(repository: Repository): Promise<void>
}

/** How to look for something. */
export interface Look {
  /** It is known to be there, so that one look without success proves nothing. */
  readonly written?: boolean
  /** What a tag pointed to before it was written: the answer of a registry that lags behind its writes. */
  readonly outdated?: Digest | undefined
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

/** How often HEAD may fail in a row before only GET is used. */
const MOST_HEAD_FAILURES = 2

/** How long to wait before each further look at what was written just now, in milliseconds. */
const WRITTEN_PAUSES = [500, 1000, 2000, 4000]

/** The digest of no bytes at all. */
const EMPTY_BLOB = digestOf(new Uint8Array())

/** A client for all registries, with one login and one token for each, however many requests there are. */
export function createRegistry(settings: RegistrySettings): Registry {
  const { drain, read, log } = settings.http
  const transport = createTransport(settings)

  const pauseFor = (why: string, milliseconds: number) => pauseAndLog(why, milliseconds, settings.http)
  const retryDoubtful = <Result>(work: () => Promise<Result>) => retryWork(work, settings.http)

  // Hosts that have not answered a request to mount a blob, which may have taken minutes.
  const withoutMount = new Set<string>()

  // By host, how often in a row HEAD has failed where GET has not.
  const headFailures = new Map<string, number>()

  async function refusal(asked: Asked, reply: HttpReply): Promise<RegistryError> {
    const { status } = reply
    // Other statuses are not about the login.
    const login = status === 401 || status === 403 ? await transport.loginTo(asked.repository, status) : 'unknown'
    return refusalError(asked, reply, login)
  }

  /** @throws RegistryError for every answer but success */
  async function demand(call: TransportRequest): Promise<HttpSuccess> {
    const reply = await transport.send(call)
    if (isSuccess(reply)) return reply
    throw await refusal(call, drain(reply))
  }

  /** As `demand`, but nothing where the registry does not have it. */
  async function find(call: TransportRequest): Promise<HttpSuccess | undefined> {
    const reply = await transport.send(call)
    if (reply.status === 404) return undefined
    if (isSuccess(reply)) return reply
    throw await refusal(call, drain(reply))
  }

  /** Sends again what a registry refuses for reasons that pass. */
  async function retryRefused(name: string, send: () => Promise<HttpReply>): Promise<HttpReply> {
    for (const milliseconds of LOST_PAUSES) {
      const reply = await send()
      const reason = passingRefusal(reply)
      if (reason === undefined) return reply
      await pauseFor(`${name}: ${reason}`, milliseconds)
    }
    return send()
  }

  /** Looks for what is known to be there, again and again. */
  async function lookAgain<Found>(
    name: string,
    look: () => Promise<Found | undefined>,
    { written = false }: Look = {},
    isOutdated: (found: Found) => boolean = () => false,
  ): Promise<Found | undefined> {
    for (const milliseconds of written ? WRITTEN_PAUSES : []) {
      const found = await look()
      if (found !== undefined && !isOutdated(found)) return found
      await pauseFor(`${name} is not ${found === undefined ? 'there' : 'up to date'} yet`, milliseconds)
    }
    return look()
  }

  /**
   * Asks with HEAD, which costs the least, whether something is there. Only an answer to GET has a body, which says
   * whether a refusal passes, so that `read`, which asks with GET, decides about everything else.
   */
  async function look<Found>(
    call: TransportRequest,
    found: (reply: HttpSuccess) => Found | undefined,
    read: () => Promise<Found | undefined>,
  ): Promise<Found | undefined> {
    const { host } = call.repository
    const failures = headFailures.get(host) ?? 0
    // Each attempt may stall for a minute.
    if (failures >= MOST_HEAD_FAILURES) return read()
    const { value: reply } = await settle(transport.send({ ...call, method: 'HEAD', attempts: 1 }))
    if (reply?.status === 404) return undefined
    if (reply !== undefined && isSuccess(reply)) {
      drain(reply)
      headFailures.delete(host)
      return found(reply) ?? read()
    }
    const certain = await read()
    headFailures.set(host, failures + 1)
    return certain
  }

  async function readManifest(repository: Repository, reference: string): Promise<StoredManifest | undefined> {
    const call = { ...manifestCall('GET', repository, reference), limit: MANIFEST_LIMIT }
    const reply = await find(call)
    if (reply === undefined) return undefined
    const bytes = contentOf(reply, call)
    const digest = digestOf(bytes)
    const expected = isDigest(reference) ? reference : (reply.headers.get('docker-content-digest') ?? '')
    if (isDigest(expected) && expected !== digest) throw wrongDigest(call, expected, digest)
    if (!isDigest(expected) && !/^\s*\{/.test(bytes.subarray(0, 256).toString('latin1'))) throw notJson(call)
    const etag = isDigest(reference) ? undefined : strongEtag(reply.headers)
    return { bytes, digest, mediaType: reply.headers.get('content-type') ?? '', ...(etag !== undefined && { etag }) }
  }

  function getManifest(repository: Repository, reference: string): Promise<StoredManifest | undefined> {
    return retryDoubtful(() => readManifest(repository, reference))
  }

  function findDigest(repository: Repository, reference: string): Promise<Digest | undefined> {
    const digestIn = ({ headers }: HttpSuccess) => {
      // Not all registries give it.
      const digest = headers.get('docker-content-digest') ?? ''
      return isDigest(digest) ? digest : undefined
    }
    const read = async () => (await getManifest(repository, reference))?.digest
    return look(manifestCall('HEAD', repository, reference), digestIn, read)
  }

  async function findBlob(repository: Repository, digest: Digest, written: boolean): Promise<true | undefined> {
    const operation = `look for the blob ${formatRepository(repository)}@${digest}`
    const call = { method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, operation } as const
    const read = async (): Promise<true | undefined> => {
      const reply = await find(call)
      if (reply === undefined) return undefined
      drain(reply)
      return hasContent(reply, digest) || undefined
    }
    const found = await look<true>(call, (reply) => hasContent(reply, digest) || undefined, read)
    return found === undefined && written ? read() : found
  }

  /** Asks once whether a blob has arrived, after an upload whose answer does not say so. */
  async function findUploaded(
    { repository, operation }: Asked,
    digest: Digest,
    work: Work,
  ): Promise<HttpReply | undefined> {
    const call = { method: 'HEAD', repository, access: 'pull,push', path: `blobs/${digest}`, operation, work } as const
    const { value: reply } = await settle(transport.send(call))
    return reply !== undefined && isSuccess(drain(reply)) && hasContent(reply, digest) ? reply : undefined
  }

  async function uploadOnce(upload: UploadRequest, blob: Blob): Promise<HttpReply> {
    const { repository, operation } = upload
    const begun = await transport.send({
      ...upload,
      method: 'POST',
      path: 'blobs/uploads/',
      headers: { 'content-length': '0' },
    })
    if (!drain(begun).ok) return begun
    const location = locationOf(begun, upload)
    if (location === undefined)
      throw new RegistryError({
        host: repository.host,
        problem: 'doubtful',
        message: `Can't ${operation}: ${repository.host} does not say where to send it`,
        detail: `it answered with status ${begun.status}${isSuccess(begun) ? ' and no Location' : ''}`,
      })
    return sendBlob(upload, location, blob)
  }

  /** Sends a blob to an upload. Asks whether it has arrived, if the answer does not say. */
  async function sendBlob(upload: UploadRequest, location: URL, { digest, size, open }: Blob): Promise<HttpReply> {
    const path = new URL(location)
    path.searchParams.set('digest', digest)
    const headers = { 'content-type': 'application/octet-stream', 'content-length': String(size) }
    const call = { ...upload, method: 'PUT', path, headers, body: open() } as const
    const { value: reply, error } = await settle(transport.send(call))
    if (reply !== undefined && (provesBlob(reply, digest) || isRefusal(reply))) return reply
    // An error of another kind has not been the registry's.
    if (reply === undefined && !isRetryableError(codeOf(error), true)) throw error
    const found = await findUploaded(upload, digest, upload.work)
    if (found !== undefined) return found
    if (reply === undefined) throw error
    if (reply.ok) throw unproven(upload, drain(reply), digest)
    return reply
  }

  /** Sends a manifest. Asks whether it is stored, if the answer does not say. */
  async function sendManifest(call: TransportRequest, digest: Digest): Promise<HttpReply> {
    const { value: reply, error } = await settle(transport.send(call))
    if (reply !== undefined && (reply.ok || isRefusal(reply))) return drain(reply)
    // An error of another kind has not been the registry's.
    if (reply === undefined && !isRetryableError(codeOf(error), true)) throw error
    const { body: _, ...look } = call
    const headers = { accept: MANIFEST_TYPES.join(', ') }
    const { value: found } = await settle(transport.send({ ...look, method: 'HEAD', headers }))
    if (found !== undefined && provesManifest(drain(found), digest)) return found
    if (reply === undefined) throw error
    return reply
  }

  /**
   * Cancels an upload in the background: registries forget uploads by themselves, some refuse to cancel them, and zot
   * takes seconds to refuse.
   * @param from the repository that a blob was to be mounted from, when the upload was begun
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
   * @returns the upload that the registry has begun instead, or undefined if it does neither
   */
  async function askToMount(
    repository: Repository,
    digest: Digest,
    from: Repository,
  ): Promise<'mounted' | URL | undefined> {
    if (withoutMount.has(repository.host)) return undefined
    const query = new URLSearchParams({ mount: digest, from: from.path })
    const call = {
      method: 'POST',
      repository,
      access: 'pull,push',
      from,
      path: `blobs/uploads/?${query}`,
      headers: { 'content-length': '0' },
      operation: `mount ${digest} in ${formatRepository(repository)}`,
      // Without it the blob is uploaded, which is no loss that is worth a minute.
      attempts: 2,
    } as const
    const { value: reply, error } = await settle(transport.send(call))
    if (reply === undefined) {
      log.debug(firstLine(error))
      // A token service may have refused access to the other repository alone.
      if (!(error instanceof RegistryError) || error.status === undefined) withoutMount.add(repository.host)
      return undefined
    }
    drain(reply)
    if (!reply.ok) log.debug(`Can't ${call.operation}: status ${reply.status}`)
    if (reply.status === 201) return 'mounted'
    return reply.status === 202 ? locationOf(reply, call) : undefined
  }

  /** Stores a blob by an upload that has begun. Returns undefined if that fails, as a new upload may not. */
  async function finishUpload(upload: UploadRequest, location: URL, blob: Blob): Promise<HttpReply | undefined> {
    const { value: reply } = await settle(sendBlob(upload, location, blob))
    return reply !== undefined && isSuccess(drain(reply)) ? reply : undefined
  }

  return {
    getManifest: (repository, reference, look) =>
      lookAgain(
        nameOf(repository, reference),
        () => getManifest(repository, reference),
        look,
        ({ digest }) => digest === look?.outdated,
      ),

    findDigest,

    async putManifest(repository, reference, mediaType, bytes, etag) {
      const digest = digestOf(bytes)
      const headers = { 'content-type': mediaType, ...(etag !== undefined && { 'if-match': etag }) }
      const call = { ...manifestCall('PUT', repository, reference, headers), body: bytes }
      const write = async (): Promise<HttpReply> => {
        const reply = await transport.retry(repository, call.operation, (work) =>
          sendManifest({ ...call, work }, digest),
        )
        if (!reply.ok || provesManifest(reply, digest)) return reply
        // A proxy may have answered in the registry's place. What the registry holds is what counts.
        if ((await findDigest(repository, reference)) === digest) return reply
        throw unproven(call, reply, digest)
      }
      const { value: reply, error } = await settle(
        retryDoubtful(() => retryRefused(nameOf(repository, reference), write)),
      )
      if (reply?.ok) return
      const failure = reply === undefined ? error : await refusal({ ...call, mediaType }, reply)
      // If the first answer is a refusal, nothing was stored. An attempt before another one may have stored the manifest.
      const refused = reply !== undefined && isRefusal(reply) && reply.tries === undefined
      if (refused && (isDigest(reference) || !mayBeOfTag(failure))) throw failure
      const current = await settle(findDigest(repository, reference))
      if (refused) throw tagExists(failure, nameOf(repository, reference), current.value, digest)
      if (current.value === digest) return
      throw withState(failure, nameOf(repository, reference), current)
    },

    async deleteTag(repository, tag) {
      const reply = drain(await transport.send(manifestCall('DELETE', repository, tag)))
      if (!isSuccess(reply)) return false
      // A proxy may have answered in the registry's place.
      return reply.status === 202 || (await findDigest(repository, tag)) === undefined
    },

    async getBlob(repository, digest, limit, look) {
      const name = nameOf(repository, digest)
      const operation = `read the blob ${name}`
      const call = { method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, limit, operation } as const
      const readBlob = async () => {
        const reply = await find(call)
        if (reply === undefined) return undefined
        const bytes = contentOf(reply, call)
        const actual = digestOf(bytes)
        if (actual !== digest) throw wrongDigest(call, digest, actual)
        return bytes
      }
      return lookAgain(name, () => retryDoubtful(readBlob), look)
    },

    async hasBlob(repository, digest, look = {}) {
      const find = () => findBlob(repository, digest, look.written === true)
      return (await lookAgain(nameOf(repository, digest), find, look)) === true
    },

    async openBlob(repository, digest) {
      const name = nameOf(repository, digest)
      const operation = `read the blob ${name}`
      const call = { method: 'GET', repository, access: 'pull', path: `blobs/${digest}`, operation } as const
      return read((await lookAgain(name, () => find(call), { written: true })) ?? (await demand(call)))
    },

    async mountBlob(repository, digest, from) {
      const begun = await askToMount(repository, digest, from)
      if (begun instanceof URL) cancelUpload(repository, begun, from)
      return begun === 'mounted'
    },

    async putBlob(repository, blob, from) {
      let begun = from && (await askToMount(repository, blob.digest, from))
      if (begun === 'mounted') return begun
      const operation = `upload the blob ${formatRepository(repository)}@${blob.digest}`
      const uploadOne = async (work: Work): Promise<HttpReply> => {
        const upload = { repository, access: 'pull,push', operation, work } as const
        const location = begun
        // Once bytes have arrived at an upload it can't be sent them again: each attempt begins a new one.
        begun = undefined
        const reply = location instanceof URL ? await finishUpload(upload, location, blob) : undefined
        return reply ?? uploadOnce(upload, blob)
      }
      const upload = () => retryDoubtful(() => transport.retry(repository, operation, uploadOne))
      const send = async () => {
        const reply = await upload()
        // A token that ran out between the first request and the second.
        return reply.status === 401 && reply.url.searchParams.has('digest') ? upload() : reply
      }
      const reply = await retryRefused(nameOf(repository, blob.digest), send)
      if (isSuccess(drain(reply))) return 'uploaded'
      throw await refusal({ method: 'PUT', repository, operation }, reply)
    },

    async checkPush(repository) {
      const name = formatRepository(repository)
      const upload = { repository, access: 'pull,push', operation: `push to ${name}` } as const
      const call = { ...upload, method: 'POST', path: 'blobs/uploads/', headers: { 'content-length': '0' } } as const
      const begun = await retryDoubtful(async () => {
        const reply = await retryRefused(name, () => transport.send(call))
        if (isSuccess(drain(reply))) return reply
        throw await refusal(call, reply)
      })
      const location = locationOf(begun, call)
      if (location !== undefined) cancelUpload(repository, location)
    },
  }
}

/** Reports whether an answer can be the blob's: a proxy that answers in the registry's place sends nothing, or a page. */
function hasContent({ headers }: Pick<HttpReply, 'headers'>, digest: Digest): boolean {
  if (headers.get('content-type')?.startsWith('text/html')) return false
  return headers.get('content-length') !== '0' || digest === EMPTY_BLOB
}

function manifestCall(
  method: TransportRequest['method'],
  repository: Repository,
  reference: string,
  headers: Readonly<Record<string, string>> = { accept: MANIFEST_TYPES.join(', ') },
): TransportRequest {
  const name = nameOf(repository, reference)
  const verb = { GET: 'read', HEAD: 'look for', PUT: 'write', POST: 'write', DELETE: 'delete' }[method]
  const access = ({ GET: 'pull', HEAD: 'pull', PUT: 'pull,push', POST: 'pull,push', DELETE: 'delete' } as const)[method]
  return { method, repository, access, path: `manifests/${reference}`, headers, operation: `${verb} ${name}` }
}

/** A proxy that changes an answer, such as by compressing it, makes its ETag a weak one, which `If-Match` never matches. */
function strongEtag(headers: Headers): string | undefined {
  const etag = headers.get('etag') ?? ''
  return /^"[\x21\x23-\x7e]+"$/.test(etag) ? etag : undefined
}

function nameOf(repository: Repository, reference: string): string {
  return `${formatRepository(repository)}${isDigest(reference) ? '@' : ':'}${reference}`
}

/**
 * Where an upload that has begun goes on; where the registry is reached by https, so is that. Registries behind a proxy
 * that ends TLS often name themselves by http: https://github.com/distribution/distribution/issues/479
 */
function locationOf(reply: HttpReply, { repository, operation }: Asked): URL | undefined {
  const location = reply.headers.get('location')
  if (!isSuccess(reply) || location === null || !URL.canParse(location, reply.url.href)) return undefined
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

/** What a failure tells of a request. */
interface Asked extends Pick<TransportRequest, 'repository' | 'operation'> {
  readonly method?: TransportRequest['method']
  /** Of the manifest that was to be written. */
  readonly mediaType?: string
}

/** What the requests of an upload share. */
interface UploadRequest extends Pick<TransportRequest, 'repository' | 'access' | 'operation'> {
  readonly work: Work
}

function isSuccess(reply: HttpReply): reply is HttpSuccess {
  return reply.ok && reply.status < 300
}

function contentOf(reply: HttpSuccess, { repository, operation, limit = 0 }: TransportRequest): Buffer {
  if (reply.content !== undefined) return reply.content
  throw new RegistryError({
    host: repository.host,
    problem: 'other',
    message: `Can't ${operation}: it is larger than ${limit / 1024} KiB, which nothing of its kind should be`,
  })
}

function wrongDigest({ repository, operation }: Asked, expected: Digest, actual: Digest): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'doubtful',
    message: `Can't ${operation}: its digest should be ${expected}, but is ${actual}`,
  })
}

function notJson({ repository, operation }: Asked): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'doubtful',
    message: `Can't ${operation}: the answer is not a manifest`,
  })
}

/**
 * Reports whether an answer proves that a manifest is stored. The specification has 201 alone; other successes need the
 * digest, which a proxy that answers in the registry's place does not know.
 */
function provesManifest({ status, headers }: HttpReply, digest: Digest): boolean {
  const stored = headers.get('docker-content-digest') ?? ''
  if (isDigest(stored)) return stored === digest && (status === 200 || status === 201 || status === 202)
  return status === 201
}

/** Reports whether an answer proves that a blob is stored. Registries that have it already may say so in other ways. */
function provesBlob({ ok, status, headers }: HttpReply, digest: Digest): boolean {
  const stored = headers.get('docker-content-digest') ?? ''
  if (isDigest(stored)) return stored === digest && ok && status < 300
  return status === 201 || status === 204
}

/** Returns why a registry refuses what it may accept a moment later. */
function passingRefusal(reply: HttpReply): string | undefined {
  if (reply.ok) return undefined
  // ACR and GHCR may forget an upload that they have begun: https://github.com/Azure/azure-sdk-for-net/issues/42293
  if (/BLOB_UPLOAD_(UNKNOWN|INVALID)/.test(reply.text)) return 'the registry has forgotten the upload'
  // GHCR may not know a blob for a moment, though it has just taken it.
  if (/unknown blob|BLOB_UNKNOWN/i.test(reply.text)) return 'the registry does not know all blobs of the manifest yet'
  const passes = reply.status === 404 && !/NAME_UNKNOWN/.test(reply.text)
  return passes ? 'the registry answered with status 404' : undefined
}

/** Reports whether an answer means that the request had no effect. A server's own fault (5xx) may be answered too late. */
function isRefusal({ status }: HttpReply): boolean {
  return status >= 400 && status < 500
}

/** Returns the error of an answer that claims a success which it does not prove. */
function unproven(
  { repository: { host }, operation }: Asked,
  { status, headers }: HttpReply,
  digest: Digest,
): RegistryError {
  const stored = headers.get('docker-content-digest') ?? ''
  const wrong = isDigest(stored) && stored !== digest
  return new RegistryError({
    host,
    problem: 'doubtful',
    status,
    message: `Can't ${operation}: ${wrong ? `its digest should be ${digest}, but is ${stored}` : `${host} answered with status ${status}, but has not stored it`}`,
  })
}

/** Adds to the error of a manifest that could not be written what is there instead. */
function withState(failure: unknown, name: string, current: Settled<Digest | undefined>): unknown {
  if (!(failure instanceof RegistryError)) return failure
  const { host, problem, status, code, mediaType, parts } = failure
  const state = current.value === undefined ? `${name} does not exist` : `${name} points to ${current.value}`
  const known = current.error === undefined ? state : `what ${name} points to now is unknown`
  return new RegistryError({ ...parts, host, problem, status, code, mediaType, message: `${parts.message}; ${known}` })
}

interface Settled<Value> {
  readonly value?: Value
  readonly error?: unknown
}

async function settle<Value>(work: Promise<Value>): Promise<Settled<Value>> {
  try {
    return { value: await work }
  } catch (error) {
    return { error }
  }
}

/**
 * Reports whether a manifest may have been refused because of its tag. ECR (400), Docker Hub and zot (403), and Harbor
 * (412) refuse to move a tag that is immutable, and older versions of zot one of another media type (400).
 */
function mayBeOfTag(failure: unknown): boolean {
  if (!(failure instanceof RegistryError)) return false
  const { problem, status = 0, code = '', parts } = failure
  if (problem !== 'denied' && problem !== 'other' && problem !== 'unsupported-type') return false
  return ![404, 415].includes(status) && !isRetryable(status, parts.detail ?? '') && !/BLOB|DIGEST|SIZE/.test(code)
}

/**
 * Returns the error of a tag that was not moved: a tag that points to something else may be immutable.
 * @param current what the tag points to, undefined if it does not exist or that is unknown
 */
function tagExists(failure: unknown, name: string, current: Digest | undefined, wanted: Digest): unknown {
  if (!(failure instanceof RegistryError) || current === undefined || current === wanted) return failure
  const { host, status, code, parts } = failure
  const immutable = /immutable|overwrit/i.test(parts.detail ?? '')
  return new RegistryError({
    host,
    problem: 'tag-exists',
    status,
    code,
    message: `Can't move the tag ${name}: it exists and points to ${current}, and ${host} refuses to change it (status ${status})${immutable ? '' : '. It may be immutable'}`,
    detail: parts.detail,
  })
}

const REASONS: Readonly<Partial<Record<RegistryProblem, string>>> = {
  'no-credentials': 'it wants a login, and there are no credentials for it',
  'wrong-credentials': 'it does not accept the credentials',
  'read-only': 'it does not accept pushes; it is read-only, or a proxy cache',
  denied: 'it does not allow that',
  'not-found': 'it does not know that',
  'rate-limited': 'it limits how often it is asked',
}

function refusalError(asked: Asked, reply: HttpReply, login: Login): RegistryError {
  const {
    repository: { host },
    operation,
    mediaType,
  } = asked
  const answer = reply.ok ? { detail: 'unexpected status for this request' } : readErrorAnswer(reply.text)
  // No login of the registry counts at an object store that it points to.
  const elsewhere = reply.url.host !== new URL(`${reply.url.protocol}//${wireHost(host)}`).host
  const who = elsewhere ? `${reply.url.host}, which ${host} points to,` : host
  const wantsLogin = !elsewhere && (reply.status === 401 || reply.status === 403)
  const problem = wantsLogin ? loginProblem(reply, login) : problemOf(asked, reply, answer)
  // Quay names the type of an entry of an index.
  const refused = /'(application\/[^']+)' is not one of/.exec(answer.detail)?.[1] ?? mediaType
  const known =
    problem === 'unsupported-type' ? `it may not support manifests of the type ${refused}` : REASONS[problem]
  const reason = known === undefined ? '' : `: ${known}`
  const tries = !reply.ok && reply.tries !== undefined ? ` (${reply.tries})` : ''
  return new RegistryError({
    host,
    problem,
    status: reply.status,
    code: answer.code,
    ...(problem === 'unsupported-type' && { mediaType: refused }),
    message: `Can't ${operation}: ${who} answered with status ${reply.status}${reason}${tries}`,
    detail: answer.detail === '' ? undefined : answer.detail,
  })
}

const PROBLEMS: ReadonlyMap<number, RegistryProblem> = new Map([
  [404, 'not-found'],
  [429, 'rate-limited'],
])

function loginProblem({ status, headers }: HttpReply, login: Login): RegistryProblem {
  if (login === 'none') return 'no-credentials'
  // Docker Distribution, Gitea, olareg and Cloudflare say 401 where they mean 403.
  const challenge = parseChallenge(headers.get('www-authenticate'))
  return status === 403 || login === 'accepted' || challenge?.scheme === 'bearer' ? 'denied' : 'wrong-credentials'
}

function problemOf({ method, mediaType }: Asked, reply: HttpReply, answer: ErrorAnswer): RegistryProblem {
  const { status, ok } = reply
  if (status === 405 && (method === 'POST' || method === 'PUT')) return 'read-only'
  if (mediaType !== undefined && isUnsupportedType(status, answer)) return 'unsupported-type'
  return PROBLEMS.get(status) ?? (ok ? 'doubtful' : 'other')
}

/**
 * Reports whether a manifest was refused for its media type: zot answers 415, Quay 400 with the types that it expects,
 * and old versions of Gitea and Artifactory 404 or 400, without a reason.
 */
function isUnsupportedType(status: number, { code = '', detail }: ErrorAnswer): boolean {
  if (status === 415) return true
  if (status === 404) return !/NAME_|BLOB|DENIED|UNAUTHORIZED/.test(code)
  if (status !== 400 && status !== 406 && status !== 422) return false
  return (
    code === 'UNSUPPORTED' ||
    (code === 'MANIFEST_INVALID' && /media[ -_]?type|schema|not supported|unsupported|application\/vnd\./i.test(detail))
  )
}
