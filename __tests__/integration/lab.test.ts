import { execFile } from 'node:child_process'
import { cp, mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { copyExample } from '../support/lab.ts'
import { nixEnvironment, removeNixFolder } from '../support/nix.ts'

// Tests the real components by themselves. If these fail, every other integration test fails for the same reason.

const run = promisify(execFile)
const example = fileURLToPath(new URL('../../examples/hello', import.meta.url))
const broken = fileURLToPath(new URL('../fixtures/broken', import.meta.url))

const forms = ['containerImage', 'plainImage', 'layeredImage', 'streamedImage']
const architectures = [
  ['x86_64-linux', 'amd64'],
  ['aarch64-linux', 'arm64'],
  ['armv7l-linux', 'arm'],
] as const

let folder: string
let nix: Record<string, string>

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lab-'))
  nix = await nixEnvironment(join(folder, 'nix'))
  await copyExample(join(folder, 'hello'), 'hello-of-lab:nix')
  await cp(broken, join(folder, 'broken'), { recursive: true })
  await cp(example, join(folder, 'broken/hello'), { recursive: true })
})

afterAll(() => removeNixFolder(folder))

describe('the example flake', () => {
  test.each(architectures)('builds every form of image for %s', async (system, architecture) => {
    for (const form of forms) {
      const { manifest, config } = await readImage(await build('hello', system, form))
      expect(manifest.RepoTags).toEqual(['hello-of-lab:nix'])
      expect(config).toMatchObject({ os: 'linux', architecture, created: '1970-01-01T00:00:01Z' })
      expect(manifest.Layers).toHaveLength(['containerImage', 'plainImage'].includes(form) ? 1 : 2)
      expect(manifest.Layers).toEqual(config.rootfs.diff_ids.map((id) => `${id.replace('sha256:', '')}/layer.tar`))
    }
  })

  test.each(['containerImage', 'streamedImage'])('gives a %s that Docker loads', async (form) => {
    const image = await build('hello', 'x86_64-linux', form)
    const open = form === 'streamedImage' ? '"$1" | docker load' : 'docker load < "$1"'
    const { stdout } = await run('sh', ['-c', open, 'sh', image])
    expect(stdout).toContain('hello-of-lab:nix')
    const inspected = await run('docker', [
      'image',
      'inspect',
      '--format',
      '{{.Architecture}} {{.Config.Cmd}}',
      'hello-of-lab:nix',
    ])
    expect(inspected.stdout.trim()).toBe('amd64 [/bin/hello]')
  })

  test('gives the same bytes when it is built again', async () => {
    const image = await build('hello', 'x86_64-linux', 'layeredImage')
    await expect(build('hello', 'x86_64-linux', 'layeredImage', '--rebuild')).resolves.toBe(image)
  })
})

describe('the broken flake', () => {
  test('builds images that a careful reader must refuse', async () => {
    const system = 'aarch64-linux'
    const wrong = await readImage(await build('broken', system, 'wrongArchitecture'))
    expect(wrong.config.architecture).toBe('amd64')
    const two = await readManifest(await build('broken', system, 'twoImages'))
    expect(two.map(({ RepoTags }) => RepoTags)).toEqual([['hello:nix'], ['other:nix']])
    const none = await readManifest(await build('broken', system, 'zeroNames'))
    expect(none.map(({ RepoTags }) => RepoTags)).toEqual([null])
  })

  test('fails to build what can not be built, and lacks what is only there for the other system', async () => {
    await expect(build('broken', 'x86_64-linux', 'failing')).rejects.toThrow('hello.c:1: no such thing')
    await expect(build('broken', 'aarch64-linux', 'onlyHere')).rejects.toThrow('does not provide attribute')
  })
})

/** The store path of what Nix builds from the flake in that folder. */
async function build(flake: string, system: string, attribute: string, ...args: readonly string[]): Promise<string> {
  const installable = `.#packages.${system}.${attribute}`
  const command = ['build', '--json', '--no-link', '--option', 'extra-platforms', system, ...args, installable]
  const { stdout } = await run('nix', command, { cwd: join(folder, flake), env: { ...process.env, ...nix } })
  const [built] = JSON.parse(stdout) as readonly { readonly outputs: { readonly out: string } }[]
  return built?.outputs.out ?? ''
}

type Manifest = {
  readonly Config: string
  readonly RepoTags: readonly string[] | null
  readonly Layers: readonly string[]
}
type Config = { readonly architecture: string; readonly rootfs: { readonly diff_ids: readonly string[] } }

async function readManifest(image: string): Promise<readonly Manifest[]> {
  return JSON.parse(await readEntry(image, 'manifest.json'))
}

async function readImage(image: string): Promise<{ readonly manifest: Manifest; readonly config: Config }> {
  const [manifest] = await readManifest(image)
  if (manifest === undefined) throw new Error(`${image} holds no image`)
  return { manifest, config: JSON.parse(await readEntry(image, manifest.Config)) }
}

/** tar tells a compressed archive from a plain one by itself; a streamed image is a script that writes it. */
async function readEntry(image: string, name: string): Promise<string> {
  const open = image.endsWith('stream-hello') ? '"$1" | tar -xO "$2"' : 'tar -xOf "$1" "$2"'
  return (await run('sh', ['-c', open, 'sh', image, name])).stdout
}
