import type { ByteReader } from './byte-reader.ts'
import { imageOfDockerArchive } from './docker-archive.ts'
import { DOCUMENT_LIMIT, DOCUMENTS_LIMIT, isDocument } from './documents.ts'
import { ImageError } from './image-error.ts'
import { imageOfLayout } from './oci-layout.ts'
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
 * @throws ImageError where it is no image, a damaged one, or more than one
 */
export async function readArchive(
  reader: ByteReader,
  path: string,
  take: TakeLayer = async () => undefined,
): Promise<SourceImage> {
  const contents = await collect(reader, path, take)
  // `docker save` writes both, and Docker goes by the first.
  if (contents.members.has('manifest.json')) return imageOfDockerArchive(contents, path)
  if (contents.members.has('index.json')) return imageOfLayout(contents, path)
  throw new ImageError({
    what: `${path} is a tar, but no image: it has neither manifest.json nor index.json`,
    words: `it holds ${listOf([...contents.members.keys()])}`,
    help: 'Build an image, with dockerTools.buildImage, buildLayeredImage or streamLayeredImage for example. If this was one, it has been cut short: remove it from the store (nix store delete) and build again.',
  })
}

async function collect(reader: ByteReader, path: string, take: TakeLayer): Promise<Contents> {
  const members = new Map<string, Member>()
  const documents = new Map<string, Buffer>()
  let kept = 0
  for await (const entry of tarEntries(reader, path)) {
    const name = memberName(entry.name)
    if (name.split('/').includes('..')) throw damaged(path, `its member ${entry.name} points out of it`)
    members.set(name, { type: entry.type, linkName: entry.linkName, size: entry.size })
    const small = mayBeDocument(entry, name) ? await readAll(entry.content()) : undefined
    // What begins like JSON may yet be a layer, whose first file is called "[id].js".
    const document = small !== undefined && isDocument(name, small) ? small : undefined
    // Of members that come twice the last one counts.
    documents.delete(name)
    if (document !== undefined) {
      documents.set(name, document)
      kept += document.length
    }
    const content = await layerIn({ ...entry, ...(small && { content: () => once(small) }) }, name, document)
    if (content !== undefined) await take({ name, size: entry.size, content })
    if (kept > DOCUMENTS_LIMIT) throw damaged(path, `it holds more than ${DOCUMENTS_LIMIT} bytes of JSON`)
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
  if (name.startsWith('blobs/sha256/')) return content
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
