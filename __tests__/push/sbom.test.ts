import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import type { ImageSource } from '../../src/image/source.ts'
import { type Digest, digestOf } from '../../src/oci/reference.ts'
import { keepSbom, type PublishedSbom, type SbomSettings, startSbom } from '../../src/push/sbom.ts'
import { fetchImage, type PublishedImage, withAttestations } from '../../src/registry/image.ts'
import { attestationAnnotations } from '../../src/sbom/attestation.ts'
import { afterwards, type Client, connect } from '../registry/connect.ts'
import { auditableSection, elfFile } from '../sbom/elf-file.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { makeLayout } from '../support/layout.ts'
import type { TestRegistry } from '../support/registry.ts'
import {
  FORMS,
  folder,
  logOf,
  manifestPuts,
  OPTIONS,
  PLATFORM,
  type Pushed,
  publishedAt,
  push,
  pushLayout,
  setUpFolder,
  uploads,
} from './pushing.ts'

setUpFolder()

const APP = `nix/store/${'a'.repeat(32)}-app-1.0`
const GLIBC = `nix/store/${'b'.repeat(32)}-glibc-2.40`
/** A store path that does not fit into the header of a tar. */
const LONG = `nix/store/${'c'.repeat(32)}-${'long-name-'.repeat(12)}1.0`

function layerOf(...paths: readonly string[]): Buffer {
  return writeTar(paths.map((path) => ({ name: `${path}/bin/app`, content: path, header: 'pax' as const })))
}

/** As buildImage makes them: the history names no store paths, and layers are not named by their content. */
const config = { history: [] }
const made = makeArchive({ layers: [layerOf(APP, LONG), layerOf(GLIBC, APP)], config })

async function attach(client: Client, { contents, images }: Pushed): Promise<PublishedSbom | undefined> {
  const pending = startSbom(SOURCE, settings(), client, logOf(client))
  return pending.attach(contents, images)
}

function settings(published: SbomSettings['published'] = []): SbomSettings {
  return { platform: PLATFORM, published, tempFolder: folder }
}

const SOURCE: ImageSource = { path: '', root: '', format: 'tar' }

/** Reads the SBOM in the registry, and checks that all digests and sizes fit. */
async function sbomAt(server: TestRegistry, sbom: Digest | undefined, path = 'app') {
  const stored = server.manifest(path, sbom ?? '')
  if (stored === undefined) throw new Error('the registry has no SBOM')
  const { subject, layers, config } = JSON.parse(stored.bytes.toString())
  const [{ digest, size }] = layers
  const bytes = await server.blob(path, digest)
  expect(bytes?.length).toBe(size)
  expect((await server.blob(path, config.digest))?.toString()).toBe('{}')
  const { predicate } = JSON.parse(String(bytes))
  return { subject, document: predicate, names: storePathsIn(predicate) }
}

interface Document {
  readonly packages: readonly { readonly SPDXID: string; readonly packageFileName?: string }[]
}

/** The IDs of packages contain the hashes and names of their store paths. */
function storePathsIn({ packages }: Document): readonly string[] {
  return packages.flatMap(({ SPDXID }) => {
    const [, name] = /^SPDXRef-([a-z0-9]{32}-.*)$/.exec(SPDXID) ?? []
    return name === undefined ? [] : [`nix/store/${name}`]
  })
}

