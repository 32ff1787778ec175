import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { readImage } from '../../src/image/source.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { unzstd } from '../support/layer-content.ts'
import { startRegistry } from '../support/registry.ts'
import { type ActionRun, prepareRunner } from '../support/runner.ts'

// What `push-with: registry` puts into a real registry, as other tools read it.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const run = promisify(execFile)
const ATTRIBUTES = ['containerImage', 'plainImage', 'layeredImage', 'streamedImage'] as const

let lab: Lab
let names = 0

beforeAll(async () => {
  lab = await startLab({ docker: { DOCKER_HOST, DOCKER_CONFIG } })
})
afterAll(() => lab.close())

/** A repository of its own for each test. */
function newImage(): string {
  return `${lab.registry.host}/owner/image-${names++}`
}

function passed(step: ActionRun): ActionRun {
  expect({ exitCode: step.exitCode, errors: step.errors, tempLeft: step.tempLeft }).toEqual({
    exitCode: 0,
    errors: [],
    tempLeft: [],
  })
  return step
}

interface Layout {
  readonly configDigest: string
  readonly diffIds: readonly string[]
  /** Of the layers, unpacked and hashed. */
  readonly unpacked: readonly string[]
  readonly mediaTypes: readonly string[]
}

interface Descriptor {
  readonly mediaType: string
  readonly digest: string
}

/** What skopeo makes of an image: it checks the digest of each blob that it copies. */
async function copied(reference: string): Promise<Layout> {
  const folder = await mkdtemp(join(lab.folder, 'layout-'))
  await run('skopeo', ['copy', '--src-tls-verify=false', `docker://${reference}`, `oci:${folder}:copy`])
  const blob = (digest = '') => readFile(join(folder, 'blobs', ...digest.split(':')))
  const index: { readonly manifests: readonly Descriptor[] } = JSON.parse(
    await readFile(join(folder, 'index.json'), 'utf8'),
  )
  const manifest: { readonly config: Descriptor; readonly layers: readonly Descriptor[] } = JSON.parse(
    (await blob(index.manifests[0]?.digest)).toString(),
  )
  const config: { readonly rootfs: { readonly diff_ids: readonly string[] } } = JSON.parse(
    (await blob(manifest.config.digest)).toString(),
  )
  const unpacked = await Promise.all(
    manifest.layers.map(async ({ digest, mediaType }) => {
      const bytes = await blob(digest)
      const tar = mediaType.endsWith('zstd') ? unzstd(bytes) : gunzipSync(bytes)
      return `sha256:${createHash('sha256').update(tar).digest('hex')}`
    }),
  )
  const mediaTypes = manifest.layers.map(({ mediaType }) => mediaType)
  return { configDigest: manifest.config.digest, diffIds: config.rootfs.diff_ids, unpacked, mediaTypes }
}

