import { afterEach, expect, jest } from '@jest/globals'
import { readWorkflow } from '../../src/context.ts'
import { ActionError } from '../../src/errors.ts'
import { createHttp } from '../../src/http/client.ts'
import { readInputs } from '../../src/inputs/inputs.ts'
import type { JobLog } from '../../src/log.ts'
import { merge } from '../../src/modes/merge.ts'
import type { Result } from '../../src/modes/mode.ts'
import { startPhases } from '../../src/modes/phases.ts'
import { type Cancellation, NOT_CANCELLABLE } from '../../src/process/cancellation.ts'
import { createRegistry } from '../../src/registry/client.ts'
import type { CredentialSource } from '../../src/registry/credentials.ts'
import { type ArtifactService, startArtifactService } from './artifact-service.ts'
import { type GitHost, startGitHost } from './git-host.ts'
import { makeRecord } from './record.ts'
import { type RegistryOptions, startRegistry, type TestRegistry } from './registry.ts'
import { type ActionCall, prepareRunner } from './runner.ts'
import {
  type SeedDetails,
  type SeededEntry,
  type SeededImage,
  type SeedPlatform,
  seedImage,
  seedIndex,
} from './seed.ts'
import type { Sigstore } from './sigstore.ts'

const PLATFORMS: Readonly<Record<string, SeedPlatform>> = {
  'x86_64-linux': { os: 'linux', architecture: 'amd64' },
  'aarch64-linux': { os: 'linux', architecture: 'arm64' },
  'armv7l-linux': { os: 'linux', architecture: 'arm', variant: 'v7' },
  'armv6l-linux': { os: 'linux', architecture: 'arm', variant: 'v6' },
  'i686-linux': { os: 'linux', architecture: '386' },
  'powerpc64le-linux': { os: 'linux', architecture: 'ppc64le' },
  'riscv64-linux': { os: 'linux', architecture: 'riscv64' },
  's390x-linux': { os: 'linux', architecture: 's390x' },
}

export const REVISION = 'org.opencontainers.image.revision'
export const SOURCE = 'org.opencontainers.image.source'

/** The run's commit and the annotations for its source, by default. */
export const COMMIT = '0123456789abcdef0123456789abcdef01234567'
export const ORIGIN = { [REVISION]: COMMIT, [SOURCE]: 'https://github.com/Owner/App' }

export const TWO_SYSTEMS = ['x86_64-linux', 'aarch64-linux']
/** Eight systems. */
export const ALL_SYSTEMS = Object.keys(PLATFORMS)

/** Commits around the run's: `EARLIER` is the parent of `COMMIT` and `SIBLING`, `COMMIT` is the parent of `LATER`. */
export const EARLIER = '1'.repeat(40)
export const LATER = '2'.repeat(40)
export const SIBLING = '3'.repeat(40)
/** A commit that the repository does not have. */
export const UNKNOWN = '4'.repeat(40)

/** The token for the Git host. */
export const TOKEN = 'ghs_not_to_be_seen'

/** The notices, warnings and errors of this test's merges, and the other lines of their log. */
export const said: string[] = []
export const lines: string[] = []

const cleanups: (() => Promise<unknown>)[] = []
const registries = new Map<string, TestRegistry>()

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  registries.clear()
  said.length = 0
  lines.length = 0
})

/** Cleanup functions that run after the test, last one first. */
export function afterwards(cleanup: () => Promise<unknown>): void {
  cleanups.push(cleanup)
}

/** A registry for this test. */
export async function openRegistry(options?: RegistryOptions): Promise<TestRegistry> {
  const registry = await startRegistry(options)
  registries.set(registry.host, registry)
  afterwards(registry.close)
  return registry
}

/** A Git host for this test, with the repository Owner/App. `TOKEN` may read it. */
export async function openGitHost(options: { readonly countsOnly?: boolean } = {}): Promise<GitHost> {
  const parents = { [EARLIER]: undefined, [COMMIT]: EARLIER, [LATER]: COMMIT, [SIBLING]: EARLIER }
  const host = await startGitHost({ repository: 'Owner/App', token: TOKEN, parents, ...options })
  afterwards(host.close)
  return host
}

