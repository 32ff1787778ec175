import { join } from 'node:path'
import { contentOf, openRegularFile, type RegularFile, readWhole, resolveWithin } from '../fs/regular-file.ts'
import { type Digest, digestOf } from '../oci/digest.ts'
import { type Descriptor, isAttestation, parseManifest } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import { isIndexType, isManifestType, OCI_CONFIG, OCI_INDEX } from '../oci/media-type.ts'
import { printPlatform } from '../oci/platform.ts'
import { readConfig } from './config.ts'
import { DOCUMENT_LIMIT, DOCUMENTS_LIMIT, documentCalled, isDocument } from './documents.ts'
import { ImageError } from './image-error.ts'
import { type Contents, damaged, type SourceImage, type SourceLayer, type TakeLayer } from './source-image.ts'

/**
 * The one image of an OCI layout, by its index.json.
 * Source: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 * @throws ImageError where it is damaged, or not one
 */
export async function imageOfLayout(contents: Contents, path: string): Promise<SourceImage> {
  const index = await documentCalled('index.json', contents, 'its index.json', path)
  const descriptor = await onlyImage(contents, { bytes: index, mediaType: OCI_INDEX, name: 'its index.json' }, path)
  const bytes = await documentOf(contents, descriptor, path)
  const manifest = parse(bytes, descriptor.mediaType, `its manifest ${descriptor.digest}`, path)
  if (manifest.kind === 'index') throw damaged(path, `its manifest ${descriptor.digest} is an index`)
  const configBytes = await documentOf(contents, manifest.config, path)
  const config = readConfig(configBytes, manifest.config.digest, path)
  if (manifest.layers.length !== config.diffIds.length)
    throw damaged(path, `it has ${manifest.layers.length} layers, and its config lists ${config.diffIds.length}`)
  const layers: SourceLayer[] = []
  for (const blob of manifest.layers) layers.push({ name: await existing(contents, blob, path), blob })
  return {
    names: [],
    config,
    configDigest: manifest.config.digest,
    configBytes,
    layers,
    manifest: { bytes, mediaType: manifest.mediaType, annotations: manifest.annotations },
  }
}

/**
 * Reads an OCI layout that is a folder.
 * @param root as for `openRegularFile`
 * @throws ImageError
 */
export async function readLayoutFolder(
  path: string,
  root: string,
  take: TakeLayer = async () => undefined,
): Promise<SourceImage> {
  const image = await imageOfLayout(contentsOfFolder(path, root), path)
  for (const { name, blob } of new Map(image.layers.map((layer) => [layer.name, layer])).values())
    await take({ name, size: blob?.size ?? 0, content: () => contentAt(join(path, name), root) })
  return image
}

async function* contentAt(path: string, root: string): AsyncGenerator<Buffer> {
  yield* contentOf(await openRegularFile(path, root), path)
}

/** Reads only the files that the image consists of: the folder may hold countless others. */
function contentsOfFolder(path: string, root: string): Contents {
  let read = 0
  async function open(name: string): Promise<RegularFile | undefined> {
    const place = await resolveWithin(join(path, name), root)
    return place === undefined ? undefined : openRegularFile(place, root)
  }
  return {
    async member(name) {
      const file = await open(name)
      await file?.handle.close()
      return file && { type: 'file', target: '', size: file.size }
    },
    async document(name) {
      const file = await open(name)
      try {
        // Layers begin with other bytes; of what is large nothing is a document.
        if (file === undefined || file.size > DOCUMENT_LIMIT) return undefined
        read += file.size
        if (read > DOCUMENTS_LIMIT) throw damaged(path, `it has more than ${DOCUMENTS_LIMIT} bytes of JSON`)
        const bytes = await readWhole(file, join(path, name))
        return isDocument(name, bytes) ? bytes : undefined
      } finally {
        await file?.handle.close()
      }
    },
  }
}

/** An index of one image lists some; each of them may have to be read. */
const LISTED_LIMIT = 1000

interface Document {
  readonly bytes: Buffer
  readonly mediaType: string
  readonly name: string
}