/** As the registry has it. */
async function configDigestOf(reference: string): Promise<string> {
  const { stdout } = await run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${reference}`])
  const { config }: { readonly config: Descriptor } = JSON.parse(stdout)
  return config.digest
}

/** What is in the archive that Nix built. */
async function built(
  attribute: string,
  storePath: string,
): Promise<{ configDigest: string; diffIds: readonly string[] }> {
  const format = attribute === 'streamedImage' ? 'script' : attribute === 'plainImage' ? 'tar' : 'gzip'
  const { configDigest, config } = await readImage({ path: storePath, format })
  return { configDigest, diffIds: config.diffIds }
}

test.each(ATTRIBUTES)(
  'pushed with docker and with registry, a %s has the same config and the same layers',
  async (attribute) => {
    const byDocker = newImage()
    const byRegistry = newImage()
    passed(
      await lab.build('x86_64-linux', { inputs: { attribute, image: byDocker, 'push-with': 'docker', tag: 'v1' } }),
    )
    passed(await lab.build('x86_64-linux', { inputs: { attribute, image: byRegistry, tag: 'v1' } }))
    const [first, second] = [await copied(`${byDocker}:v1`), await copied(`${byRegistry}:v1`)]
    // Not what was copied: to an OCI layout skopeo rewrites a config that Docker has pushed.
    expect(second.configDigest).toBe(await configDigestOf(`${byDocker}:v1`))
    expect(await configDigestOf(`${byRegistry}:v1`)).toBe(second.configDigest)
    expect(second.diffIds).toEqual(first.diffIds)
    expect(second.unpacked).toEqual(first.unpacked)
  },
)

test.each(ATTRIBUTES.flatMap((attribute) => ['gzip', 'zstd'].map((compression) => [attribute, compression] as const)))(
  'skopeo reads a %s in %s, and unpacks what Nix made',
  async (attribute, compression) => {
    const image = newImage()
    const { outputs } = passed(
      await lab.build('aarch64-linux', { inputs: { attribute, compression, image, tag: 'v1' } }),
    )
    const nix = await built(attribute, outputs['store-path'] ?? '')
    const read = await copied(outputs.image ?? '')
    expect(read.configDigest).toBe(nix.configDigest)
    expect(read.diffIds).toEqual(nix.diffIds)
    expect(read.unpacked).toEqual(nix.diffIds)
    for (const type of read.mediaTypes) expect(type).toBe(`application/vnd.oci.image.layer.v1.tar+${compression}`)
  },
)

test('Docker pulls and saves it with the layers that Nix made', async () => {
  const { outputs } = passed(
    await lab.build('x86_64-linux', { inputs: { attribute: 'layeredImage', image: newImage(), tag: 'v1' } }),
  )
  const nix = await built('layeredImage', outputs['store-path'] ?? '')
  const reference = outputs.image ?? ''
  await run('docker', ['pull', reference])
  const path = join(lab.folder, 'saved.tar')
  await run('docker', ['save', '--output', path, reference])
  const saved = await readImage({ path, format: 'tar' })
  expect(saved.configDigest).toBe(nix.configDigest)
  expect(saved.config.diffIds).toEqual(nix.diffIds)
})

test.each(['gzip', 'zstd'])('podman pulls it in %s', async (compression) => {
  const { outputs } = passed(
    await lab.build('x86_64-linux', {
      inputs: { attribute: 'layeredImage', image: newImage(), tag: 'v1', compression },
    }),
  )
  const nix = await built('layeredImage', outputs['store-path'] ?? '')
  const folder = await mkdtemp(join(lab.folder, 'podman-'))
  const own = ['--root', join(folder, 'root'), '--runroot', join(folder, 'run'), '--storage-driver', 'vfs']
  // Docker's folder for configuration is there, but empty, which podman does not take.
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

test('a second run reuses all that the first has pushed, as its outputs and summary say', async () => {
  const inputs = { attribute: 'layeredImage', image: newImage(), tag: 'latest' }
  const first = passed(await lab.build('x86_64-linux', { inputs }))
  const second = passed(await lab.build('x86_64-linux', { inputs }))
  expect(first.outputs['reused-layers']).toBe('0')
  expect(Number(first.outputs['pushed-bytes'])).toBeGreaterThan(0)
  expect(first.log).toMatch(/\n2 layers: 0 reused, 2 pushed \(.* of .*\) in \d+\.\d s\n/)
  expect(second.outputs).toEqual({ ...first.outputs, 'pushed-bytes': '0', 'reused-layers': '2' })
  expect(second.log).toMatch(/\n2 layers: 2 reused, 0 pushed \(0 B of .*\) in \d+\.\d s\n/)
  expect(second.summary).toMatch(/\| reused \| 2 \| .* \|\n\| pushed \| 0 \| 0 B \|/)
})

test('an empty tag pushes by digest alone, and merge publishes it', async () => {
  const image = newImage()
  const { outputs } = passed(await lab.build('x86_64-linux', { jobTotal: 1, inputs: { image, tag: '' } }))
  const url = `http://${image.replace('/', '/v2/')}/tags/list`
  expect(((await (await fetch(url)).json()) as { tags?: unknown }).tags ?? null).toBeNull()
  const digests = outputs.record ?? ''
  const merged = passed(await lab.merge({ inputs: { image, digests, tags: 'v1' } }))
  expect(merged.outputs.platforms).toContain(outputs.digest)
  expect((await copied(`${image}:v1`)).unpacked).toHaveLength(1)
})

test('killed in the middle, it has moved no tag and left no file, and a second run completes', async () => {
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
    expect(registry.tags('app').get('v1')).toBe((await runner.readOutputs()).digest)
    expect(await runner.tempLeft()).toEqual([])
  } finally {
    await runner.close()
    await registry.close()
  }
})
