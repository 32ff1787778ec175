import { execFile } from 'node:child_process'
import { mkdtemp, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { findBuildx } from '../support/buildx.ts'
import { digestOf } from '../support/digest.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { passed } from '../support/runner.ts'
import { type AttestedImage, uploadAttestedImage } from '../support/upload.ts'

// Reads a published index with other tools, never with this action's code.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const run = promisify(execFile)
const SYSTEMS = ['x86_64-linux', 'aarch64-linux'] as const
const ARCHITECTURES = ['amd64', 'arm64'] as const
const UNKNOWN = { os: 'unknown', architecture: 'unknown' }

let lab: Lab
beforeAll(async () => {
  lab = await startLab({ docker: { DOCKER_HOST, DOCKER_CONFIG } })
})
afterAll(() => lab.close())

/** A merged image and its expected content. */
interface LayerCache {
  /** Host and path. */
  readonly name: string
  readonly digest: string
  /** The digests of the images by architecture. */
  readonly images: Readonly<Record<string, string>>
  /** The digest of each attestation's subject, by the digest of the attestation. */
  readonly attestations: Readonly<Record<string, string>>
  readonly kind: 'SBOM' | 'Provenance'
}

describe.each([
  ['Nix', publishNix],
  ['BuildKit, with attestations', () => publishBuildKit('image')],
  ['BuildKit, with attestations as artifacts', () => publishBuildKit('artifact')],
])('an index of two images from %s', (_builder, publish) => {
  let published: LayerCache
  let tagged: string
  beforeAll(async () => {
    published = await publish()
    tagged = `${published.name}:v1`
  })

  test('is consistent, down to the layers', async () => {
    const { name, digest, images, attestations } = published
    const index: Index = JSON.parse((await fetchContent(name, 'manifests', { digest })).toString())
    expect(index).toMatchObject({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json' })
    const listed = index.manifests.filter(({ platform }) => platform.os !== 'unknown')
    expect(Object.fromEntries(listed.map((one) => [one.platform.architecture, one.digest]))).toEqual(images)
    expect(listed).toHaveLength(2)
    for (const entry of listed) await validateImage(name, entry)

    const others = index.manifests.filter((entry) => !listed.includes(entry))
    expect(others.map(({ digest: own, annotations }) => [own, annotations])).toEqual(
      Object.entries(attestations)
        .map(([own, subject]) => [
          own,
          { 'vnd.docker.reference.type': 'attestation-manifest', 'vnd.docker.reference.digest': subject },
        ])
        .sort(),
    )
    for (const entry of others) {
      expect(entry.platform).toEqual(UNKNOWN)
      expect(Object.values(images)).toContain(entry.annotations?.['vnd.docker.reference.digest'])
      await validateAttestation(name, entry)
    }
  })

  test('is read and copied completely by skopeo', async () => {
    const { stdout } = await run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${tagged}`])
    expect(digestOf(Buffer.from(stdout))).toBe(published.digest)
    const folder = await mkdtemp(join(lab.folder, 'layout-'))
    await run('skopeo', ['copy', '--all', '--src-tls-verify=false', `docker://${tagged}`, `oci:${folder}:copy`])
    const layout: Index = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8'))
    expect(layout.manifests.map(({ digest }) => digest)).toEqual([published.digest])
    const copied = [...Object.values(published.images), ...Object.keys(published.attestations)]
    for (const digest of copied) {
      expect(digestOf(await readFile(join(folder, 'blobs', ...digest.split(':'))))).toBe(digest)
    }
  })

  test.each(ARCHITECTURES)('gives Docker the image of linux/%s', async (architecture) => {
    const { name, digest, images } = published
    const { stdout } = await run('docker', ['pull', '--platform', `linux/${architecture}`, tagged])
    expect(stdout).toContain(`Digest: ${digest}`)
    const format = '{{.Os}}/{{.Architecture}} {{json .RootFS.Layers}}'
    const inspected = await run('docker', ['image', 'inspect', '--format', format, tagged])
    const [platform, layers = ''] = inspected.stdout.trim().split(' ')
    const { diffIds } = await readImage(name, images[architecture] ?? '')
    expect({ platform, layers: JSON.parse(layers) }).toEqual({ platform: `linux/${architecture}`, layers: diffIds })
  })

  test("is listed by Docker's tools, attestations included", async () => {
    const buildx = await findBuildx()
    const { images, attestations, kind } = published
    const manifests = await (buildx === undefined ? listByDocker(tagged) : listByBuildx(buildx, tagged))
    expect(Object.fromEntries(manifests.map(({ digest, platform }) => [digest, platform]))).toEqual({
      ...Object.fromEntries(
        Object.entries(images).map(([architecture, digest]) => [digest, { os: 'linux', architecture }]),
      ),
      ...Object.fromEntries(Object.keys(attestations).map((digest) => [digest, UNKNOWN])),
    })
    if (buildx === undefined) return
    const [program, ...args] = buildx
    const inspect = [...args, 'imagetools', 'inspect', tagged, '--format']
    // Each can be found only through the image that is its subject.
    const { stdout } = await run(program, [...inspect, `{{json .${kind}}}`])
    expect(Object.keys(JSON.parse(stdout) ?? {}).sort()).toEqual(['linux/amd64', 'linux/arm64'])
  })
})

async function publishNix(): Promise<LayerCache> {
  const name = `${lab.registry.host}/owner/nix`
  const digests: Record<string, string> = {}
  const attestations: Record<string, string> = {}
  for (const [at, system] of SYSTEMS.entries()) {
    const { outputs } = passed(await lab.build(system, { inputs: { image: name, attribute: 'layeredImage' } }))
    digests[ARCHITECTURES[at] ?? ''] = outputs.digest ?? ''
    attestations[JSON.parse(outputs.record ?? '').sbom] = outputs.digest ?? ''
  }
  const { outputs } = passed(await lab.merge({ inputs: { image: name, tags: 'v1' } }))
  return { name, digest: outputs.digest ?? '', images: digests, attestations, kind: 'SBOM' }
}

async function publishBuildKit(attestedBy: 'image' | 'artifact'): Promise<LayerCache> {
  const name = `${lab.registry.host}/owner/buildkit-${attestedBy}`
  const built: (AttestedImage & { readonly architecture: string })[] = []
  for (const architecture of ARCHITECTURES) {
    // The daemon may be the machine's own. This label allows removing the images afterwards.
    const config = { config: { Labels: { 'org.opencontainers.image.title': 'nix-image-action-example' } } }
    const layers = ['lower', `upper of ${architecture}`]
    built.push({ architecture, ...(await uploadAttestedImage(name, { architecture, layers, config, attestedBy })) })
  }
  const digests = built.map(({ digest }) => digest).join('\n')
  const { outputs } = passed(await lab.merge({ inputs: { image: name, tags: 'v1', digests } }))
  return {
    name,
    digest: outputs.digest ?? '',
    images: Object.fromEntries(built.map(({ architecture, image }) => [architecture, image.digest])),
    attestations: Object.fromEntries(built.map(({ image, attestation }) => [attestation.digest, image.digest])),
    kind: 'Provenance',
  }
}

// Docker's tools

async function listByBuildx([program, ...args]: readonly [string, ...string[]], name: string): Promise<Listed> {
  const { stdout } = await run(program, [...args, 'imagetools', 'inspect', '--format', '{{json .Manifest}}', name])
  return JSON.parse(stdout).manifests
}

/** Docker's older command, for systems without buildx such as Debian 12. */
async function listByDocker(name: string): Promise<Listed> {
  const { stdout } = await run('docker', ['manifest', 'inspect', '--insecure', name])
  return JSON.parse(stdout).manifests
}

type Listed = readonly Entry[]

// The registry's content, read according to the specification

interface Content {
  readonly digest: string
  /** In bytes. */
  readonly size?: number
}

interface Layer extends Content {
  readonly mediaType: string
}

interface Entry extends Layer {
  readonly platform: Platform
  readonly annotations?: Readonly<Record<string, string>>
}

interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

interface Index {
  readonly manifests: readonly Entry[]
}

interface Manifest {
  readonly mediaType: string
  readonly artifactType?: string
  readonly subject?: Content
  readonly config: Layer
  readonly layers: readonly Layer[]
}

interface Config extends Platform {
  /** Attestations may have none. */
  readonly rootfs?: { readonly diff_ids: readonly string[] }
}

/** A descriptor's digest and size must both match its target. */
async function fetchContent(name: string, kind: 'manifests' | 'blobs', { digest, size }: Content): Promise<Buffer> {
  const accept = 'application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json'
  const response = await fetch(`http://${name.replace('/', '/v2/')}/${kind}/${digest}`, { headers: { accept } })
  const bytes = Buffer.from(await response.arrayBuffer())
  expect({ digest, status: response.status }).toEqual({ digest, status: 200 })
  expect({ digest: digestOf(bytes), size: bytes.length }).toEqual({ digest, size: size ?? bytes.length })
  return bytes
}

/** Checks like `crane validate`, and also attestations and the platform. */
async function validateImage(name: string, entry: Entry): Promise<void> {
  const { manifest, config, diffIds } = await readImage(name, entry.digest, entry.size)
  expect(manifest.mediaType).toBe(entry.mediaType)
  const { os, architecture, variant } = config
  expect(entry.platform).toEqual({ os, architecture, ...(variant !== undefined && { variant }) })
  const unpacked: string[] = []
  for (const layer of manifest.layers) {
    expect(layer.mediaType).toBe('application/vnd.oci.image.layer.v1.tar+gzip')
    unpacked.push(digestOf(gunzipSync(await fetchContent(name, 'blobs', layer))))
  }
  expect(unpacked).toEqual(diffIds)
  expect(unpacked).toHaveLength(2)
}

async function validateAttestation(name: string, entry: Entry): Promise<void> {
  const { manifest, config } = await readImage(name, entry.digest, entry.size)
  expect(manifest.mediaType).toBe(entry.mediaType)
  const subject = entry.annotations?.['vnd.docker.reference.digest']
  const layers = manifest.layers.map(({ digest }) => digest)
  if (manifest.subject === undefined) {
    // Attestation statements are not compressed: their diff IDs are their digests.
    expect(config).toMatchObject({ ...UNKNOWN, rootfs: { diff_ids: layers } })
  } else {
    expect(manifest.artifactType).toBe('application/vnd.docker.attestation.manifest.v1+json')
    expect(manifest.subject.digest).toBe(subject)
    expect(config).toEqual({})
  }
  expect(layers).toHaveLength(1)
  for (const layer of manifest.layers) {
    expect(layer.mediaType).toBe('application/vnd.in-toto+json')
    const statement = JSON.parse((await fetchContent(name, 'blobs', layer)).toString())
    const digest = { sha256: subject?.replace('sha256:', '') }
    expect(statement.subject).toEqual([expect.objectContaining({ digest })])
  }
}

interface Read {
  readonly manifest: Manifest
  readonly config: Config
  readonly diffIds: readonly string[]
}

async function readImage(name: string, digest: string, size?: number): Promise<Read> {
  const listed = { digest, ...(size !== undefined && { size }) }
  const manifest: Manifest = JSON.parse((await fetchContent(name, 'manifests', listed)).toString())
  const config: Config = JSON.parse((await fetchContent(name, 'blobs', manifest.config)).toString())
  return { manifest, config, diffIds: config.rootfs?.diff_ids ?? [] }
}
