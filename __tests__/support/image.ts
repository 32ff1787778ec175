import { createHash } from 'node:crypto'
import type { OpenImage } from '../../src/image/source-image.ts'

/** A member of a tar to write. */
export interface TarMember {
  readonly name: string
  /** Absent for an empty file. */
  readonly content?: Buffer | string
  readonly type?: 'file' | 'hard-link' | 'symbolic-link' | 'folder' | 'character-device'
  /** The target of a link. */
  readonly linkName?: string
  /**
   * Where the name and the size are stored: only in the header (`ustar`, names of at most 255 bytes), in a preceding
   * pax header, or in GNU's headers for long names. The header then has a truncated name and, with pax, no size.
   */
  readonly header?: 'ustar' | 'pax' | 'gnu'
  /** Writes the size like GNU tar writes sizes that do not fit into octal digits. */
  readonly base256?: boolean
  /** Pax records in addition to those of `header: 'pax'`, or instead of them. May contradict the header. */
  readonly pax?: Readonly<Record<string, string>>
  /** Changes the header before its checksum is computed. */
  readonly alter?: (header: Buffer) => void
}

/**
 * Writes a tar.
 * @param zeros the number of zero blocks at its end: the standard requires two, GNU tar pads to twenty blocks in total
 */
export function writeTar(members: readonly TarMember[], zeros = 2): Buffer {
  return Buffer.concat([...members.map(writeMember), Buffer.alloc(zeros * BLOCK)])
}

/** The offsets where the content of each member begins and ends, at which tests truncate archives. */
export function memberBounds(
  members: readonly TarMember[],
): readonly { readonly start: number; readonly end: number }[] {
  let start = 0
  return members.map((member) => {
    const bounds = { start, end: start + writeMember(member).length }
    start = bounds.end
    return bounds
  })
}

export interface ArchiveOptions {
  readonly architecture?: string
  readonly os?: string
  readonly variant?: string
  /** Each layer as a tar, or as the text of its only file. Equal layers have the same diff ID. */
  readonly layers?: readonly (Buffer | string)[]
  readonly repoTags?: readonly string[] | null
  /** Whether manifest.json is the first member rather than the last. */
  readonly manifestFirst?: boolean
  /** Writes a layer that equals an earlier one as a link to it. */
  readonly links?: 'hard-link' | 'symbolic-link'
  /** The prefix of the members' names, which manifest.json omits: `./`. */
  readonly prefix?: string
  /** The layer's name. By default it differs from its diff ID, as with buildImage. */
  readonly layerName?: (diffId: string, index: number) => string
  /** The format of all headers. */
  readonly header?: TarMember['header']
  readonly base256?: boolean
  /** Changes fields of the config. */
  readonly config?: Readonly<Record<string, unknown>>
  /** Changes fields of the entry in manifest.json. */
  readonly manifest?: Readonly<Record<string, unknown>>
}

export interface MadeLayer {
  /** The name in manifest.json. */
  readonly name: string
  /** The member that contains its bytes, which is a different one if `name` is a link. */
  readonly file: string
  readonly bytes: Buffer
  readonly diffId: string
}

/** A Docker archive and its content. */
export interface MadeArchive {
  readonly bytes: Buffer
  /** In order. To create a broken archive, change them and pass them to `writeTar`. */
  readonly members: readonly TarMember[]
  readonly layers: readonly MadeLayer[]
  readonly config: Buffer
  readonly configName: string
  readonly configDigest: string
  /** The entry of manifest.json. */
  readonly manifest: Readonly<Record<string, unknown>>
}

/** Creates a Docker archive in memory, as Nix's dockerTools write it. */
export function makeArchive(options: ArchiveOptions = {}): MadeArchive {
  const { prefix = '', header, base256 } = options
  const layers = makeLayers(options)
  const config = makeConfig(options, layers)
  const configName = `${sha256(config)}.json`
  const manifest = {
    Config: configName,
    RepoTags: options.repoTags === undefined ? ['app:nix'] : options.repoTags,
    Layers: layers.map(({ name }) => name),
    ...options.manifest,
  }
  const listed = { name: 'manifest.json', content: JSON.stringify([manifest]) }
  const parts = [...layerMembers(layers, options), { name: configName, content: config }]
  const all: readonly TarMember[] = options.manifestFirst ? [listed, ...parts] : [...parts, listed]
  const members = all.map((member) => ({
    ...member,
    name: prefix + member.name,
    ...(header !== undefined && { header }),
    ...(base256 !== undefined && { base256 }),
  }))
  return {
    bytes: writeTar(members),
    members,
    layers,
    config,
    configName,
    configDigest: `sha256:${sha256(config)}`,
    manifest,
  }
}

function makeLayers(options: ArchiveOptions): readonly MadeLayer[] {
  const { layers = ['lower', 'upper'], layerName = opaqueName, links } = options
  const made = layers.map((content, index) => {
    const bytes = typeof content === 'string' ? writeTar([{ name: 'etc/motd', content }]) : content
    const diffId = `sha256:${sha256(bytes)}`
    return { name: layerName(diffId, index), bytes, diffId }
  })
  return made.map((layer) => {
    const first = made.find(({ diffId }) => diffId === layer.diffId) ?? layer
    return { ...layer, file: links === undefined ? layer.name : first.name }
  })
}

