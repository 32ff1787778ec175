import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { artifactName } from '../../src/record/artifact-name.ts'
import { run } from '../../src/run.ts'
import { type ArtifactService, startArtifactService } from '../support/artifact-service.ts'
import { digestOf } from '../support/digest.ts'
import { type GitHost, startGitHost } from '../support/git-host.ts'
import { prepareRunner } from '../support/runner.ts'
import {
  ACCOUNT,
  type Backend,
  type Content,
  putContent,
  readContent,
  readTags,
  registryKind,
  startBackend,
  withTokens,
} from './backend.ts'
import type { Cell } from './cells.ts'
import { Hang, installClock } from './clock.ts'
import {
  type DockerDaemon,
  type DockerTarget,
  installDocker,
  installNix,
  SYSTEMS,
  type System,
  type Version,
} from './programs.ts'
import { type FaultProxy, type ProxyOptions, startFaultProxy, type Target } from './proxy.ts'
import {
  COMMIT,
  type LayerCache,
  NEW_COMMIT,
  OLD_COMMIT,
  type Place,
  type Scenario,
  type Service,
} from './scenarios.ts'

/** Runs scenarios in this process, with a virtual clock, and stand-ins for Nix and Docker on the PATH. */
export interface Lab {
  /** Runs a scenario, with a fault if there is a cell. */
  play(scenario: Scenario, cell?: Cell): Promise<Play>
  close(): Promise<void>
}

/** The result of a run of the action, and the state of the registries after it. */
export interface Play {
  readonly exitCode: number | undefined
  readonly log: string
  readonly errors: readonly string[]
  readonly warnings: readonly string[]
  readonly outputs: Readonly<Record<string, string>>
  /** The reason why it did not end. */
  readonly hang: string | undefined
  /** The unhandled error, which would have ended the process without a message, or the files left behind. */
  readonly crash: string | undefined
  /** The duration in milliseconds of virtual time. */
  readonly milliseconds: number
  /** The number of requests that had the fault. */
  readonly hits: number
  readonly host: string
  /** The number of requests of each kind, by service. */
  readonly counts: Readonly<Partial<Record<Service, ReadonlyMap<string, number>>>>
  /** The digest of each tag, by name: `registry/app:latest`. */
  readonly before: Readonly<Record<string, string>>
  readonly after: Readonly<Record<string, string>>
  /** The tags whose content is incomplete or damaged. */
  readonly broken: readonly string[]
  /** The records in the run's artifacts, with placeholders for host names. */
  readonly records: readonly string[]
}

const clock = installClock()
const LIMITS = { virtual: 75 * 60_000, real: 30_000 }
const REPOSITORY = 'Owner/App'

export async function openLab(registries: 'stand-in' | 'distribution'): Promise<Lab> {
  const folder = await mkdtemp(join(tmpdir(), 'faults-'))
  await mkdir(join(folder, 'workspace'))
  const daemon = await prepare(folder)
  const shared = registries === 'distribution' ? [await startBackend(registries), await startBackend(registries)] : []
  // The programs of the registries always run.
  clock.addIdleProgram(process.getActiveResourcesInfo().filter((resource) => resource === 'ProcessWrap').length)
  const path = process.env.PATH
  let number = 0
  const play = (scenario: Scenario, published: LayerCache, cell?: Cell, sha?: string) =>
    playOnce({ scenario, published, cell, folder, daemon, shared, path, number: number++, sha })
  const published = await publish(play)
  return {
    play: (scenario, cell) => play(scenario, published, cell),
    close: async () => {
      await daemon.close()
      for (const backend of shared) await backend.close()
      await rm(folder, { recursive: true })
    },
  }
}

async function prepare(folder: string): Promise<DockerDaemon> {
  await installNix(folder)
  return installDocker(folder, clock.addIdleProgram)
}

interface Call {
  readonly scenario: Scenario
  readonly published: LayerCache
  readonly cell: Cell | undefined
  readonly folder: string
  readonly daemon: DockerDaemon
  readonly shared: readonly Backend[]
  readonly path: string | undefined
  readonly number: number
  readonly sha: string | undefined
}

