import type { HttpReply } from '../http/client.ts'
import { type Digest, digestOf } from '../oci/digest.ts'
import { formatRepository, type Repository } from '../oci/reference.ts'
import type { Registry } from './registry.ts'
import { contentWithinLimit, formatContentName, type Requests, wrongDigest } from './requests.ts'

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
