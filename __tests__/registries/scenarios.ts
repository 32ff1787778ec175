import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { startArtifactService } from '../support/artifact-service.ts'
import { makeArchive } from '../support/image.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'
import { describeAttestations } from './attestations.ts'
import { type Descriptor, type PublishedIndex, readIndex, statusOfTag } from './contents.ts'
import { startOpenDistribution } from './distribution.ts'
import type { Login, RealRegistry } from './server.ts'

const run = promisify(execFile)
const ARCHITECTURES = { 'x86_64-linux': 'amd64', 'aarch64-linux': 'arm64' } as const
const SYSTEMS = Object.keys(ARCHITECTURES) as readonly (keyof typeof ARCHITECTURES)[]
type Inputs = Readonly<Record<string, string>>

export interface RegistryTests {
  readonly withLogin: boolean
  readonly https?: true
  /** The names of the registry's read-only logins. */
  readonly readers?: readonly string[]
  /** Additional tests of this registry. */
  readonly more?: (bench: () => Bench) => void
}

/** Tests the action at a registry: runs dist/index.js like the runner does, with real Nix. */
export function describeRegistry(
  name: string,
  start: () => Promise<RealRegistry>,
  { withLogin, https, readers = [], more }: RegistryTests,
): void {
  describe(name, () => {
    const bench = useBench(start)

    test('two systems are built and merged into one image, which skopeo copies', async () => {
      const { publish, read, copyWithSkopeo } = bench()
      const flake = await bench().flake(['base', 'app'])
      const { built, merged } = await publish('merged', flake)
      const index = await read('merged')
      expect(index.mediaType).toBe('application/vnd.oci.image.index.v1+json')
      expect(index.digest).toBe(merged.outputs.digest)
      expect(digestsOf(index)).toEqual({ amd64: built[0]?.outputs.digest, arm64: built[1]?.outputs.digest })
      expect(await copyWithSkopeo('merged')).toBe(index.digest)
    })

    test('a second run builds, uploads and changes nothing', async () => {
      const { publish, read } = bench()
      const flake = await bench().flake(['base', 'app'])
      await publish('again', flake)
      const first = await read('again')
      const second = await publish('again', flake)
      for (const { outputs, log } of second.built) {
        expect(outputs).toMatchObject({ unchanged: 'true' })
        expect(log).not.toMatch(/building '.*\.drv'/)
      }
      expect(second.merged.outputs).toMatchObject({ changed: 'false', digest: first.digest })
      expect(await read('again')).toEqual(first)
    })

    test('only the changed layer of an image is uploaded', async () => {
      const { publish, read } = bench()
      await publish('changed', await bench().flake(['base', 'app', 'files']))
      const before = await read('changed')
      const { built } = await publish('changed', await bench().flake(['base', 'app 2', 'files']))
      const after = await read('changed')
      for (const [at, architecture] of Object.values(ARCHITECTURES).entries()) {
        const [old, now] = [layersOf(before, architecture), layersOf(after, architecture)]
        expect(now.map(({ digest }, layer) => digest === old[layer]?.digest)).toEqual([true, false, true])
        expect(built[at]?.outputs).toMatchObject({ unchanged: 'false', 'reused-layers': '2' })
        // Only the layer, the config and the manifest.
        expect(Number(built[at]?.outputs['pushed-bytes'])).toBeLessThan((now[1]?.size ?? 0) + 5000)
      }
    })

    test('changed labels give an image of the same layers, without a build', async () => {
      const { publish, read } = bench()
      const flake = await bench().flake(['base', 'app'])
      await publish('labels', flake, { labels: 'org.opencontainers.image.revision=1' })
      const before = await read('labels')
      const { built } = await publish('labels', flake, { labels: 'org.opencontainers.image.revision=2' })
      const after = await read('labels')
      for (const architecture of Object.values(ARCHITECTURES)) {
        expect(after.images.get(architecture)?.labels).toEqual({ 'org.opencontainers.image.revision': '2' })
        expect(layersOf(after, architecture)).toEqual(layersOf(before, architecture))
      }
      for (const { outputs, log } of built) {
        expect(Number(outputs['pushed-bytes'])).toBeLessThan(5000)
        expect(log).not.toMatch(/building '.*\.drv'/)
      }
    })

    test('layers of another repository of the registry are mounted', async () => {
      const { publish, read, image } = bench()
      await publish('mounted-from', await bench().flake(['base', 'app']))
      const source = await read('mounted-from')
      const inputs = { 'reuse-from': `${image('mounted-from')}:latest` }
      const { built } = await publish('mounted-to', await bench().flake(['base', 'app', 'more']), inputs)
      const index = await read('mounted-to')
      for (const [at, architecture] of Object.values(ARCHITECTURES).entries()) {
        const layers = layersOf(index, architecture)
        expect(layers.slice(0, 2)).toEqual(layersOf(source, architecture))
        expect(built[at]?.outputs['reused-layers']).toBe('2')
        expect(Number(built[at]?.outputs['pushed-bytes'])).toBeLessThan((layers[2]?.size ?? 0) + 5000)
      }
    })

    test('layers are compressed with zstd', async () => {
      const { publish, read } = bench()
      await publish('zstd', await bench().flake(['base', 'app']), { compression: 'zstd' })
      const index = await read('zstd')
      const types = [...index.images.values()].flatMap(({ layers }) => layers.map(({ mediaType }) => mediaType))
      expect(types).toEqual(Array(4).fill('application/vnd.oci.image.layer.v1.tar+zstd'))
    })

    test('one run publishes the same index to two registries', async () => {
      const { publish, read, image, other } = bench()
      const names = `${image('both')}\n${other.host}/owner/both`
      const { merged } = await publish('both', await bench().flake(['base', 'app']), { image: names })
      const index = await read('both')
      expect(index.digest).toBe(merged.outputs.digest)
      expect(await readIndex(other, 'owner/both', 'latest')).toEqual(index)
    })

    test('images that only one of two registries has are copied to the other', async () => {
      const { build, merge, read, image, other } = bench()
      const flake = await bench().flake(['base', 'app'])
      const names = [image('copied'), `${other.host}/owner/copied`] as const
      const records = [
        passed(await build('x86_64-linux', flake, { image: names[0] })).outputs.record ?? '',
        passed(await build('aarch64-linux', flake, { image: names[1] })).outputs.record ?? '',
      ]
      passed(await merge({ image: names.join('\n'), digests: records.join('\n'), tags: 'latest' }))
      const index = await read('copied')
      expect([...index.images.keys()]).toEqual(['amd64', 'arm64'])
      expect(await readIndex(other, 'owner/copied', 'latest')).toEqual(index)
    })

    describeAttestations(bench, https === true)
    if (withLogin) describeLogins(bench)
    if (readers.length > 0) describeReaders(bench, readers)
    more?.(bench)
  })
}

