import { afterEach } from '@jest/globals'
import { type AttestRequest, attest, type IndexAttestation } from '../../src/attest/attest.ts'
import { type Claims, requireIdentity } from '../../src/attest/identity.ts'
import { readIdentitySource } from '../../src/context.ts'
import { ActionError } from '../../src/errors.ts'
import { createHttp } from '../../src/http/client.ts'
import type { JobLog } from '../../src/log.ts'
import type { Digest } from '../../src/oci/reference.ts'
import { createRegistry } from '../../src/registry/client.ts'
import type { Registry } from '../../src/registry/registry.ts'
import { type GitHost, startGitHost } from '../support/git-host.ts'
import { afterwards, COMMIT, type Pushed, push, pushIndex, TOKEN, TWO_SYSTEMS } from '../support/merging.ts'
import type { SeenRequest, TestRegistry } from '../support/registry.ts'
import { OCI_INDEX } from '../support/seed.ts'
import { CLAIMS, type Sigstore, startSigstore } from '../support/sigstore.ts'

/** The notices and other lines of the log, and the secrets, of this test. */
export const notices: string[] = []
export const lines: string[] = []
export const secrets: string[] = []

afterEach(() => {
  for (const list of [notices, lines, secrets]) list.length = 0
})

const log: JobLog = {
  info: (message) => void lines.push(message),
  debug: () => undefined,
  notice: (message) => void notices.push(message),
  warning: (message) => void notices.push(message),
  error: (message) => void notices.push(message),
  group: (_title, work) => work(),
  groupToolOutput: (_title, work) => work(),
  mask: (secret) => void secrets.push(secret),
}

/** Sigstore for this test. */
export async function openSigstore(claims: Partial<Claims> = CLAIMS): Promise<Sigstore> {
  const sigstore = await startSigstore(claims)
  afterwards(sigstore.close)
  return sigstore
}

/** A Git host for this test that stores attestations, if they are granted. */
export async function openStore(attestations = true): Promise<GitHost> {
  const host = await startGitHost({ repository: 'Owner/App', token: TOKEN, parents: {}, attestations })
  afterwards(host.close)
  return host
}

/** A client of registries for this test. */
export function openClient(): { readonly registry: Registry; readonly http: ReturnType<typeof createHttp> } {
  const http = createHttp({ log, userAgent: 'test', env: {}, wait: async () => undefined })
  afterwards(http.close)
  return {
    http,
    registry: createRegistry({ http, credentials: async () => undefined, onSecret: () => undefined }),
  }
}

/** An index that is published. */
export interface PublishedIndex {
  readonly digest: Digest
  readonly images: readonly Pushed[]
  readonly request: Pick<AttestRequest, 'index' | 'builds'>
}

/** Pushes an index of images to repositories named `app`. The first registry's is to be attested. */
export async function publish(
  registries: readonly TestRegistry[],
  systems: readonly string[] = TWO_SYSTEMS,
): Promise<PublishedIndex> {
  const published = []
  for (const registry of registries) {
    const images = await push(registry, 'app', systems)
    published.push({ images, digest: pushIndex(registry, images), registry })
  }
  const [first] = published
  const stored = first?.registry.manifest('app', first.digest)
  if (first === undefined || stored === undefined) throw new Error('no registry')
  const digest = first.digest as Digest
  return {
    digest,
    images: first.images,
    request: {
      index: { bytes: stored.bytes, digest, mediaType: OCI_INDEX },
      builds: first.images.map(({ image, platform }, at) => ({
        ...image,
        digest: image.digest as Digest,
        platform: { os: 'linux', ...platform },
        system: systems[at] ?? '',
        derivation: `/nix/store/${'d'.repeat(32)}-app-${at}.drv`,
        revision: COMMIT,
        source: 'https://github.com/Owner/App',
        storePath: `/nix/store/${'s'.repeat(32)}-app-${at}`,
        inputs: [{ name: 'nixpkgs', uri: 'git+https://github.com/NixOS/nixpkgs@1', digest: { gitCommit: '1' } }],
      })),
    },
  }
}

export interface AttestCall {
  readonly registries: readonly TestRegistry[]
  readonly published: PublishedIndex
  readonly sigstore: Sigstore
  readonly git: GitHost
  readonly token?: string
  readonly kind?: 'public' | 'private'
}

export async function attestWith(call: AttestCall): Promise<IndexAttestation> {
  const { registries, published, sigstore, git, token = TOKEN, kind = 'public' } = call
  const request: AttestRequest = {
    ...published.request,
    images: registries.map(({ host }) => ({ host, path: 'app' })),
    server: 'https://github.com',
    identity: requireIdentity(readIdentitySource(sigstore.env)),
    store: { api: git.api, repository: 'Owner/App', token },
    services: sigstore.services[kind],
    limits: { timeout: 5000, retries: 1, pause: 1 },
  }
  return attest(request, { ...openClient(), log })
}

/** Returns the message of the error that the work fails with. */
export async function refusalOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof ActionError) return error.message
  throw new Error('No failure that is understood', { cause: error })
}

/** An entry in a list of referrers. */
export interface ReferrerEntry {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly artifactType?: string
  readonly annotations?: Readonly<Record<string, string>>
}

/** Returns the referrers of a manifest, from the list that clients keep, or from the registry itself. */
export async function referrersOf(
  registry: TestRegistry,
  digest: string,
  repository = 'app',
): Promise<readonly ReferrerEntry[]> {
  const tagged = registry.manifest(repository, digest.replace(':', '-'))
  if (tagged !== undefined) return JSON.parse(tagged.bytes.toString()).manifests
  const answer = await fetch(`http://${registry.host}/v2/${repository}/referrers/${digest}`)
  if (!answer.ok) return []
  const list: { readonly manifests: readonly ReferrerEntry[] } = JSON.parse(await answer.text())
  return list.manifests
}

/**
 * Holds requests to a registry until all of the same wave have arrived: a client that waits for the answer to one of them
 * before it sends the next one never finishes.
 * @param size the number of requests in each wave of a kind. The request for the API's version is not held
 * @returns the size and the kind of each wave, in order
 */
export function holdWaves(registry: TestRegistry, size: (kind: string) => number): readonly string[] {
  const waves: string[] = []
  const waiting = new Map<string, PromiseWithResolvers<void>[]>()
  registry.setFault((request) => {
    const kind = kindOf(request)
    if (kind === 'GET base') return undefined
    const arrived = [...(waiting.get(kind) ?? []), Promise.withResolvers<void>()]
    waiting.set(kind, arrived)
    if (arrived.length === size(kind)) {
      waves.push(`${arrived.length} × ${kind}`)
      waiting.delete(kind)
      for (const { resolve } of arrived) resolve()
    }
    const until = Promise.all(arrived.map(({ promise }) => promise))
    return { kind: 'hold', until }
  })
  return waves
}

function kindOf({ method, route, reference = '' }: SeenRequest): string {
  if (route !== 'manifest') return `${method} ${route}`
  return `${method} manifest by ${reference.startsWith('sha256:') ? 'digest' : 'tag'}`
}
