import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { digestOf } from './digest.ts'
import { type ArchiveOptions, makeArchive, type TarMember, writeTar } from './image.ts'

// OCI layouts as other tools write them: https://github.com/opencontainers/image-spec/blob/main/image-layout.md

export type Packing = 'gzip' | 'zstd' | 'plain'

export interface LayoutOptions extends Pick<ArchiveOptions, 'architecture' | 'config' | 'layers'> {
  /** The compression of each layer, lowest first. The default is gzip. */
  readonly packings?: readonly Packing[]
  /** The number of indexes between index.json and the image. */
  readonly nested?: number
  /** Whether the image has an attestation, as BuildKit writes it. */
  readonly attested?: boolean
  /** Changes fields of the manifest. */
  readonly manifest?: Readonly<Record<string, unknown>>
  /** Changes the image's entry in index.json. */
  readonly entry?: Readonly<Record<string, unknown>>
}

export interface LayoutLayer {
  /** The path in the layout. */
  readonly name: string
  /** The digest of the blob. */
  readonly digest: string
  readonly blob: Buffer
  readonly diffId: string
  /** The tar in the blob. */
  readonly tar: Buffer
}

/** A file's bytes, or the target of a symbolic link. */
export type LayoutFile = Buffer | { readonly linkName: string }

/** An OCI layout and its content. */
export interface MadeLayout {
  /** Files by name. Change them to create a broken layout. */
  readonly files: ReadonlyMap<string, LayoutFile>
  readonly layers: readonly LayoutLayer[]
  readonly config: Buffer
  readonly configDigest: string
  readonly manifest: Buffer
  readonly manifestDigest: string
  /** The image's descriptor in index.json or the index that it refers to. */
  readonly entry: Readonly<Record<string, unknown>>
}

const OCI = 'application/vnd.oci.image'
const TYPES: Readonly<Record<Packing, string>> = {
  gzip: `${OCI}.layer.v1.tar+gzip`,
  zstd: `${OCI}.layer.v1.tar+zstd`,
  plain: `${OCI}.layer.v1.tar`,
}

/** Creates an OCI layout in memory. Its JSON is indented, unlike this action's. */
export function makeLayout(options: LayoutOptions = {}): MadeLayout {
  const { packings = [], architecture = 'amd64' } = options
  const archive = makeArchive(options)
  const files = new Map<string, LayoutFile>([['oci-layout', json({ imageLayoutVersion: '1.0.0' })]])
  const add = (mediaType: string, bytes: Buffer) => {
    const digest = digestOf(bytes)
    files.set(blobName(digest), bytes)
    return { mediaType, digest, size: bytes.length }
  }
  const packed = archive.layers.map(({ bytes, diffId }, at) => {
    const packing = packings[at] ?? 'gzip'
    const listed = add(TYPES[packing], pack(bytes, packing))
    return { listed, layer: { ...nameAndBlob(listed.digest, files), diffId, tar: bytes } }
  })
  const config = add(`${OCI}.config.v1+json`, archive.config)
  const manifest = json({
    schemaVersion: 2,
    mediaType: `${OCI}.manifest.v1+json`,
    config,
    layers: packed.map(({ listed }) => ({ ...listed, annotations: { 'org.example.made': 'elsewhere' } })),
    annotations: { 'org.opencontainers.image.title': 'made elsewhere' },
    ...options.manifest,
  })
  const platform = { os: 'linux', architecture }
  const entry = { ...add(`${OCI}.manifest.v1+json`, manifest), platform, ...options.entry }
  const attestation = () => ({
    ...add(`${OCI}.manifest.v1+json`, json({ schemaVersion: 2, config, layers: [] })),
    platform: { os: 'unknown', architecture: 'unknown' },
  })
  let index = indexOf([entry, ...(options.attested ? [attestation()] : [])])
  for (let depth = 0; depth < (options.nested ?? 0); depth++) index = indexOf([add(`${OCI}.index.v1+json`, index)])
  files.set('index.json', index)
  return {
    files,
    layers: packed.map(({ layer }) => layer),
    config: archive.config,
    configDigest: config.digest,
    manifest,
    manifestDigest: digestOf(manifest),
    entry,
  }
}

/** The manifest that is published from a layout: the original one on one line, with these annotations appended. */
export function annotatedManifest(
  { manifest }: Pick<MadeLayout, 'manifest'>,
  added: Readonly<Record<string, string>>,
): Buffer {
  const own = JSON.parse(manifest.toString())
  return Buffer.from(JSON.stringify({ ...own, annotations: { ...own.annotations, ...added } }))
}

/** An index.json of these images. */
export function indexOf(manifests: readonly unknown[]): Buffer {
  return json({ schemaVersion: 2, mediaType: `${OCI}.index.v1+json`, manifests })
}

