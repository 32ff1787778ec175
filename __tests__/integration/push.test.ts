import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { createGunzip, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { readImage } from '../../src/image/open-image.ts'
import { findSource } from '../../src/image/source.ts'
import { startContainerd } from '../support/containerd.ts'
import { digestOf } from '../support/digest.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { type Lab, startLab, wrapImage } from '../support/lab.ts'
import { noise } from '../support/layer-content.ts'
import { annotatedManifest, packWithXz } from '../support/layout.ts'
import { filesOf, type PulledImage, pullWithSkopeo } from '../support/pulled.ts'
import { startRegistry } from '../support/registry.ts'
import { passed, prepareRunner } from '../support/runner.ts'
import { OCI_MANIFEST } from '../support/seed.ts'

// The images that `push-with: registry` pushes to a real registry, read with other tools.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const run = promisify(execFile)
/** Docker archives, which Docker can push as well. */
const ATTRIBUTES = ['containerImage', 'plainImage', 'layeredImage', 'streamedImage'] as const

let lab: Lab
let names = 0

/** Every tag here belongs to one system's image. */
const build: Lab['build'] = (system, call) => lab.build(system, { jobTotal: 1, ...call })

beforeAll(async () => {
  lab = await startLab({ docker: { DOCKER_HOST, DOCKER_CONFIG } })
})
afterAll(() => lab.close())

/** A separate repository for each test. */
function newImage(): string {
  return `${lab.registry.host}/owner/image-${names++}`
}

function copied(reference: string): Promise<PulledImage> {
  return pullWithSkopeo(reference, lab.folder)
}

interface Descriptor {
  readonly digest: string
}

/** The image at the registry. */
async function configDigestOf(reference: string): Promise<string> {
  const { stdout } = await run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${reference}`])
  const { config }: { readonly config: Descriptor } = JSON.parse(stdout)
  return config.digest
}

/** The content of the image that Nix built. */
async function built(storePath = ''): Promise<{ configDigest: string; diffIds: readonly string[] }> {
  const { configDigest, config } = await readImage(await findSource(storePath))
  return { configDigest, diffIds: config.diffIds }
}

test.each(ATTRIBUTES)('a %s has the same config and layers whether docker or registry pushes it', async (attribute) => {
  const byDocker = newImage()
  const byRegistry = newImage()
  passed(await build('x86_64-linux', { inputs: { attribute, image: byDocker, 'push-with': 'docker', tag: 'v1' } }))
  passed(await build('x86_64-linux', { inputs: { attribute, image: byRegistry, tag: 'v1' } }))
  const [first, second] = [await copied(`${byDocker}:v1`), await copied(`${byRegistry}:v1`)]
  // The digest at the registry, because skopeo rewrites a Docker config when it copies to an OCI layout.
  expect(second.configDigest).toBe(await configDigestOf(`${byDocker}:v1`))
  expect(await configDigestOf(`${byRegistry}:v1`)).toBe(second.configDigest)
  expect(second.diffIds).toEqual(first.diffIds)
  expect(second.unpacked).toEqual(first.unpacked)
})

test.each(ATTRIBUTES.flatMap((attribute) => ['gzip', 'zstd'].map((compression) => [attribute, compression] as const)))(
  'skopeo reads a %s in %s, and extracts the layers that Nix built',
  async (attribute, compression) => {
    const image = newImage()
    const { outputs } = passed(await build('aarch64-linux', { inputs: { attribute, compression, image, tag: 'v1' } }))
    const nix = await built(outputs['store-path'])
    const read = await copied(outputs.image ?? '')
    expect(read.configDigest).toBe(nix.configDigest)
    expect(read.diffIds).toEqual(nix.diffIds)
    expect(read.unpacked).toEqual(nix.diffIds)
    for (const type of read.mediaTypes) expect(type).toBe(`application/vnd.oci.image.layer.v1.tar+${compression}`)
  },
)

test.each(
  ['ociLayout', 'ociArchive'].flatMap((attribute) =>
    ['gzip', 'zstd'].map((compression) => [attribute, compression] as const),
  ),
)(
  'skopeo reads an %s with its original blobs and manifest, even if `compression` is %s',
  async (attribute, compression) => {
    const inputs = { attribute, compression, image: newImage(), tag: 'v1' }
    const { outputs } = passed(await build('aarch64-linux', { inputs }))
    const { manifest, config, configDigest } = await readImage(await findSource(outputs['store-path'] ?? ''))
    const published = annotatedManifest(
      { manifest: manifest?.bytes ?? Buffer.alloc(0) },
      {
        'io.github.nix-image-action.store-path': outputs['store-path'] ?? '',
        ...(compression === 'zstd' && { 'io.github.nix-image-action.compression': 'zstd' }),
      },
    )
    expect(outputs.digest).toBe(digestOf(published))
    const read = await copied(outputs.image ?? '')
    expect(read.configDigest).toBe(configDigest)
    expect(read.diffIds).toEqual(config.diffIds)
    expect(read.unpacked).toEqual(config.diffIds)
    for (const type of read.mediaTypes) expect(type).toBe('application/vnd.oci.image.layer.v1.tar+gzip')
    expect(read.files).toContainEqual(expect.stringMatching(/^bin\/hello → .*-hello\/bin\/hello$/))
  },
)

test('an OCI layout and a Docker archive of the same layers have the same files', async () => {
  const files = []
  for (const attribute of ['layeredImage', 'ociLayout', 'ociArchive']) {
    const inputs = { attribute, image: newImage(), tag: 'v1' }
    const { outputs } = passed(await build('x86_64-linux', { inputs }))
    files.push((await copied(outputs.image ?? '')).files)
  }
  expect(files[0]?.length).toBeGreaterThan(3)
  expect(files.slice(1)).toEqual([files[0], files[0]])
})

test('an OCI layout is not uploaded again', async () => {
  const inputs = { attribute: 'ociLayout', image: newImage(), tag: 'v1' }
  const first = passed(await build('x86_64-linux', { inputs }))
  const second = passed(await build('x86_64-linux', { inputs }))
  expect(first.outputs['reused-layers']).toBe('0')
  expect(second.outputs).toEqual({
    ...first.outputs,
    sbom: expect.stringContaining(basename(first.outputs.sbom ?? '/')),
    'pushed-bytes': '0',
    'reused-layers': '2',
  })
})

test.each(['xzImage', 'imageInFolder'])(
  'skopeo reads an %s, and extracts the files that Nix built',
  async (attribute) => {
    const inputs = { attribute, image: newImage(), tag: 'v1' }
    const { outputs } = passed(await build('x86_64-linux', { cwd: lab.broken, inputs }))
    const nix = await built(outputs['store-path'])
    const read = await copied(outputs.image ?? '')
    expect(read.configDigest).toBe(nix.configDigest)
    expect(read.unpacked).toEqual(nix.diffIds)
    expect(read.files).toContainEqual(expect.stringMatching(/^bin\/hello → .*-hello\/bin\/hello$/))
  },
)

test.each(['xz', 'zstd'])(
  'Docker loads an archive in %s, even if its version does not support that',
  async (packing) => {
    const made = makeArchive({ layers: ['lower', 'upper'] })
    const bytes = packing === 'xz' ? await packWithXz(made.bytes) : zstdCompressSync(made.bytes)
    const inputs = { image: newImage(), tag: 'v1', 'push-with': 'docker' }
    const { outputs } = passed(await build('x86_64-linux', { cwd: await wrapImage(lab, bytes), inputs }))
    const read = await copied(outputs.image ?? '')
    expect(read.configDigest).toBe(made.configDigest)
    expect(read.unpacked).toEqual(made.layers.map(({ diffId }) => diffId))
  },
)

test('skopeo reads an archive in zstd, and extracts the original files', async () => {
  const made = makeArchive({ layers: ['lower', writeTar([{ name: 'noise', content: noise(3_000_000) }])] })
  const cwd = await wrapImage(lab, zstdCompressSync(made.bytes))
  const { outputs } = passed(await build('x86_64-linux', { cwd, inputs: { image: newImage(), tag: 'v1' } }))
  const read = await copied(outputs.image ?? '')
  expect(read.configDigest).toBe(made.configDigest)
  expect(read.unpacked).toEqual(made.layers.map(({ diffId }) => diffId))
  expect(read.files).toEqual(
    await filesOf(
      made.layers.map(({ bytes }) => bytes),
      lab.folder,
    ),
  )
})

test('Docker pulls and saves it with the layers that Nix built', async () => {
  const { outputs } = passed(
    await build('x86_64-linux', { inputs: { attribute: 'layeredImage', image: newImage(), tag: 'v1' } }),
  )
  const nix = await built(outputs['store-path'])
  const reference = outputs.image ?? ''
  await run('docker', ['pull', reference])
  const path = join(lab.folder, 'saved.tar')
  await run('docker', ['save', '--output', path, reference])
  const saved = await readImage({ path, root: lab.folder, format: 'tar' })
  expect(saved.configDigest).toBe(nix.configDigest)
  expect(saved.config.diffIds).toEqual(nix.diffIds)
})

test.each(['gzip', 'zstd'])('podman pulls it in %s', async (compression) => {
  const { outputs } = passed(
    await build('x86_64-linux', {
      inputs: { attribute: 'layeredImage', image: newImage(), tag: 'v1', compression },
    }),
  )
  const nix = await built(outputs['store-path'])
  const folder = await mkdtemp(join(lab.folder, 'podman-'))
  const own = ['--root', join(folder, 'root'), '--runroot', join(folder, 'run'), '--storage-driver', 'vfs']
  // podman does not accept Docker's configuration folder, which exists but is empty.
  const env = { ...process.env, DOCKER_CONFIG: undefined, HOME: folder }
  const reference = outputs.image ?? ''
  await run('podman', [...own, 'pull', '--quiet', '--tls-verify=false', reference], { env })
  const { stdout } = await run(
    'podman',
    [...own, 'image', 'inspect', '--format', '{{json .RootFS.Layers}}', reference],
    { env },
  )
  expect(JSON.parse(stdout)).toEqual(nix.diffIds)
})

test.each(['gzip', 'zstd'])(
  'containerd extracts exactly the files of the layers from %s',
  async (compression) => {
    const lower = writeTar([
      { name: 'usr/', type: 'folder' },
      // Several blocks, each compressed separately, some of them incompressible.
      { name: 'usr/share/mixed', content: Buffer.concat([detail(3_000_000), noise(3_000_000), detail(500_000)]) },
      { name: 'usr/share/same', type: 'hard-link', linkName: 'usr/share/mixed' },
      { name: 'usr/bin', type: 'symbolic-link', linkName: 'share' },
      { name: 'usr/empty' },
      { name: 'etc/motd', content: 'lower' },
    ])
    const long = 'long-'.repeat(30)
    const upper = writeTar([
      { name: '[id].js', content: 'begins like JSON' },
      { name: 'etc/motd', content: 'upper' },
      { name: long, content: noise(1_100_000, 2), header: 'pax' },
    ])
    const layerName = (diffId: string) => `blobs/sha256/${diffId.slice('sha256:'.length)}`
    const { bytes } = makeArchive({ layers: [lower, 'between', upper], layerName })
    const inputs = { image: newImage(), tag: 'v1', compression }
    const { outputs } = passed(await build('x86_64-linux', { cwd: await wrapImage(lab, bytes), inputs }))

    const containerd = await startContainerd()
    try {
      const path = join(lab.folder, `unpacked-${compression}.tar`)
      await containerd.unpack(outputs.image ?? '', 'linux/amd64', path)
      const expected = await filesOf([lower, writeTar([{ name: 'etc/motd', content: 'between' }]), upper], lab.folder)
      expect(expected).toHaveLength(10)
      expect(await filesOf([await readFile(path)], lab.folder)).toEqual(expected)
    } finally {
      await containerd.close()
    }
  },
  30_000,
)

function detail(size: number): Buffer {
  return Buffer.alloc(size, 'many words, again and again\n')
}

test('a streamed image of 1.2 GB with one large layer takes less than 350 MB of memory', async () => {
  const script = await readFile(new URL('../fixtures/streamed-image.cjs', import.meta.url), 'utf8')
  const status = join(lab.folder, 'status')
  const { outputs } = passed(
    await build('x86_64-linux', {
      cwd: await wrapImage(lab, script),
      env: { NODE_OPTIONS: keepStatus(status) },
      inputs: { image: newImage(), tag: 'v1' },
    }),
  )
  const [, peak] = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile(status, 'utf8')) ?? []
  expect(Number(peak) * 1024).toBeLessThan(350_000_000)

  const { diffIds, layers } = await published(outputs.image ?? '')
  expect(layers.map(({ diffId }) => diffId)).toEqual(diffIds)
  // None of them is small enough to be held in memory.
  for (const { size } of layers) expect(size).toBeGreaterThan(16 * 1024 * 1024)
}, 120_000)

/** `NODE_OPTIONS` for a process that writes Linux's statistics to a file when it ends. */
function keepStatus(file: string): string {
  const module = `
    import { readFileSync, writeFileSync } from 'node:fs'
    // Only for this process, not for its child processes, which may be Node as well.
    delete process.env.NODE_OPTIONS
    process.on('exit', () => writeFileSync(${JSON.stringify(file)}, readFileSync('/proc/self/status')))`
  return `--import=data:text/javascript,${encodeURIComponent(module)}`
}

interface PublishedLayers {
  /** The digests in the config. */
  readonly diffIds: readonly string[]
  /** The digests of the decompressed layers. */
  readonly layers: readonly { readonly size: number; readonly diffId: string }[]
}

/** The content of an image at the registry, of any size. */
async function published(image: string): Promise<PublishedLayers> {
  const [, host, path, reference] = /^([^/]+)\/(.+)@(.+)$/.exec(image) ?? []
  const get = (message: string) => fetch(`http://${host}/v2/${path}/${message}`, { headers: { accept: OCI_MANIFEST } })
  const { config, layers } = (await (await get(`manifests/${reference}`)).json()) as {
    readonly config: Descriptor
    readonly layers: readonly (Descriptor & { readonly size: number })[]
  }
  const { rootfs } = (await (await get(`blobs/${config.digest}`)).json()) as {
    readonly rootfs: { readonly diff_ids: readonly string[] }
  }
  const unpacked = layers.map(async ({ digest, size }) => {
    const hash = createHash('sha256')
    await pipeline((await get(`blobs/${digest}`)).body ?? [], createGunzip(), hash)
    return { size, diffId: `sha256:${hash.digest('hex')}` }
  })
  return { diffIds: rootfs.diff_ids, layers: await Promise.all(unpacked) }
}

test('a second run reuses everything that the first has pushed, and reports it in outputs and summary', async () => {
  const inputs = { attribute: 'layeredImage', image: newImage(), tag: 'latest' }
  const first = passed(await build('x86_64-linux', { inputs }))
  const second = passed(await build('x86_64-linux', { inputs }))
  expect(first.outputs['reused-layers']).toBe('0')
  expect(Number(first.outputs['pushed-bytes'])).toBeGreaterThan(0)
  expect(first.log).toMatch(/^##\[group\]2 layers: 0 reused, 2 pushed \(.* of .*\) in [\d.]+ m?s$/m)
  expect(second.outputs).toEqual({
    ...first.outputs,
    sbom: expect.stringContaining(basename(first.outputs.sbom ?? '/')),
    'pushed-bytes': '0',
    'reused-layers': '2',
  })
  expect(second.log).toMatch(/^##\[group\]2 layers: 2 reused, 0 pushed \(0 B of .*\) in [\d.]+ m?s$/m)
  expect(second.summary).toMatch(/, 0 B of .* uploaded, 2 of 2 layers reused\.\n/)
})

test('an empty tag pushes by digest alone, and merge publishes it', async () => {
  const image = newImage()
  const { outputs } = passed(await build('x86_64-linux', { inputs: { image, tag: '' } }))
  const url = `http://${image.replace('/', '/v2/')}/tags/list`
  expect(((await (await fetch(url)).json()) as { tags?: unknown }).tags ?? null).toBeNull()
  const digests = outputs.record ?? ''
  const merged = passed(await lab.merge({ inputs: { image, digests, tags: 'v1' } }))
  expect(merged.outputs.platforms).toContain(outputs.digest)
  expect((await copied(`${image}:v1`)).unpacked).toHaveLength(1)
})

test('a killed push has moved no tag and left no files, and a second run completes', async () => {
  const stuck = Promise.withResolvers<void>()
  const registry = await startRegistry({
    fault: ({ method, route, count }) => {
      if (method !== 'PUT' || route !== 'upload' || count < 2) return undefined
      stuck.resolve()
      return { kind: 'hang' }
    },
  })
  const call = {
    cwd: lab.hello,
    artifacts: lab.artifacts,
    matrix: { system: 'x86_64-linux' },
    env: lab.nix,
    inputs: { mode: 'build', image: `${registry.host}/app`, attribute: 'layeredImage', tag: 'v1' },
  }
  const runner = await prepareRunner(call)
  try {
    const child = spawn(process.execPath, [runner.main], { cwd: runner.cwd, env: runner.env, stdio: 'ignore' })
    const exited = once(child, 'exit')
    await Promise.race([stuck.promise, exited])
    child.kill('SIGKILL')
    expect(await exited).toEqual([null, 'SIGKILL'])
    expect([...registry.tags('app').keys()]).toEqual([])
    expect(await runner.tempLeft()).toEqual([])

    registry.setFault(undefined)
    const again = spawn(process.execPath, [runner.main], { cwd: runner.cwd, env: runner.env, stdio: 'ignore' })
    expect(await once(again, 'exit')).toEqual([0, null])
    const { digest, sbom = '' } = await runner.readOutputs()
    expect(registry.tags('app').get('v1')).toBe(digest)
    expect(await runner.tempLeft()).toEqual([basename(sbom)])
  } finally {
    await runner.close()
    await registry.close()
  }
})
