import * as v from 'valibot'
import { type Digest, digestOf } from '../oci/digest.ts'
import { type ImageConfig, parseConfig } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import type { ByteReader } from './byte-reader.ts'
import { ImageError } from './image-error.ts'
import { type TarEntry, tarEntries } from './tar.ts'

/** An image as `docker save` and Nix's dockerTools write it, read but for its layers' content. */
export interface DockerArchive {
  /** The names that the archive gives the image, such as `app:nix`; often one, sometimes none. */
  readonly names: readonly string[]
  readonly config: ImageConfig
  /** The hash of the config's bytes, which Docker calls the image's ID. */
  readonly configDigest: Digest
  readonly configBytes: Buffer
  /** The members that hold the layers, lowest first, links followed: one for each diff ID of the config. */
  readonly layers: readonly string[]
}

/** A member of an archive that may be a layer. Whether it is one, manifest.json tells, which often comes last. */
export interface LayerMember {
  readonly name: string
  /** In bytes. */
  readonly size: number
  /** The content in chunks, each valid until the next; once, and before `take` resolves. */
  content(): AsyncIterable<Buffer>
}

export type TakeLayer = (member: LayerMember) => Promise<void>

/**
 * Reads a docker archive's manifest.json and config, wherever in it they are, and checks that its layers are there.
 * Source: https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format
 * @param archive what it is, for errors: its path
 * @param take gets each member that may be a layer as it comes by; what it leaves unread is passed over
 * @throws ImageError where it is no image, a damaged one, or more than one
 */
export async function readDockerArchive(
  reader: ByteReader,
  archive: string,
  take: TakeLayer = async () => undefined,
): Promise<DockerArchive> {
  const { members, documents } = await collect(reader, archive, take)
  const manifest = parseManifest(documents.get('manifest.json'), members, archive)
  const config = documents.get(resolve(manifest.Config, members))
  if (config === undefined) throw damaged(archive, `its config ${manifest.Config} is missing`)
  const image = readConfig(config, manifest.Config, archive)
  const layers = manifest.Layers.map((layer) => resolve(layer, members))
  const missing = manifest.Layers.filter((_, at) => members.get(layers[at] ?? '')?.type !== 'file')
  if (missing.length > 0) throw damaged(archive, `these layers are missing: ${missing.join(', ')}`)
  if (manifest.Layers.length !== image.diffIds.length)
    throw damaged(archive, `it has ${manifest.Layers.length} layers, and its config lists ${image.diffIds.length}`)
  return {
    names: manifest.RepoTags ?? [],
    config: image,
    configDigest: digestOf(config),
    configBytes: config,
    layers,
  }
}

function readConfig(bytes: Buffer, name: string, archive: string): ImageConfig {
  try {
    return parseConfig(bytes, `the config ${name}`)
  } catch (error) {
    if (error instanceof FormatError) throw damaged(archive, error.parts.what, error)
    throw error
  }
}

interface Member {
  readonly type: TarEntry['type']
  readonly linkName: string
}

interface Contents {
  readonly members: ReadonlyMap<string, Member>
  /** Small files of JSON, which manifest.json and the config are among: which they are, is known only at the end. */
  readonly documents: ReadonlyMap<string, Buffer>
}

const DOCUMENT_LIMIT = 4 * 1024 * 1024
const DOCUMENTS_LIMIT = 64 * 1024 * 1024