describe('the SBOM of an image', () => {
  test('lists the store paths in its layers, and is attached by digest only', async () => {
    const { server, client } = await connect()
    const pushed = await push(made, client)
    expect(pushed.contents).toEqual({
      created: '1970-01-01T00:00:01Z',
      layers: [
        { diffId: pushed.layers[0]?.diffId, storePaths: [`/${APP}`, `/${LONG}`], read: true },
        { diffId: pushed.layers[1]?.diffId, storePaths: [`/${APP}`, `/${GLIBC}`], read: true },
      ],
    })
    const sbom = await attach(client, pushed)
    const { subject, names, document } = await sbomAt(server, sbom?.digest)
    const { digest, mediaType, size } = pushed.manifest
    expect(subject).toEqual({ digest, mediaType, size })
    expect([...names].sort()).toEqual([APP, GLIBC, LONG].sort())
    expect(JSON.parse(await readFile(sbom?.path ?? '', 'utf8'))).toEqual(document)
    expect(sbom?.path).toBe(join(folder, `sbom-${digest.slice(7, 19)}.spdx.json`))
    expect([...server.tags('app').keys()]).toEqual(['v1'])
  })

  test.each(['tar', 'gzip', 'script'] as const)('is the same when its layers are published: %s', async (form) => {
    const { client } = await connect()
    const named = makeArchive({
      layers: [layerOf(APP), layerOf(GLIBC)],
      config,
      layerName: (diffId) => `${diffId.slice(7)}/layer.tar`,
    })
    const first = await push(named, client, { tag: 'latest', form })
    const published = await publishedAt(client)
    const second = await push(named, client, { form, published })
    expect(second.layers.map(({ reused }) => reused)).toEqual([true, true])
    // A tar is not read for the names, if no layer of it is uploaded.
    if (form !== 'tar') expect(second.contents).toEqual(first.contents)
    else
      expect(second.contents.layers.map(({ storePaths, read }) => ({ storePaths, read }))).toEqual(
        first.layers.map(() => ({ storePaths: undefined, read: false })),
      )
    const sbom = await attach(client, second)
    expect(sbom?.digest).toBe(form === 'tar' ? undefined : (await attach(client, first))?.digest)
  })

  test('is in every repository, with the name of the first', async () => {
    const { server, client } = await connect()
    const images = ['app', 'other'].map((path) => ({ ...client.repository, path }))
    const sbom = await attach(client, await push(made, client, { images }))
    const [one, other] = [await sbomAt(server, sbom?.digest), await sbomAt(server, sbom?.digest, 'other')]
    expect(other).toEqual(one)
    expect(one.document.name).toContain(`${server.host}/app`)
  })

  test.each([
    ['contains no store paths', makeArchive({ ...OPTIONS, config }), 'No SBOM: the image contains no store paths'],
    ['has only a layer for the root folder', rootLayerOnly(), 'No SBOM: the image contains no store paths'],
  ])('is missing if the image %s', async (_, archive, line) => {
    const { server, client } = await connect()
    const pushed = await push(archive, client)
    const before = server.requests.length
    expect(await attach(client, pushed)).toBeUndefined()
    expect(client.lines.filter((one) => one.includes('SBOM'))).toEqual([line])
    expect(server.requests.length).toBe(before)
  })

  test('is missing if a layer without names was reused, and the log says what to do', async () => {
    const { client } = await connect()
    const pushed = await push(made, client)
    const unnamed = pushed.contents.layers.map((layer) => ({ ...layer, storePaths: undefined, read: false }))
    expect(await attach(client, { ...pushed, contents: { ...pushed.contents, layers: unnamed } })).toBeUndefined()
    expect(client.lines.at(-1)).toBe(
      'No SBOM: the store paths of layers that were reused are unknown. Set `reuse-from: ""` once to read them',
    )
  })

  test('has the hashes of store paths in a store below another root', async () => {
    const root = join(folder, 'root')
    await mkdir(join(root, APP), { recursive: true })
    const narHash = `sha256-${'A'.repeat(43)}=`
    const facts = JSON.stringify([{ path: `/${APP}`, narHash, references: [] }])
    await nixIs(`case "$*" in *"--store ${root} /${APP}") echo '${facts}';; *) exit 1;; esac`)
    const { server, client } = await connect()
    const { contents, images } = await push(made, client)
    const setup = { store: { name: '/nix/store', place: join(root, 'nix/store') }, storeOptions: ['--store', root] }
    const sbom = await startSbom(SOURCE, { ...settings(), setup }, client, logOf(client)).attach(contents, images)
    const { document } = await sbomAt(server, sbom?.digest)
    expect(JSON.stringify(document)).toContain(`/${APP}\\nnarHash: ${narHash}`)
  })

  test('that a registry refuses fails the step', async () => {
    const { server, client } = await connect()
    const pushed = await push(made, client)
    server.setFault(({ method, route }) =>
      method === 'PUT' && route === 'manifest' ? { kind: 'status', status: 403 } : undefined,
    )
    await expect(attach(client, pushed)).rejects.toThrow(/^Can't write .* status 403/)
  })

  test('that can not be written fails the step with the path', async () => {
    const { client } = await connect()
    const pushed = await push(made, client)
    const missing = join(folder, 'missing')
    const pending = startSbom(SOURCE, { ...settings(), tempFolder: missing }, client, logOf(client))
    await expect(pending.attach(pushed.contents, pushed.images)).rejects.toThrow(`${missing}/sbom-`)
  })
})

describe('the programs in layers that are read', () => {
  const program = elfFile([])
  const archive = makeArchive({
    layers: [APP, GLIBC].map((path) => writeTar([{ name: `${path}/bin/app`, content: program }])),
    config,
    layerName: (diffId) => `${diffId.slice(7)}/layer.tar`,
  })
  const PROGRAMS = [`/${APP}/bin/app`, `/${GLIBC}/bin/app`]

  test('have the same modules in the SBOM as programs of layers that are not read', async () => {
    const { server, client } = await connect()
    const crates = auditableSection([{ name: 'itoa', version: '1.0.9', source: 'local' }])
    const place = join(folder, 'store')
    for (const path of [APP, GLIBC]) {
      const file = join(place, path.slice('nix/store/'.length), 'bin/app')
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, elfFile([{ name: '.dep-v0', content: crates }]), { mode: 0o555 })
    }
    const setup = { store: { name: '/nix/store', place }, storeOptions: [] }
    const start = () => startSbom(SOURCE, { ...settings(), setup }, client, logOf(client))
    const seen = start()
    const pushed = await push(archive, client, { onProgram: seen.onProgram })
    const sbom = await seen.attach(pushed.contents, pushed.images)
    const { packages } = (await sbomAt(server, sbom?.digest)).document
    expect(packages.map(({ SPDXID }: { readonly SPDXID: string }) => SPDXID)).toContain('SPDXRef-cargo-itoa-1.0.9')
    const layers = pushed.contents.layers.map((layer) => ({ ...layer, read: false }))
    const unread = await start().attach({ ...pushed.contents, layers }, pushed.images)
    expect(unread?.digest).toBe(sbom?.digest)
  })

  async function programsOf(pushing: (onProgram: (path: string) => void) => Promise<unknown>) {
    const programs: string[] = []
    await pushing((path) => void programs.push(path))
    return programs.toSorted()
  }

  test.each(FORMS)('are reported when the layers are uploaded: %s', async (form) => {
    const { client } = await connect()
    expect(await programsOf((onProgram) => push(archive, client, { form, onProgram }))).toEqual(PROGRAMS)
  })

  test('are reported when a stream is read for layers that are published', async () => {
    const { client } = await connect()
    await push(archive, client, { tag: 'latest' })
    const published = await publishedAt(client)
    const again = (onProgram: (path: string) => void) => push(archive, client, { form: 'gzip', published, onProgram })
    expect(await programsOf(again)).toEqual(PROGRAMS)
  })

  test('are reported when compressed layers are only compared with those in the registry', async () => {
    const { client } = await connect()
    const layout = makeLayout({ layers: archive.layers.map(({ bytes }) => bytes), packings: ['gzip', 'zstd'] })
    await pushLayout(layout, client)
    expect(await programsOf((onProgram) => pushLayout(layout, client, { onProgram }))).toEqual(PROGRAMS)
  })
})

