import { errorCode } from '../http/http-error.ts'
import type { HttpReply, HttpSuccess, ResponseHeaders } from '../http/messages.ts'
import { isRetryableError } from '../http/retry.ts'
import { MANIFEST_TYPES } from '../oci/manifest.ts'
import { type Digest, digestOf, isDigest, type Repository } from '../oci/reference.ts'
import { settled } from '../promises.ts'
import { immutableTagError, mayBeImmutableTag, withCurrentState } from './refusal.ts'
import type { Registry, StoredManifest } from './registry.ts'
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
import type { TransportRequest } from './transport.ts'

/** Registries must accept manifests of 4 MiB; clients need not accept larger ones. */
const MANIFEST_LIMIT = 4 * 1024 * 1024

export function createManifestClient(
  requests: Requests,
): Pick<Registry, 'getManifest' | 'findDigest' | 'putManifest' | 'deleteTag'> {
  const { transport, http, retryDoubtful } = requests

  async function readManifest(repository: Repository, reference: string): Promise<StoredManifest | undefined> {
    const call = { ...manifestCall('GET', repository, reference), limit: MANIFEST_LIMIT }
    const reply = await requests.find(call)
    if (reply === undefined) return undefined
    const bytes = contentWithinLimit(reply, call)
    const digest = digestOf(bytes)
    const expected = isDigest(reference) ? reference : (reply.headers.get('docker-content-digest') ?? '')
    if (isDigest(expected) && expected !== digest) throw wrongDigest(call, expected, digest)
    if (!isDigest(expected) && !/^\s*\{/.test(bytes.subarray(0, 256).toString('latin1'))) throw notManifest(call)
    const etag = isDigest(reference) ? undefined : strongEtag(reply.headers)
    return { bytes, digest, mediaType: reply.headers.get('content-type') ?? '', ...(etag !== undefined && { etag }) }
  }

  function findDigest(repository: Repository, reference: string): Promise<Digest | undefined> {
    const digestIn = ({ headers }: HttpSuccess) => {
      // Some registries omit this header.
      const digest = headers.get('docker-content-digest') ?? ''
      return isDigest(digest) ? digest : undefined
    }
    const read = async () => (await retryDoubtful(() => readManifest(repository, reference)))?.digest
    return requests.look(manifestCall('HEAD', repository, reference), digestIn, read)
  }

  /** Sends a manifest. If the answer does not tell whether it is stored, looks for it. */
  async function sendManifest(call: TransportRequest, digest: Digest): Promise<HttpReply> {
    const { value: reply, error } = await settled(transport.send(call))
    if (reply !== undefined && (reply.ok || isClientError(reply))) return http.drain(reply)
    // Other errors are not caused by the registry.
    if (reply === undefined && !isRetryableError(errorCode(error), true)) throw error
    const { body: _, ...look } = call
    const headers = { accept: MANIFEST_TYPES.join(', ') }
    const { value: found } = await settled(transport.send({ ...look, method: 'HEAD', headers }))
    if (found !== undefined && provesManifest(http.drain(found), digest)) return found
    if (reply === undefined) throw error
    return reply
  }

  return {
    getManifest: (repository, reference, options) =>
      requests.retryNotFound(
        formatContentName(repository, reference),
        () => retryDoubtful(() => readManifest(repository, reference)),
        options,
        ({ digest }) => digest === options?.outdated,
      ),

    findDigest,

    async putManifest(repository, reference, mediaType, bytes, etag) {
      const digest = digestOf(bytes)
      const name = formatContentName(repository, reference)
      const headers = { 'content-type': mediaType, ...(etag !== undefined && { 'if-match': etag }) }
      const call = { ...manifestCall('PUT', repository, reference, headers), body: bytes }
      const write = async (): Promise<HttpReply> => {
        const send = () =>
          transport.retry(repository, call.operation, (work) => sendManifest({ ...call, work }, digest))
        const reply = await send()
        if (!reply.ok || provesManifest(reply, digest)) return reply
        // A proxy may have answered instead of the registry, so look at what the registry has stored.
        if ((await findDigest(repository, reference)) === digest) return reply
        throw notStored(call, reply, digest)
      }
      const { value: reply, error } = await settled(retryDoubtful(() => requests.retryRefused(name, write)))
      if (reply?.ok) return indexedSubject(reply)
      const failure = reply === undefined ? error : await requests.errorOf({ ...call, mediaType }, reply)
      // If the first answer is a refusal, nothing was stored. An earlier attempt may have stored the manifest.
      const refused = reply !== undefined && isClientError(reply) && reply.tries === undefined
      if (refused && (isDigest(reference) || !mayBeImmutableTag(failure))) throw failure
      const current = await settled(findDigest(repository, reference))
      if (refused) throw immutableTagError(failure, name, current.value, digest)
      if (current.value === digest) return undefined
      throw withCurrentState(failure, name, current)
    },

    async deleteTag(repository, tag) {
      const reply = http.drain(await transport.send(manifestCall('DELETE', repository, tag)))
      if (!isSuccess(reply)) return false
      // A proxy may have answered instead of the registry.
      return reply.status === 202 || (await findDigest(repository, tag)) === undefined
    },
  }
}

function manifestCall(
  method: TransportRequest['method'],
  repository: Repository,
  reference: string,
  headers: Readonly<Record<string, string>> = { accept: MANIFEST_TYPES.join(', ') },
): TransportRequest {
  const name = formatContentName(repository, reference)
  const verb = { GET: 'read', HEAD: 'look for', PUT: 'write', POST: 'write', DELETE: 'delete' }[method]
  const access = ({ GET: 'pull', HEAD: 'pull', PUT: 'pull,push', POST: 'pull,push', DELETE: 'delete' } as const)[method]
  return { method, repository, access, path: `manifests/${reference}`, headers, operation: `${verb} ${name}` }
}

/** Returns the ETag of an answer, unless it is weak, as after compression by a proxy: `If-Match` never matches those. */
function strongEtag(headers: ResponseHeaders): string | undefined {
  const etag = headers.get('etag') ?? ''
  return /^"[\x21\x23-\x7e]+"$/.test(etag) ? etag : undefined
}

/** https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests-with-subject */
function indexedSubject({ headers }: HttpReply): Digest | undefined {
  const subject = headers.get('oci-subject') ?? ''
  return isDigest(subject) ? subject : undefined
}

function notManifest({ repository, operation }: TransportRequest): RegistryError {
  return new RegistryError({
    host: repository.host,
    problem: 'doubtful',
    message: `Can't ${operation}: the answer is not a manifest`,
  })
}

/**
 * Reports whether an answer proves that a manifest is stored. The specification allows only status 201; other successes
 * must include the digest, which a proxy that answers instead of the registry does not know.
 */
function provesManifest({ status, headers }: HttpReply, digest: Digest): boolean {
  const stored = headers.get('docker-content-digest') ?? ''
  if (isDigest(stored)) return stored === digest && (status === 200 || status === 201 || status === 202)
  return status === 201
}