async function playOnce(call: Call): Promise<Played> {
  const { shared, scenario, published, number } = call
  const own = shared.length > 0 ? [] : [await startBackend('stand-in'), await startBackend('stand-in')]
  const [registry, mirror] = [...shared, ...own]
  if (registry === undefined || mirror === undefined) throw new Error('two registries are required')
  const artifacts = await startArtifactService()
  const git = await startGitHost({
    repository: REPOSITORY,
    token: 'the-token',
    parents: { [OLD_COMMIT]: undefined, [COMMIT]: OLD_COMMIT, [NEW_COMMIT]: COMMIT },
  })
  const path = `cell-${process.pid}-${number}`
  for (const content of scenario.holds(published)) await putContent(registry, `${path}/app`, content)
  const proxies = await openProxies({ registry, mirror, artifacts, git }, call.cell)
  try {
    return await playWith({ ...call, registry, mirror, artifacts, proxies, repositories: path })
  } finally {
    for (const proxy of Object.values(proxies)) await proxy.close()
    await Promise.all([artifacts.close(), git.close(), ...own.map((backend) => backend.close())])
  }
}

interface Backends {
  readonly registry: Backend
  readonly mirror: Backend
  readonly artifacts: ArtifactService
  readonly git: GitHost
}

type Proxies = Readonly<Record<Exclude<Service, 'docker'>, FaultProxy>>

async function openProxies(backends: Backends, cell: Cell | undefined): Promise<Proxies> {
  const open = (service: Service, options: Omit<ProxyOptions, 'target' | 'hold'>) =>
    startFaultProxy({ ...options, hold: clock.hold, target: cell?.service === service ? (cell as Target) : undefined })
  const hostOf = (url: string) => new URL(url).host
  return {
    registry: await open('registry', { backend: backends.registry.host, kindOf: registryKind, ...withTokens() }),
    mirror: await open('mirror', { backend: backends.mirror.host, kindOf: registryKind, ...withTokens() }),
    artifacts: await open('artifacts', {
      backend: hostOf(backends.artifacts.env.ACTIONS_RESULTS_URL),
      kindOf: artifactKind,
    }),
    git: await open('git', { backend: hostOf(backends.git.api), kindOf: () => 'GET compare' }),
  }
}

function artifactKind(method: string, { pathname, searchParams }: URL): string {
  const twirp = pathname.includes('ArtifactService/') ? pathname.split('/').at(-1) : undefined
  if (twirp !== undefined) return twirp
  const component = searchParams.get('comp')
  if (component === 'block') return 'PutBlock'
  if (component === 'blocklist') return 'PutBlockList'
  return method === 'GET' ? 'GetBlob' : 'PutBlob'
}

interface Stage extends Call, Omit<Backends, 'git'> {
  readonly proxies: Proxies
  /** The path prefix of the cell's repositories. */
  readonly repositories: string
}

async function playWith(stage: Stage): Promise<Played> {
  const { scenario, published, cell, daemon, registry, mirror, artifacts, proxies, repositories } = stage
  const home = proxies.registry.host
  const localize = (text: string) => text.replaceAll('<registry>', home).replaceAll('<path>', repositories)
  const neutral = (text: string) => text.replaceAll(home, '<registry>').replaceAll(repositories, '<path>')
  const place: Place = {
    image: `${home}/${repositories}/app`,
    sibling: `${home}/${repositories}/sibling`,
    mirror: `${proxies.mirror.host}/${repositories}/app`,
    records: Object.values(published.records.new).map(localize),
  }
  for (const record of scenario.artifacts?.(published) ?? []) await putRecord(artifacts, localize(record))
  daemon.counts.clear()
  daemon.hits = 0
  daemon.target = cell?.service === 'docker' ? (cell as DockerTarget) : undefined
  daemon.push = pushByDocker(registry, published, repositories)
  const snapshot = async () => ({
    ...named('registry/app', await readTags(registry.host, `${repositories}/app`)),
    ...named('registry/sibling', await readTags(registry.host, `${repositories}/sibling`)),
    ...named('mirror/app', await readTags(mirror.host, `${repositories}/app`)),
  })
  const before = await snapshot()
  const ran = await runStep(stage, place)
  const after = await snapshot()
  const held = await artifacts.artifacts().catch(() => [])
  const records = held.flatMap(({ files }) => [...files.values()].map(String)).map(neutral)
  const hits = Object.values(proxies).reduce((sum, proxy) => sum + proxy.hits(), daemon.hits)
  const host = cell === undefined || cell.service === 'docker' ? home : proxies[cell.service].host
  return {
    ...ran,
    ...(ran.outputs.record && { record: neutral(ran.outputs.record) }),
    ...{ before, after, records: records.sort(), hits, host },
    broken: await brokenTags(stage, after),
    counts: {
      docker: new Map(daemon.counts),
      ...Object.fromEntries(Object.entries(proxies).map(([service, { counts }]) => [service, counts])),
    },
    log: neutral(ran.log),
    published: await readContent(registry.host, `${repositories}/app`, await tagsOfApp(stage)),
  }
}