/** Puts a shell script first on the PATH as Nix. */
async function nixIs(script: string): Promise<void> {
  const { PATH } = process.env
  afterwards(async () => {
    process.env.PATH = PATH
  })
  await writeFile(join(folder, 'nix'), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${PATH}`
}

function rootLayerOnly() {
  const comment = `store paths: ['/nix/store/${'d'.repeat(32)}-app-customisation-layer']`
  return makeArchive({ layers: [writeTar([{ name: 'etc/hostname' }])], config: { history: [{ comment }] } })
}

describe('the SBOM of a published image', () => {
  async function publish() {
    const { server, client } = await connect()
    const pushed = await push(made, client)
    const sbom = await attach(client, pushed)
    if (sbom === undefined) throw new Error('the image has no SBOM')
    return { server, client, sbom, image: await listed(client, pushed.manifest.digest, sbom.digest) }
  }

  async function listed(client: Client, digest: Digest, sbom: Digest): Promise<PublishedImage> {
    const stored = await client.getManifest(client.repository, sbom)
    const entry = {
      mediaType: stored?.mediaType ?? '',
      digest: sbom,
      size: stored?.bytes.length ?? 0,
      platform: { os: 'unknown', architecture: 'unknown' },
      annotations: attestationAnnotations(digest),
    }
    return withAttestations(client, await fetchImage(client, client.repository, digest), [entry])
  }

  test('is kept for the same image, and nothing is written', async () => {
    const { server, client, sbom, image } = await publish()
    const before = server.requests.length
    const text = await readFile(sbom.path, 'utf8')
    expect(await keepSbom(client, image, image, [client.repository], folder)).toEqual(sbom)
    expect(await readFile(sbom.path, 'utf8')).toBe(text)
    expect(server.requests.slice(before).filter(({ method }) => method !== 'GET')).toEqual([])
  })

  test('is renamed for the same image with other labels', async () => {
    const { server, client, image } = await publish()
    const relabelled = await push(made, client, { labels: { revision: 'two' }, tag: 'v2' })
    const { manifest } = relabelled
    expect(manifest.digest).not.toBe(image.digest)
    const kept = await keepSbom(client, image, manifest, [client.repository], folder)
    expect(kept?.digest).toBe((await attach(client, relabelled))?.digest)
    const { subject, names } = await sbomAt(server, kept?.digest)
    expect(subject.digest).toBe(manifest.digest)
    expect(names).toHaveLength(3)
    const text = await readFile(kept?.path ?? '', 'utf8')
    expect(text).toContain(manifest.digest.slice(7))
    expect(text).not.toContain(image.digest.slice(7))
  })

  test('is not taken from attestations of other tools', async () => {
    const { server, client, image } = await publish()
    const before = server.requests.length
    const others = { ...image, digest: digestOf(Buffer.from('another image')) }
    expect(await keepSbom(client, others, image, [client.repository], folder)).toBeUndefined()
    expect(await keepSbom(client, { ...image, attestations: [] }, image, [client.repository], folder)).toBeUndefined()
    expect([...manifestPuts(server.requests.slice(before)), ...uploads(server.requests.slice(before))]).toEqual([])
  })
})
