import { ImageError } from '../errors.ts'
import type { Platform } from '../oci/platform.ts'
import type { ByteReader } from './byte-reader.ts'
import { peekCompression } from './decompress.ts'
import { imageOfDockerArchive } from './docker-archive.ts'
import { DOCUMENT_LIMIT, DOCUMENTS_LIMIT, isDocument } from './documents.ts'
import { imageOfLayout, isBlobName } from './oci-layout.ts'
import {
  type Contents,
  damagedImage,
  formatNames,
  type ImageReader,
  type LayerFile,
  type Member,
  memberName,
  type SourceImage,
} from './source-image.ts'
import { BLOCK, mayBeTar, type TarEntry, tarEntries } from './tar.ts'

/**
 * Reads an image from a tar: a docker archive or an OCI layout. Its documents may be anywhere among the layers, often at
 * the end.
 * @param path of the archive, for errors
 * @param platform as for `imageOfLayout`
 * @throws ImageError if the tar is damaged or does not hold exactly one image
 */
export async function* readArchive(reader: ByteReader, path: string, platform?: Platform): ImageReader {
  const members = createMembers(path)
  for await (const entry of tarEntries(reader, path)) {
    const name = memberName(entry.name)
    if (name.split('/').includes('..')) throw damagedImage(path, `its member ${entry.name} points outside the archive`)
    const small = mayBeDocument(entry, name) ? await readAll(entry.content()) : undefined
    const document = small !== undefined && isDocument(name, small) ? small : undefined
    members.add(name, entry, document)
    const layer = await layerIn({ ...entry, name, ...(small && { content: () => once(small) }) }, document)
    if (layer !== undefined) yield layer
  }
  return archivedImage(members, path, platform)
}

async function archivedImage(
  { members, documents }: Collected,
  path: string,
  platform: Platform | undefined,
): Promise<SourceImage> {
  const contents: Contents = {
    member: async (name) => members.get(name),
    document: async (name) => documents.get(name),
  }
  // `docker save` writes both, and `docker load` uses the first.
  if (members.has('manifest.json')) return imageOfDockerArchive(contents, path)
  if (members.has('index.json')) return imageOfLayout(contents, path, platform)
  throw new ImageError({
    message: `${path} is a tar but not an image: it has neither manifest.json nor index.json`,
    detail: `it contains ${formatNames([...members.keys()])}`,
    hint: 'Build an image, for example with dockerTools.buildImage, buildLayeredImage or streamLayeredImage. If it was an image, it is truncated: remove it from the store (nix store delete) and build again.',
  })
}

interface Collected {
  readonly members: ReadonlyMap<string, Member>
  /** Small JSON files. Which of them are the image's documents is known only at the end. */
  readonly documents: ReadonlyMap<string, Buffer>
}

/** The limit of all names of an archive together, in characters. An image has some hundreds of members. */
const NAMES_LIMIT = 8 * 1024 * 1024

/** Collects an archive's members, within limits. If several have the same name, the last one counts. */
function createMembers(path: string): Collected & {
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
      // 64 for the map's own entry.
      namesLength += name.length + entry.linkName.length + 64
      if (namesLength > NAMES_LIMIT) throw damagedImage(path, 'it has more files than any image')
      members.set(name, { type: entry.type, target: targetOf(name, entry), size: entry.size })
      documents.delete(name)
      if (document === undefined) return
      documents.set(name, document)
      documentsLength += document.length
      if (documentsLength > DOCUMENTS_LIMIT)
        throw damagedImage(path, `it contains more than ${DOCUMENTS_LIMIT} bytes of JSON`)
    },
  }
}

/** Resolves a link once, when it is read: a manifest can name it a million times. */
function targetOf(name: string, { type, linkName }: TarEntry): string {
  // A symbolic link is relative to its own folder, a hard link to the archive's root.
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

/**
 * Returns an entry if it may be a layer: a tar, or compressed.
 * @param document its content, if that begins like JSON. It may still be a tar whose first file is called "[id].js"
 */
async function layerIn(
  { name, type, size, content }: TarEntry,
  document: Buffer | undefined,
): Promise<LayerFile | undefined> {
  if (type !== 'file' || size === 0) return undefined
  const isWholeBlocks = size % BLOCK === 0
  if (document !== undefined)
    return isWholeBlocks && mayBeTar(document.subarray(0, BLOCK)) ? { name, size, content } : undefined
  // Only the manifest of an OCI layout says which blobs are layers.
  if (isWholeBlocks || isBlobName(name)) return { name, size, content }
  const peeked = await peekCompression(content())
  return peeked.compression === undefined ? undefined : { name, size, content: () => peeked.content }
}

/**
 * Reports whether a file may be a document by its name and size. `docker save` stores configs among the blobs of an OCI
 * layout, Nix in files that end in .json, crane in files named by digest. A file with the extension of a tar is a layer,
 * which need not be read unless it is requested.
 */
function mayBeDocument({ type, size }: TarEntry, name: string): boolean {
  return type === 'file' && size <= DOCUMENT_LIMIT && !/\.(tar|gz|tgz|zst|xz)$/.test(name)
}