function opaqueName(diffId: string, index: number): string {
  return `${sha256(Buffer.from(`${index} ${diffId}`))}/layer.tar`
}

function makeConfig(options: ArchiveOptions, layers: readonly MadeLayer[]): Buffer {
  const { architecture = 'amd64', os = 'linux', variant } = options
  const config = {
    created: '1970-01-01T00:00:01Z',
    architecture,
    os,
    ...(variant !== undefined && { variant }),
    config: { Cmd: ['/bin/app'] },
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(() => ({ created: '1970-01-01T00:00:01Z', comment: 'store paths: []' })),
    ...options.config,
  }
  return Buffer.from(JSON.stringify(config))
}

function layerMembers(layers: readonly MadeLayer[], { links = 'hard-link' }: ArchiveOptions): readonly TarMember[] {
  return layers.map(({ name, file, bytes }) => {
    if (file === name) return { name, content: bytes }
    // A symbolic link is relative to its folder.
    const up = '../'.repeat(name.split('/').length - 1)
    return { name, type: links, linkName: links === 'symbolic-link' ? up + file : file }
  })
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

// The parts of tar that archives need: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06

const BLOCK = 512

const FLAGS = { file: '0', 'hard-link': '1', 'symbolic-link': '2', 'character-device': '3', folder: '5' } as const

function writeMember(member: TarMember): Buffer {
  const { name, linkName = '', type = 'file', header = 'ustar', base256 = false, alter } = member
  const content = Buffer.from(member.content ?? '')
  const own = { flag: FLAGS[type], gnu: header === 'gnu', base256, alter }
  const named = header === 'ustar' ? splitName(name) : { name: cut(name), prefix: '' }
  const size = header === 'pax' ? 0 : content.length
  return Buffer.concat([
    ...extensions(member, content.length),
    writeHeader({ ...own, ...named, linkName: header === 'ustar' ? linkName : cut(linkName), size }),
    padded(content),
  ])
}

function extensions({ name, linkName, header, pax }: TarMember, size: number): readonly Buffer[] {
  const own: Record<string, string> =
    header === 'pax' ? { path: name, ...(linkName !== undefined && { linkpath: linkName }), size: `${size}` } : {}
  const records = Object.entries({ ...own, ...pax })
  const gnu = header === 'gnu' ? { L: name, K: linkName } : {}
  return [
    ...Object.entries(gnu).flatMap(([flag, text]) =>
      text === undefined ? [] : [writeExtension(flag, '././@LongLink', Buffer.from(`${text}\0`))],
    ),
    ...(records.length > 0
      ? [writeExtension('x', 'PaxHeaders/member', Buffer.from(records.map(paxRecord).join('')))]
      : []),
  ]
}

function writeExtension(flag: string, name: string, content: Buffer): Buffer {
  return Buffer.concat([writeHeader({ flag, name, size: content.length }), padded(content)])
}

/** `<length> <key>=<value>\n`, where the length includes its own digits. */
function paxRecord([key, value]: readonly [string, string]): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`)
  const digits = String(rest + String(rest).length).length
  return `${rest + digits} ${key}=${value}\n`
}

interface HeaderFields {
  readonly flag: string
  readonly name: string
  readonly prefix?: string
  readonly linkName?: string
  readonly size: number
  readonly gnu?: boolean
  readonly base256?: boolean
  readonly alter?: ((header: Buffer) => void) | undefined
}

function writeHeader({ flag, name, prefix = '', linkName = '', size, gnu, base256, alter }: HeaderFields): Buffer {
  const header = Buffer.alloc(BLOCK)
  header.write(name, 0, 100)
  header.write('0000444\0', 100)
  header.write('0000000\0', 108)
  header.write('0000000\0', 116)
  if (base256) {
    header.writeUInt8(0x80, 124)
    header.writeBigUInt64BE(BigInt(size), 128)
  } else {
    header.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
  }
  header.write('00000000001\0', 136)
  header.write(flag, 156)
  header.write(linkName, 157, 100)
  header.write(gnu ? 'ustar  \0' : 'ustar\x0000', 257)
  header.write(prefix, 345, 155)
  alter?.(header)
  header.fill(' ', 148, 156)
  // A loop, because some tests write a hundred thousand headers.
  let sum = 0
  for (const byte of header) sum += byte
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return header
}

/** A name of more than 100 bytes is split at a slash, with the first part in a separate field. */
function splitName(name: string): { readonly name: string; readonly prefix: string } {
  if (Buffer.byteLength(name) <= 100) return { name, prefix: '' }
  const slash = name.indexOf('/', name.length - 101)
  if (slash < 1 || slash > 155) throw new Error(`The name ${name} does not fit a ustar header`)
  return { name: name.slice(slash + 1), prefix: name.slice(0, slash) }
}

function cut(text: string): string {
  return text.slice(0, 20)
}

function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)])
}

/** Reads the files of an image that may be layers, each as its name and its content. */
export async function readLayerFiles({ layers }: OpenImage): Promise<readonly (readonly [string, Buffer])[]> {
  const files: [string, Buffer][] = []
  for await (const { name, content } of layers) {
    const chunks: Buffer[] = []
    for await (const chunk of content()) chunks.push(Buffer.from(chunk))
    files.push([name, Buffer.concat(chunks)])
  }
  return files
}
