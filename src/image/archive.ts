import type { Platform } from '../oci/platform.ts'
import type { ByteReader } from './byte-reader.ts'
import { imageOfDockerArchive } from './docker-archive.ts'
import { DOCUMENT_LIMIT, DOCUMENTS_LIMIT, isDocument } from './documents.ts'
import { ImageError } from './image-error.ts'
import { imageOfLayout, isBlobName } from './oci-layout.ts'
import { probe } from './probe.ts'
import {
  type Contents,
  damaged,
  listOf,
  type Member,
  memberName,
  type SourceImage,
  type TakeLayer,
} from './source-image.ts'
import { type TarEntry, tarEntries } from './tar.ts'

/**
 * Reads an image from a tar: a docker archive, or an OCI layout in one. Its documents may be anywhere among the layers,
 * often at the end.
 * @param path of the archive, for errors
 * @param wanted as for `imageOfLayout`
 * @throws ImageError where it is no image, a damaged one, or more than one
 */
export async function readArchive(
  reader: ByteReader,
  path: string,
  take: TakeLayer = async () => undefined,
  wanted?: Platform,
): Promise<SourceImage> {
  const { members, documents } = await collect(reader, path, take)
  const contents: Contents = {
    member: async (name) => members.get(name),
    document: async (name) => documents.get(name),
  }
  // `docker save` writes both, and Docker goes by the first.
  if (members.has('manifest.json')) return imageOfDockerArchive(contents, path)
  if (members.has('index.json')) return imageOfLayout(contents, path, wanted)
  throw new ImageError({
    message: `${path} is a tar, but no image: it has neither manifest.json nor index.json`,
    detail: `it holds ${listOf([...members.keys()])}`,
    hint: 'Build an image, with dockerTools.buildImage, buildLayeredImage or streamLayeredImage for example. If this was one, it has been cut short: remove it from the store (nix store delete) and build again.',
  })
}

interface Collected {
  readonly members: ReadonlyMap<string, Member>
  /** Small files of JSON: which of them are the image's documents is known only at the end. */
  readonly documents: ReadonlyMap<string, Buffer>
}

async function collect(reader: ByteReader, path: string, take: TakeLayer): Promise<Collected> {
  const collection = createCollection(path)
  for await (const entry of tarEntries(reader, path)) {
    const name = memberName(entry.name)
    if (name.split('/').includes('..')) throw damaged(path, `its member ${entry.name} points out of it`)
    const small = mayBeDocument(entry, name) ? await readAll(entry.content()) : undefined
    // What begins like JSON may yet be a layer, whose first file is called "[id].js".
    const document = small !== undefined && isDocument(name, small) ? small : undefined
    collection.add(name, entry, document)
    const content = await layerIn({ ...entry, ...(small && { content: () => once(small) }) }, name, document)
    if (content !== undefined) await take({ name, size: entry.size, content })
  }
  return collection
}

/** An image has some hundreds of members; all their names, in characters, are kept until its end. */
const NAMES_LIMIT = 8 * 1024 * 1024

/** Keeps what is needed of an archive's members, within bounds. Of members of one name the last one counts. */
function createCollection(path: string): Collected & {
  add(name: string, entry: TarEntry, document: Buffer | undefined): void
} {
  const members = new Map<string, Member>()
  const documents = new Map<string, Buffer>()
  let namesLength = 0
  let documentsLength = 0
  return {
    members,
    documents,
    add(name, entry, document) {
      // What a map takes for each of them counts as well.
      namesLength += name.length + entry.linkName.length + 64
      if (namesLength > NAMES_LIMIT) throw damaged(path, 'it has more files than any image')
      members.set(name, { type: entry.type, target: targetOf(name, entry), size: entry.size })
      documents.delete(name)
      if (document === undefined) return
      documents.set(name, document)
      documentsLength += document.length
      if (documentsLength > DOCUMENTS_LIMIT) throw damaged(path, `it holds more than ${DOCUMENTS_LIMIT} bytes of JSON`)
    },
  }
}

/** Worked out once for each link: a manifest can name it a million times. */
function targetOf(name: string, { type, linkName }: TarEntry): string {
  // A symbolic link starts from its own folder, a hard link from the archive's root.
  const folder = type === 'symbolic-link' ? name.slice(0, name.lastIndexOf('/') + 1) : ''
  return memberName(folder + linkName)
}

async function readAll(content: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of content) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks)
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes
}

/** The content of a member that may be a layer: a tar, which has blocks of 512 bytes, or one that is compressed. */
async function layerIn(
  { type, size, content }: TarEntry,
  name: string,
  document: Buffer | undefined,
): Promise<(() => AsyncIterable<Buffer>) | undefined> {
  if (type !== 'file' || size === 0) return undefined
  if (size % 512 === 0) return content
  if (document !== undefined) return undefined
  // Of an OCI layout: by its name it is what the manifest says, whatever it holds.
  if (isBlobName(name)) return content
  const probed = await probe(content())
  return probed.compression === undefined ? undefined : () => probed.content
}

/**
 * `docker save` puts configs with the blobs of an OCI layout; Nix gives them names that end in .json, crane digests,
 * others any. What is called a tar is a layer, and need not be kept, nor even read where it is not asked for.
 */
function mayBeDocument({ type, size }: TarEntry, name: string): boolean {
  return type === 'file' && size <= DOCUMENT_LIMIT && !/\.(tar|gz|tgz|zst|xz)$/.test(name)
}