/** An artifact service for this test, which the action finds by the environment. Hides what its client prints. */
export async function openArtifactService(): Promise<ArtifactService> {
  const service = await startArtifactService()
  const environment = { ...process.env }
  Object.assign(process.env, service.env)
  jest.spyOn(process.stdout, 'write').mockReturnValue(true)
  afterwards(async () => {
    jest.restoreAllMocks()
    process.env = environment
    await service.close()
  })
  return service
}

export interface Pushed {
  readonly image: SeededImage
  readonly platform: SeedPlatform
  /** The entry in an index. */
  readonly entry: SeededEntry
  /** The output of a build. */
  readonly record: string
}

export type AtLeastOne<Item> = readonly [Item, ...Item[]] & { readonly 1: Item }

export interface PushDetails extends SeedDetails {
  /** Distinguishes images: equal values give equal digests. */
  readonly content?: string
  /** Whether the config omits the platform's variant. */
  readonly withoutVariant?: boolean
  /** Fields of the record. */
  readonly record?: Readonly<Record<string, unknown>>
}

/** Pushes an image for each system to a registry, as build jobs would. */
export async function push(
  registry: TestRegistry,
  repository: string,
  systems: readonly string[],
  { content = '', withoutVariant = false, record = {}, ...details }: PushDetails = {},
): Promise<AtLeastOne<Pushed>> {
  const pushed: Pushed[] = []
  for (const system of systems) {
    const platform = PLATFORMS[system] ?? { architecture: 'unknown' }
    const { variant: _, ...bare } = platform
    const inConfig = withoutVariant ? bare : platform
    const image = await seedImage(registry, repository, inConfig, `${content} ${system}`, details)
    const original = recordOf(`${registry.host}/${repository}`, system, platform, image)
    pushed.push({ image, platform, entry: { ...image, platform }, record: rewrite(original, record) })
  }
  return pushed as unknown as AtLeastOne<Pushed>
}

/** Pushes an image whose content differs from that of other builds, and points tags to it. Returns its digest. */
export async function pushOld(registry: TestRegistry, tags: readonly string[], repository = 'app'): Promise<string> {
  const [{ image }] = await push(registry, repository, ['x86_64-linux'], { content: 'old' })
  for (const tag of tags) registry.seedTag(repository, tag, image.digest)
  return image.digest
}

/** Pushes an index of images under a tag, and returns its digest. */
export function pushIndex(registry: TestRegistry, images: readonly Pushed[], tag?: string, repository = 'app'): string {
  return seedIndex(
    registry,
    repository,
    images.map(({ entry }) => entry),
    tag,
  )
}

export interface CommitDetails {
  readonly systems?: readonly string[]
  readonly tag?: string
  readonly annotations?: Readonly<Record<string, string>>
}

/** Pushes images and their index like a run of another commit. Returns the digest of the index. */
export async function pushCommit(
  registry: TestRegistry,
  commit: string,
  { systems = ['x86_64-linux'], tag, annotations }: CommitDetails = {},
): Promise<string> {
  const images = await push(registry, 'app', systems, { content: `of ${commit}` })
  const entries = images.map(({ entry }) => entry)
  return seedIndex(registry, 'app', entries, tag, { ...ORIGIN, [REVISION]: commit, ...annotations })
}

/** Returns the names of repositories of a registry, for the input `image`. */
export function namesIn({ host }: TestRegistry, ...repositories: readonly string[]): string {
  return repositories.map((repository) => `${host}/${repository}`).join('\n')
}

/** @param image the name of its repository */
export function recordOf(image: string, system: string, platform: SeedPlatform, seeded: SeededImage): string {
  return JSON.stringify(makeRecord({ image, system, platform, ...seeded }))
}

/** Returns the record with different values for these fields. */
export function rewrite(record: string, fields: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({ ...JSON.parse(record), ...fields })
}

export function records(pushed: readonly Pick<Pushed, 'record'>[]): string {
  return pushed.map(({ record }) => record).join('\n')
}

export interface MergeCall extends Omit<ActionCall, 'inputs'> {
  readonly credentials?: CredentialSource
  readonly cancellation?: Cancellation
  /** Gives the job an identity, and signs provenance for it. */
  readonly sigstore?: Sigstore
}