/** What an index leads to, attestations, signatures and the like left out: one image, or an index of one. */
async function onlyImage(
  contents: Contents,
  { bytes, mediaType, name }: Document,
  path: string,
  depth = 0,
): Promise<Descriptor> {
  const index = parse(bytes, mediaType, name, path)
  if (index.kind === 'manifest') throw damaged(path, `${name} is no index`)
  if (index.manifests.length > LISTED_LIMIT)
    throw damaged(path, `${name} lists ${index.manifests.length} manifests, at most ${LISTED_LIMIT} are read`)
  // An image with two names is listed twice.
  const listed = index.manifests.filter((one) => !isAttestation(one))
  const distinct = [...new Map(listed.map((one) => [one.digest, one])).values()]
  // One alone is what was meant to be an image, whatever its manifest says.
  const images: Descriptor[] = []
  for (const one of distinct) if (distinct.length === 1 || (await mayBeImage(one, contents, path))) images.push(one)
  const [only, ...more] = images
  if (only === undefined) throw damaged(path, `${name} lists no image`)
  if (more.length > 0)
    throw new ImageError({
      what: `${path} holds ${images.length} images, and only one can be pushed`,
      words: images
        .map((one) => `${one.digest}${one.platform ? ` for ${printPlatform(one.platform)}` : ''}`)
        .join('\n'),
      help: 'Build the image of one system by its own attribute; merge puts those of several systems together.',
    })
  if (!only.mediaType.includes('index') && !only.mediaType.includes('manifest.list')) return only
  if (depth > 2) throw damaged(path, 'its indexes lead to one another')
  const inner = await documentOf(contents, only, path)
  return onlyImage(
    contents,
    { bytes: inner, mediaType: only.mediaType, name: `its index ${only.digest}` },
    path,
    depth + 1,
  )
}

/**
 * Whether an index may list an image by this. Signatures and SBOMs are listed beside theirs: with an `artifactType`, by a
 * manifest whose config or layers are none of an image, or by what is no manifest.
 * Source: https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
 */
async function mayBeImage(
  { artifactType, digest, mediaType }: Descriptor,
  contents: Contents,
  path: string,
): Promise<boolean> {
  if (artifactType !== undefined && !IMAGE_CONFIGS.has(artifactType)) return false
  if (!isManifestType(mediaType) && !isIndexType(mediaType)) return false
  const bytes = await contents.document(nameOf(digest))
  if (bytes === undefined) return true
  const manifest = parse(bytes, mediaType, `its manifest ${digest}`, path)
  if (manifest.kind === 'index') return true
  const { config, layers } = manifest
  return IMAGE_CONFIGS.has(config.mediaType) && (layers.length === 0 || layers.some((one) => isLayer(one.mediaType)))
}

const IMAGE_CONFIGS: ReadonlySet<string> = new Set([OCI_CONFIG, 'application/vnd.docker.container.image.v1+json'])

/** Whatever it is compressed or encrypted with. */
function isLayer(mediaType: string): boolean {
  return /^application\/vnd\.(oci\.image\.layer|docker\.image\.rootfs)\./.test(mediaType)
}

function parse(bytes: Buffer, mediaType: string, name: string, path: string): ReturnType<typeof parseManifest> {
  try {
    return parseManifest(bytes, mediaType, name)
  } catch (error) {
    if (error instanceof FormatError) throw damaged(path, error.parts.what, error)
    throw error
  }
}

async function documentOf(contents: Contents, { digest, size }: Descriptor, path: string): Promise<Buffer> {
  const bytes = await documentCalled(nameOf(digest), contents, digest, path)
  if (bytes.length !== size) throw damaged(path, `${digest} has ${bytes.length} bytes, and what lists it says ${size}`)
  if (digestOf(bytes) !== digest) throw damaged(path, `${digest} has another content than its name says`)
  return bytes
}

async function existing(contents: Contents, { digest, size }: Descriptor, path: string): Promise<string> {
  const name = nameOf(digest)
  const member = await contents.member(name)
  if (member?.type !== 'file') throw damaged(path, `its layer ${digest} is missing`)
  if (member.size !== size)
    throw damaged(path, `its layer ${digest} has ${member.size} bytes, and its manifest says ${size}`)
  return name
}

function nameOf(digest: Digest): string {
  return `blobs/${digest.replace(':', '/')}`
}
