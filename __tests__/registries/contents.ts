import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { Agent, request } from 'undici'
import { digestOf } from '../support/digest.ts'
import type { Login, RealRegistry } from './server.ts'

// Reads the content of a registry with plain requests.

export interface Descriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
}

export interface PublishedIndex {
  readonly digest: string
  readonly mediaType: string
  /** By architecture. */
  readonly images: ReadonlyMap<string, PublishedImage>
}

export interface PublishedImage {
  readonly digest: string
  readonly layers: readonly Descriptor[]
  readonly labels: Readonly<Record<string, string>>
}

/** Reads the index of a tag and everything that it references, and verifies all digests and sizes. */
export async function readIndex(registry: RealRegistry, repository: string, tag: string): Promise<PublishedIndex> {
  return withClient(registry, repository, async (get) => {
    const { bytes, mediaType } = await get(`manifests/${tag}`)
    const { manifests } = JSON.parse(bytes.toString()) as { readonly manifests: readonly IndexEntry[] }
    // The others are attestations.
    const ofPlatforms = manifests.filter(({ platform }) => platform.architecture !== 'unknown')
    const images = ofPlatforms.map(async (entry) => {
      const image = await readImage(get, entry)
      if (image.architecture !== entry.platform.architecture) {
        throw new Error(`${entry.digest} is for ${image.architecture} and listed for ${entry.platform.architecture}`)
      }
      return [entry.platform.architecture, image] as const
    })
    return { digest: digestOf(bytes), mediaType, images: new Map(await Promise.all(images)) }
  })
}

/** The status of a registry's answer for a tag. */
export async function statusOfTag(registry: RealRegistry, repository: string, tag: string): Promise<number> {
  return withClient(registry, repository, async (get) => (await get(`manifests/${tag}`, [200, 401, 403, 404])).status)
}

interface IndexEntry extends Descriptor {
  readonly platform: { readonly architecture: string }
}

interface Manifest {
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
}

interface Config {
  readonly architecture: string
  readonly rootfs: { readonly diff_ids: readonly string[] }
  readonly config?: { readonly Labels?: Readonly<Record<string, string>> }
}

type Get = (path: string, statuses?: readonly number[]) => Promise<Answer>

interface Answer {
  readonly status: number
  readonly mediaType: string
  readonly bytes: Buffer
}

async function readImage(get: Get, entry: Descriptor): Promise<PublishedImage & { readonly architecture: string }> {
  const { config, layers } = JSON.parse((await readContent(get, 'manifests', entry)).toString()) as Manifest
  const {
    architecture,
    rootfs,
    config: run,
  } = JSON.parse((await readContent(get, 'blobs', config)).toString()) as Config
  const diffIds = await Promise.all(
    layers.map(async (layer) => digestOf(unpack(layer.mediaType, await readContent(get, 'blobs', layer)))),
  )
  if (diffIds.join() !== rootfs.diff_ids.join()) throw new Error(`The layers of ${entry.digest} are not its config's`)
  return { digest: entry.digest, architecture, layers, labels: run?.Labels ?? {} }
}

async function readContent(get: Get, kind: 'manifests' | 'blobs', { digest, size }: Descriptor): Promise<Buffer> {
  const { bytes } = await get(`${kind}/${digest}`)
  if (digestOf(bytes) === digest && bytes.length === size) return bytes
  throw new Error(`${digest} of ${size} bytes is ${digestOf(bytes)} of ${bytes.length} bytes`)
}

function unpack(mediaType: string, bytes: Buffer): Buffer {
  if (mediaType.endsWith('+zstd')) return zstdDecompressSync(bytes)
  return mediaType.endsWith('gzip') ? gunzipSync(bytes) : bytes
}

async function withClient<T>(registry: RealRegistry, repository: string, use: (get: Get) => Promise<T>): Promise<T> {
  const agent = new Agent({ connect: { ca: registry.authority?.certificate } })
  const scheme = registry.authority === undefined ? 'http' : 'https'
  const base = `${scheme}://${registry.host}/v2/${repository}/`
  try {
    const authorization = await authorize(agent, `${scheme}://${registry.host}/v2/`, repository, registry.login)
    const accept = ['index', 'manifest'].map((kind) => `application/vnd.oci.image.${kind}.v1+json`).join(', ')
    return await use(async (path, statuses = [200]) => {
      const headers = { accept, ...(authorization !== undefined && { authorization }) }
      const { statusCode: status, headers: answered, body } = await request(base + path, { dispatcher: agent, headers })
      const bytes = Buffer.from(await body.arrayBuffer())
      if (!statuses.includes(status)) throw new Error(`${base}${path}: status ${status}: ${bytes}`)
      return { status, mediaType: String(answered['content-type']), bytes }
    })
  } finally {
    await agent.close()
  }
}

/** The `Authorization` header for requests that read a repository. */
async function authorize(
  agent: Agent,
  ping: string,
  repository: string,
  login: Login | undefined,
): Promise<string | undefined> {
  if (login === undefined) return undefined
  const basic = `Basic ${Buffer.from(`${login.user}:${login.password}`).toString('base64')}`
  const { headers, body } = await request(ping, { dispatcher: agent })
  await body.dump()
  const challenges = [headers['www-authenticate'] ?? []].flat()
  const [, realm, service] = challenges.join().match(/Bearer realm="([^"]+)",service="([^"]+)"/) ?? []
  if (realm === undefined || service === undefined) return basic
  const query = new URLSearchParams({ service, scope: `repository:${repository}:pull` })
  const answer = await request(`${realm}?${query}`, { dispatcher: agent, headers: { authorization: basic } })
  const { token } = (await answer.body.json()) as { readonly token: string }
  return `Bearer ${token}`
}