/** A file in a layout. */
export function blobName(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`
}

/**
 * A layout with an additional entry that is not an image, as `cosign` and `oras` add them.
 * @param content the content of its only blob
 */
export function withArtifact(
  layout: MadeLayout,
  content: string,
  changes: {
    readonly entry?: Readonly<Record<string, unknown>>
    readonly config?: Readonly<Record<string, unknown>>
    readonly layer?: Readonly<Record<string, unknown>>
  },
): ReadonlyMap<string, LayoutFile> {
  const blob = Buffer.from(content)
  const describe = (bytes: Buffer) => ({ digest: digestOf(bytes), size: bytes.length })
  const manifest = json({
    schemaVersion: 2,
    mediaType: `${OCI}.manifest.v1+json`,
    config: { mediaType: `${OCI}.config.v1+json`, ...describe(layout.config), ...changes.config },
    layers: [{ mediaType: TYPES.plain, ...describe(blob), ...changes.layer }],
    subject: layout.entry,
  })
  const entry = { mediaType: `${OCI}.manifest.v1+json`, ...describe(manifest), ...changes.entry }
  return withFiles(layout, {
    [blobName(digestOf(blob))]: blob,
    [blobName(entry.digest)]: manifest,
    'index.json': indexOf([entry, layout.entry]),
  })
}

/**
 * A layout of several images, with one index for all of them.
 * @param entryOf changes the descriptor of an image, for example to omit its platform
 */
export function layoutOf(
  layouts: readonly MadeLayout[],
  entryOf: (layout: MadeLayout) => Readonly<Record<string, unknown>> = ({ entry }) => entry,
): ReadonlyMap<string, LayoutFile> {
  const index = indexOf(layouts.map(entryOf))
  const entry = { mediaType: `${OCI}.index.v1+json`, digest: digestOf(index), size: index.length }
  const files = layouts.flatMap((layout) => [...layout.files])
  return new Map([...files, [blobName(entry.digest), index], ['index.json', indexOf([entry])]])
}

/** A layout with some files replaced, or removed if the value is undefined. */
export function withFiles(
  { files }: Pick<MadeLayout, 'files'>,
  others: Readonly<Record<string, LayoutFile | undefined>>,
): ReadonlyMap<string, LayoutFile> {
  const all = { ...Object.fromEntries(files), ...others }
  return new Map(Object.entries(all).flatMap(([name, file]) => (file === undefined ? [] : [[name, file] as const])))
}

export const LAYOUT_FORMS = ['folder', 'tar', 'gzip', 'zstd', 'xz', 'script'] as const
export type LayoutForm = (typeof LAYOUT_FORMS)[number]

/**
 * Writes a layout in one of the forms in which Nix may have built it.
 * @param parent the folder to write to, whose name does not reveal the form
 * @returns its path
 */
export async function storeLayout(
  parent: string,
  files: ReadonlyMap<string, LayoutFile>,
  form: LayoutForm,
): Promise<string> {
  const folder = await mkdtemp(join(parent, 'built-'))
  const path = join(folder, 'result')
  if (form === 'folder') return writeFolder(path, files)
  const tar = layoutTar(files)
  await writeFile(path, await packTar(tar, form))
  if (form !== 'script') return path
  const script = join(folder, 'script')
  await writeFile(script, `#!/bin/sh\nexec cat '${path}'\n`, { mode: 0o555 })
  return script
}

/** A tar of a layout, with its files in order. */
export function layoutTar(files: ReadonlyMap<string, LayoutFile>): Buffer {
  const members = [...files].map(([name, file]): TarMember => {
    if (Buffer.isBuffer(file)) return { name, content: file }
    return { name, type: 'symbolic-link', linkName: file.linkName }
  })
  return writeTar([
    { name: 'blobs/', type: 'folder' },
    { name: 'blobs/sha256/', type: 'folder' },
    ...members.map((member) => ({ ...member, name: `./${member.name}` })),
  ])
}

export async function packWithXz(bytes: Buffer): Promise<Buffer> {
  const packed = execFile('xz', ['--stdout', '-1'], { encoding: 'buffer', maxBuffer: 64 * 1024 * 1024 })
  packed.stdin?.end(bytes)
  return buffer(packed.stdout as NodeJS.ReadableStream)
}

async function writeFolder(path: string, files: ReadonlyMap<string, LayoutFile>): Promise<string> {
  await mkdir(join(path, 'blobs/sha256'), { recursive: true })
  for (const [name, file] of files) {
    await mkdir(dirname(join(path, name)), { recursive: true })
    if (Buffer.isBuffer(file)) await writeFile(join(path, name), file)
    else await symlink(file.linkName, join(path, name))
  }
  return path
}

async function packTar(tar: Buffer, form: Exclude<LayoutForm, 'folder'>): Promise<Buffer> {
  if (form === 'xz') return packWithXz(tar)
  return form === 'gzip' || form === 'zstd' ? pack(tar, form) : tar
}

function pack(bytes: Buffer, packing: Packing): Buffer {
  if (packing === 'plain') return bytes
  return packing === 'gzip' ? gzipSync(bytes, { level: 1 }) : zstdCompressSync(bytes)
}

function nameAndBlob(
  digest: string,
  files: ReadonlyMap<string, LayoutFile>,
): Pick<LayoutLayer, 'name' | 'digest' | 'blob'> {
  const name = blobName(digest)
  const blob = files.get(name)
  if (!Buffer.isBuffer(blob)) throw new Error(`there is no ${name}`)
  return { name, digest, blob }
}

function json(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value, null, 3)}\n`)
}