async function collect(reader: ByteReader, archive: string, take: TakeLayer): Promise<Contents> {
  const members = new Map<string, Member>()
  const documents = new Map<string, Buffer>()
  let kept = 0
  for await (const entry of tarEntries(reader, archive)) {
    const name = memberName(entry.name)
    if (name.split('/').includes('..')) throw damaged(archive, `its member ${entry.name} points out of it`)
    members.set(name, { type: entry.type, linkName: entry.linkName })
    const small = mayBeDocument(entry, name) ? await readAll(entry.content()) : undefined
    // What begins like JSON may yet be a layer, whose first file is called "[id].js".
    if (small !== undefined && isJson(small)) {
      documents.set(name, small)
      kept += small.length
    }
    if (mayBeLayer(entry))
      await take({ name, size: entry.size, content: () => (small === undefined ? entry.content() : once(small)) })
    if (kept > DOCUMENTS_LIMIT) throw damaged(archive, `it holds more than ${DOCUMENTS_LIMIT} bytes of JSON`)
  }
  return { members, documents }
}

async function readAll(content: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of content) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks)
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes
}

function isJson(bytes: Buffer): boolean {
  return bytes[0] === 0x7b || bytes[0] === 0x5b
}

/** A layer is a tar, which is made of blocks of 512 bytes. */
function mayBeLayer({ type, size }: TarEntry): boolean {
  return type === 'file' && size > 0 && size % 512 === 0
}

/** `docker save` puts configs with the blobs of an OCI layout; Nix gives them names that end in .json. */
function mayBeDocument({ type, size }: TarEntry, name: string): boolean {
  if (type !== 'file' || size > DOCUMENT_LIMIT) return false
  return name.endsWith('.json') || name.startsWith('blobs/sha256/')
}

const MANIFEST = v.array(
  v.object({
    Config: v.string(),
    RepoTags: v.nullish(v.array(v.string())),
    Layers: v.nullish(v.array(v.string()), []),
  }),
)

type ManifestEntry = v.InferOutput<typeof MANIFEST>[number] & { readonly Layers: readonly string[] }

function parseManifest(bytes: Buffer | undefined, members: Contents['members'], archive: string): ManifestEntry {
  if (bytes === undefined)
    throw new ImageError({
      what: `${archive} is a tar, but no image: it has no manifest.json`,
      words: `it holds ${listOf([...members.keys()])}`,
      help: 'Build an image, with dockerTools.buildImage, buildLayeredImage or streamLayeredImage for example.',
    })
  const result = v.safeParse(v.pipe(v.string(), v.parseJson(), MANIFEST), bytes.toString('utf8'))
  if (!result.success) {
    const place = v.getDotPath(result.issues[0])
    throw damaged(archive, `its manifest.json${place === null ? '' : `, at ${place}`}: ${result.issues[0].message}`)
  }
  const [entry, ...more] = result.output
  if (entry === undefined) throw damaged(archive, 'its manifest.json lists no image')
  if (more.length > 0)
    throw new ImageError({
      what: `${archive} holds ${more.length + 1} images, and only one can be pushed`,
      words: result.output.map(({ RepoTags, Config }) => (RepoTags ?? []).join(', ') || Config).join('\n'),
      help: 'Build each of them by its own attribute (dockerTools.mergeImages joins several into one file).',
    })
  return { ...entry, Layers: entry.Layers ?? [] }
}

/** Follows links inside the archive, as far as they lead. */
function resolve(name: string, members: Contents['members']): string {
  let at = memberName(name)
  for (let hops = 0; hops < 16; hops++) {
    const member = members.get(at)
    if (member?.type !== 'hard-link' && member?.type !== 'symbolic-link') return at
    // A symbolic link starts from its own folder, a hard link from the archive's root.
    const folder = member.type === 'symbolic-link' && at.includes('/') ? at.slice(0, at.lastIndexOf('/') + 1) : ''
    at = memberName(folder + member.linkName)
  }
  return at
}

/** Without `./` in front and without `x/../`. */
function memberName(name: string): string {
  const parts: string[] = []
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else parts.push(part)
  }
  return parts.join('/')
}

function listOf(names: readonly string[]): string {
  const shown = names.slice(0, 8).join(', ')
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown || 'nothing'
}

function damaged(archive: string, why: string, cause?: unknown): ImageError {
  return new ImageError({ what: `${archive} is not a whole image: ${why}`, cause })
}