function describeLogins(bench: () => Bench): void {
  test('a wrong password is reported as such', async () => {
    const { build, registry, image, loginFolder } = bench()
    const login = { user: registry.login?.user ?? '', password: 'not the password' }
    const env = { DOCKER_CONFIG: await loginFolder(login) }
    const inputs = { image: image('wrong-password') }
    const { exitCode, errors } = await build('x86_64-linux', await bench().flake(['base']), inputs, env)
    expect(exitCode).toBe(1)
    expect(errors).toEqual([expect.stringMatching(/invalid credentials|did not accept the credentials/)])
    expect(errors).toEqual([expect.stringMatching(/docker\/login-action/)])
  })

  test('a build without a login fails and asks for one', async () => {
    const { build, image, lab } = bench()
    const inputs = { image: image('no-login') }
    const env = { DOCKER_CONFIG: await mkdtemp(join(lab.folder, 'no-login-')) }
    const { exitCode, errors } = await build('x86_64-linux', await bench().flake(['base']), inputs, env)
    expect(exitCode).toBe(1)
    expect(errors).toEqual([expect.stringMatching(/Log in before this step/)])
  })
}

function describeReaders(bench: () => Bench, readers: readonly string[]): void {
  test.each(readers)('a build is denied with %s', async (reader) => {
    const { build, registry, loginFolder } = bench()
    const found = registry.readers.find((one) => one.name === reader)
    if (found === undefined) throw new Error(`The registry has no login for "${reader}"`)
    const image = `${registry.host}/${found.repository}`
    const env = { DOCKER_CONFIG: await loginFolder(found.login) }
    const { exitCode, errors } = await build('x86_64-linux', await bench().flake(['base']), { image }, env)
    expect(exitCode).toBe(1)
    expect(errors).toEqual([expect.stringMatching(/access denied/i)])
    expect(errors).toEqual([expect.stringMatching(/write access/)])
    expect(errors).toEqual([
      expect.not.stringMatching(/(invalid|did not accept the) credentials|no credentials were found/),
    ])
    expect(await statusOfTag(registry, found.repository, '0123456-x86_64-linux')).not.toBe(200)
  })
}

/** A registry, a second one, and steps that use them. */
export interface Bench {
  readonly lab: Lab
  readonly registry: RealRegistry
  /** Without authentication. */
  readonly other: RealRegistry
  /** The variables of processes that use the registry. */
  readonly env: Inputs
  /** The name of an image in the registry. */
  image(name: string): string
  /** Creates a flake of images with these layers, in a separate folder. */
  flake(layers: readonly string[]): Promise<string>
  build(system: string, flake: string, inputs: Inputs, env?: Inputs): Promise<ActionRun>
  merge(inputs: Inputs): Promise<ActionRun>
  /**
   * Builds for both systems and merges. All steps must succeed.
   * @param inputs of the builds
   * @param merging the call of the merge
   */
  publish(
    name: string,
    flake: string,
    inputs?: Inputs,
    merging?: Partial<ActionCall>,
  ): Promise<{ readonly built: readonly ActionRun[]; readonly merged: ActionRun }>
  read(name: string): Promise<PublishedIndex>
  /** The digest of an image with all platforms, which skopeo has copied. */
  copyWithSkopeo(name: string): Promise<string>
  /** A folder for DOCKER_CONFIG with a login. */
  loginFolder(login: Login | undefined): Promise<string>
}