/** Merges into `app` of the registry, unless the inputs name another image. */
export async function mergeWith(
  registry: TestRegistry,
  inputs: Readonly<Record<string, string>>,
  { credentials = async () => undefined, cancellation = NOT_CANCELLABLE, sigstore, ...call }: MergeCall = {},
): Promise<Result> {
  const runner = await prepareRunner({
    ...call,
    env: { ...sigstore?.env, ...call.env },
    inputs: { mode: 'merge', image: `${registry.host}/app`, ...inputs },
  })
  const http = createHttp({ log, userAgent: 'test', env: {}, wait: async () => undefined })
  const client = createRegistry({ http, credentials, onSecret: () => undefined })
  try {
    const read = readInputs(runner.env)
    if (read.mode !== 'merge') throw new Error('not a merge')
    const limits = { timeout: 5000, retries: 1, pause: 1 }
    const signing = sigstore && { services: sigstore.services.public, limits }
    const phases = startPhases()
    const tools = {
      http,
      registry: client,
      log,
      phases,
      onWrite: () => undefined,
      cancellation,
      ...(signing && { signing }),
    }
    return await merge(read, readWorkflow(runner.env), tools)
  } finally {
    await http.close()
    await runner.close()
  }
}

/** Runs a merge that must fail, and expects all tags to be unchanged. Returns the message. */
export async function refusalOf(
  registry: TestRegistry,
  inputs: Readonly<Record<string, string>>,
  call: MergeCall = {},
): Promise<string> {
  const images = (inputs.image ?? `${registry.host}/app`).split('\n')
  const before = images.map(tagsOf)
  const error = await mergeWith(registry, inputs, call).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(images.map(tagsOf)).toEqual(before)
  if (error instanceof ActionError) return error.message
  throw new Error('No failure that is understood', { cause: error })
}

/** Tag → digest. */
function tagsOf(image: string): Readonly<Record<string, string>> {
  const slash = image.indexOf('/')
  return Object.fromEntries(registries.get(image.slice(0, slash))?.tags(image.slice(slash + 1)) ?? [])
}

const log: JobLog = {
  info: (message) => void lines.push(message),
  debug: (message) => void lines.push(message),
  notice: (message) => void said.push(`notice: ${message}`),
  warning: (message) => void said.push(`warning: ${message}`),
  error: (message) => void said.push(`error: ${message}`),
  group: (_title, work) => work(),
  groupToolOutput: (_title, work) => work(),
  mask: () => undefined,
}

/** The requests to a registry other than reads, without uploads that are started and cancelled. */
export function writesTo({ requests }: TestRegistry): readonly string[] {
  const writes = requests.filter(({ method }) => !/^(GET|HEAD)$/.test(method))
  return writes.flatMap(({ method, path }) =>
    /^POST .*\/uploads\/$|^DELETE .*\/uploads\//.test(`${method} ${path}`) ? [] : [`${method} ${path}`],
  )
}

/** Removes a blob, like a registry's garbage collection. */
export async function loseBlob(registry: TestRegistry, repository: string, digest: string): Promise<void> {
  const { status } = await fetch(`http://${registry.host}/v2/${repository}/blobs/${digest}`, { method: 'DELETE' })
  expect(status).toBe(202)
}

/** The blobs that a manifest references, config first. */
export function blobsOf(registry: TestRegistry, repository: string, digest: string): AtLeastOne<string> {
  const { config, layers } = JSON.parse(String(registry.manifest(repository, digest)?.bytes))
  return [config, ...layers].map((one: { readonly digest: string }) => one.digest) as unknown as AtLeastOne<string>
}

export interface IndexDocument {
  readonly manifests: readonly SeededEntry[]
  readonly annotations?: Readonly<Record<string, string>>
}

export function indexAt(registry: TestRegistry, reference: string, repository = 'app'): IndexDocument {
  return JSON.parse(String(registry.manifest(repository, reference)?.bytes))
}

/** Returns the first 12 digits of a digest as inline code. */
export function shortCode(digest = ''): string {
  return `\`${digest.slice('sha256:'.length, 'sha256:'.length + 12)}\``
}

/** The format of `docker manifest inspect`: `linux/arm/v7`. */
export function platformsOf(registry: TestRegistry, reference: string, repository = 'app'): readonly string[] {
  return indexAt(registry, reference, repository).manifests.map(({ platform: { os, architecture, variant } }) =>
    [os, architecture, variant].filter(Boolean).join('/'),
  )
}