/** A result with details that only the lab uses. */
interface Played extends Play {
  readonly record?: string
  readonly published: Content
}

async function tagsOfApp({ scenario, registry, repositories }: Stage): Promise<readonly string[]> {
  return scenario.name === 'publish' ? [...(await readTags(registry.host, `${repositories}/app`)).keys()] : []
}

async function putRecord(artifacts: ArtifactService, record: string): Promise<void> {
  const { image, system } = JSON.parse(record)
  await artifacts.put(artifactName({ image, system }), { 'digest.json': record })
}

function named(repository: string, tags: ReadonlyMap<string, string>): Record<string, string> {
  return Object.fromEntries([...tags].map(([tag, digest]) => [`${repository}:${tag}`, digest]))
}

async function brokenTags(
  { registry, mirror, repositories }: Stage,
  tags: Readonly<Record<string, string>>,
): Promise<readonly string[]> {
  const read = Object.entries(tags).map(async ([name, digest]) => {
    const [place = '', repository = ''] = name.split(/[/:]/)
    const { host } = place === 'mirror' ? mirror : registry
    return readContent(host, `${repositories}/${repository}`, [digest]).then(
      () => [],
      (error: unknown) => [`${name}: ${(error as Error).message}`],
    )
  })
  return (await Promise.all(read)).flat()
}

/** Pushes like Docker's daemon, directly to the registry: its faults are those of the command. */
function pushByDocker(registry: Backend, published: LayerCache, repositories: string): DockerDaemon['push'] {
  return async (reference) => {
    const [, name = '', tag = ''] = /\/([^/:]+):([^:]+)$/.exec(reference) ?? []
    const { manifests, blobs } = published.images.new
    const amd64 = manifests.find(({ bytes }) => {
      const { config } = JSON.parse(bytes.toString())
      return blobs.some((blob) => isConfigOf(blob, config?.digest) && blob.includes('"architecture":"amd64"'))
    })
    if (amd64 === undefined) throw new Error('no image for amd64 was published')
    const content = { blobs, manifests: [{ bytes: amd64.bytes, mediaType: amd64.mediaType, tag }] }
    await putContent(registry, `${repositories}/${name}`, content)
    return digestOf(amd64.bytes)
  }
}

function isConfigOf(blob: Buffer, digest: string | undefined): boolean {
  return digest !== undefined && digestOf(blob) === digest
}

type Ran = Pick<Play, 'exitCode' | 'log' | 'errors' | 'warnings' | 'outputs' | 'hang' | 'crash' | 'milliseconds'>

/** Runs the action as a step in this process. */
async function runStep({ scenario, folder, proxies, artifacts, path, sha }: Stage, place: Place): Promise<Ran> {
  await mkdir(join(folder, 'config'), { recursive: true })
  const auth = Buffer.from(`${ACCOUNT.user}:${ACCOUNT.password}`).toString('base64')
  const auths = { [proxies.registry.host]: { auth }, [proxies.mirror.host]: { auth } }
  await writeFile(join(folder, 'config', 'config.json'), JSON.stringify({ auths }))
  const runner = await prepareRunner({
    inputs: scenario.inputs(place),
    cwd: join(folder, 'workspace'),
    sha: sha ?? COMMIT,
    token: 'the-token',
    env: {
      PATH: `${folder}${delimiter}${path}`,
      DOCKER_CONFIG: join(folder, 'config'),
      GITHUB_API_URL: `http://${proxies.git.host}`,
      ACTIONS_RESULTS_URL: `http://${proxies.artifacts.host}/`,
      ACTIONS_RUNTIME_TOKEN: artifacts.env.ACTIONS_RUNTIME_TOKEN,
      ...scenario.env,
    },
  })
  const environment = process.env
  process.env = { ...runner.env }
  const output = captureOutput()
  const crashes = captureCrashes()
  const start = clock.now()
  let exitCode: number | undefined
  let hang: string | undefined
  try {
    exitCode = await clock.run(() => Promise.race([run(runner.env), crashes.first]), LIMITS)
  } catch (error) {
    if (error instanceof Hang) hang = error.message
    else crashes.add(error)
  }
  const milliseconds = clock.now() - start
  const log = output.end()
  process.env = environment
  const outputs = await runner.readOutputs()
  const left = await runner.tempLeft()
  await runner.close()
  const annotations = (level: string) =>
    [...log.matchAll(new RegExp(`^::${level}::(.*)$`, 'gm'))].map(([, text = '']) => unescapeData(text))
  const crash = crashes.end() ?? (left.length > 0 && hang === undefined ? `left ${left.join(', ')}` : undefined)
  return {
    exitCode,
    log,
    hang,
    milliseconds,
    outputs,
    crash,
    errors: annotations('error'),
    warnings: annotations('warning'),
  }
}