function useBench(start: () => Promise<RealRegistry>): () => Bench {
  let bench: Bench | undefined
  beforeAll(async () => {
    const [registry, other] = await Promise.all([start(), startOpenDistribution()])
    const lab = await startLab({ startRegistry: async () => registry })
    bench = await openBench(lab, registry, other)
  })
  afterAll(async () => {
    await Promise.all([bench?.lab.close(), bench?.other.close()])
  })
  return () => {
    if (bench === undefined) throw new Error('The registry did not start')
    return bench
  }
}

async function openBench(lab: Lab, registry: RealRegistry, other: RealRegistry): Promise<Bench> {
  const { host, owner, authority } = registry
  const imageOf = (name: string): string => `${host}/${owner}/${name}`
  const loginFolder = async (login: Login | undefined): Promise<string> => {
    const folder = await mkdtemp(join(lab.folder, 'login-'))
    const auth = Buffer.from(`${login?.user}:${login?.password}`).toString('base64')
    const auths = login === undefined ? {} : { [host]: { auth } }
    await writeFile(join(folder, 'config.json'), JSON.stringify({ auths }))
    return folder
  }
  const common: Inputs = {
    DOCKER_CONFIG: await loginFolder(registry.login),
    ...(authority !== undefined && { NODE_EXTRA_CA_CERTS: authority.file }),
  }
  const build: Bench['build'] = (system, flake, inputs, env = {}) =>
    lab.build(system, { cwd: flake, inputs, env: { ...common, ...env } })
  const merge: Bench['merge'] = (inputs) => lab.merge({ inputs, env: common })
  const publish: Bench['publish'] = async (name, flake, inputs = {}, merging = {}) => {
    // A separate workflow run with separate artifacts.
    const artifacts = await startArtifactService()
    const step = { artifacts, env: common }
    const image = { image: imageOf(name), ...inputs }
    try {
      const built: ActionRun[] = []
      for (const system of SYSTEMS) built.push(passed(await lab.build(system, { ...step, cwd: flake, inputs: image })))
      const merged = await lab.merge({
        ...step,
        ...merging,
        env: { ...common, ...merging.env },
        inputs: { image: image.image, ...merging.inputs },
      })
      return { built, merged: passed(merged) }
    } finally {
      await artifacts.close()
    }
  }
  const copyWithSkopeo: Bench['copyWithSkopeo'] = async (name) => {
    const folder = await mkdtemp(join(lab.folder, 'copied-'))
    const source = ['--src-tls-verify=false', '--authfile', join(common.DOCKER_CONFIG ?? '', 'config.json')]
    await run('skopeo', ['copy', '--all', ...source, `docker://${imageOf(name)}:latest`, `oci:${folder}:copy`])
    const layout = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8'))
    return layout.manifests[0].digest
  }
  return {
    lab,
    registry,
    other,
    env: common,
    image: imageOf,
    build,
    merge,
    publish,
    copyWithSkopeo,
    loginFolder,
    flake: (layers) => makeFlake(lab.folder, layers),
    read: (name) => readIndex(registry, `${owner}/${name}`, 'latest'),
  }
}

/** Creates a flake whose `containerImage` is a different Docker archive for each system. */
async function makeFlake(parent: string, layers: readonly string[]): Promise<string> {
  const folder = join(await mkdtemp(join(parent, 'flake-')), 'flake')
  await mkdir(folder)
  for (const [system, architecture] of Object.entries(ARCHITECTURES)) {
    const archive = makeArchive({ architecture, layers: layers.map((layer) => incompressible(`${layer} ${system}`)) })
    await writeFile(join(folder, `${system}.tar`), archive.bytes)
  }
  const images = SYSTEMS.map((system) => `${system} = ./${system}.tar;`).join(' ')
  const image = `derivation {
    name = "image.tar"; inherit system;
    builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-euc" "cp \${archive} $out" ];
  }`
  const packages = `builtins.mapAttrs (system: archive: { containerImage = ${image}; }) { ${images} }`
  await writeFile(join(folder, 'flake.nix'), `{ outputs = _: { packages = ${packages}; }; }\n`)
  return folder
}

/** Text of 100 kB that compresses poorly, and is the same for the same seed. */
function incompressible(seed: string): string {
  const parts = Array.from({ length: 1600 }, (_, at) => createHash('sha256').update(`${seed} ${at}`).digest('hex'))
  return parts.join('')
}

function layersOf(index: PublishedIndex, architecture: string): readonly Descriptor[] {
  return index.images.get(architecture)?.layers ?? []
}

function digestsOf({ images }: PublishedIndex): Readonly<Record<string, string>> {
  return Object.fromEntries([...images].map(([architecture, { digest }]) => [architecture, digest]))
}