function unescapeData(text: string): string {
  return text.replaceAll('%0D', '\r').replaceAll('%0A', '\n').replaceAll('%25', '%')
}

function captureOutput(): { readonly end: () => string } {
  const parts: string[] = []
  const { write } = process.stdout
  process.stdout.write = ((text: string | Uint8Array) => {
    parts.push(String(text))
    return true
  }) as typeof write
  return {
    end: () => {
      process.stdout.write = write
      return parts.join('')
    },
  }
}

/** Captures unhandled errors, which would end the process. */
function captureCrashes(): {
  readonly first: Promise<never>
  readonly add: (error: unknown) => void
  readonly end: () => string | undefined
} {
  const { promise, reject } = Promise.withResolvers<never>()
  promise.catch(() => undefined)
  let crash: string | undefined
  const add = (error: unknown): void => {
    crash ??= error instanceof Error ? (error.stack ?? error.message) : String(error)
    reject(error)
  }
  process.on('uncaughtException', add)
  return {
    first: promise,
    add,
    end: () => {
      process.off('uncaughtException', add)
      return crash
    },
  }
}

type PlayOnce = (scenario: Scenario, published: LayerCache, cell?: Cell, sha?: string) => Promise<Played>

const EMPTY: Content = { manifests: [], blobs: [] }
const NO_RECORDS: Readonly<Record<System, string>> = { 'x86_64-linux': '', 'aarch64-linux': '' }
const NOTHING: LayerCache = {
  images: { old: EMPTY, new: EMPTY },
  index: { older: EMPTY, newer: EMPTY },
  records: { old: NO_RECORDS, new: NO_RECORDS },
}

/** Publishes the initial content of the scenarios with the action itself. */
async function publish(play: PlayOnce): Promise<LayerCache> {
  const old = await buildAll(play, 'old')
  const fresh = await buildAll(play, 'new')
  const before = { ...NOTHING, records: { old: old.records, new: old.records } }
  const scenario: Scenario = {
    name: 'publish',
    breaks: [],
    holds: () => [old.content],
    inputs: ({ image, records }) => ({ mode: 'merge', image, digests: records.join('\n'), tags: 'v1\nlatest' }),
  }
  const older = await succeed(play, scenario, before, OLD_COMMIT)
  const newer = await succeed(play, scenario, before, NEW_COMMIT)
  return {
    images: { old: old.content, new: fresh.content },
    records: { old: old.records, new: fresh.records },
    index: { older: older.published, newer: newer.published },
  }
}

async function buildAll(
  play: PlayOnce,
  version: Version,
): Promise<{ readonly content: Content; readonly records: Readonly<Record<System, string>> }> {
  const manifests: Content['manifests'][number][] = []
  const blobs: Buffer[] = []
  const records: Record<System, string> = { ...NO_RECORDS }
  for (const system of SYSTEMS) {
    const inputs = ({ image }: Place) => ({ mode: 'build', system, flake: '.', image, tag: 'built' })
    const scenario = { name: 'publish', breaks: [], holds: () => [], env: { NIX_VERSION: version }, inputs }
    const { record = '', published } = await succeed(play, scenario, NOTHING)
    records[system] = record
    manifests.push(...published.manifests.map(({ bytes, mediaType }) => ({ bytes, mediaType })))
    blobs.push(...published.blobs)
  }
  return { content: { manifests, blobs }, records }
}

async function succeed(play: PlayOnce, scenario: Scenario, before: LayerCache, sha?: string): Promise<Played> {
  const result = await play(scenario, before, undefined, sha)
  if (result.exitCode === 0) return result
  throw new Error(`The initial content could not be published: ${result.hang ?? result.crash ?? ''}\n${result.log}`)
}
