import { createHash } from 'node:crypto'
import { hashLayer, type Write } from '../compress/compress.ts'
import { decompress, INNER_WINDOW_LOG } from '../image/decompress.ts'
import { ImageError } from '../image/image-error.ts'
import { type Probed, probe } from '../image/probe.ts'
import { type ImageSource, isSeekable } from '../image/source.ts'
import type { LayerMember, SourceImage } from '../image/source-image.ts'
import type { Digest } from '../oci/digest.ts'
import { type LayerFormat, layerFormat } from '../oci/media-type.ts'

const ANEW = 'Nothing was published. Build it anew: nix build --rebuild'

/** A layer as it is in the image that Nix built. */
export interface ReadLayer {
  readonly diffId: Digest
  readonly digest: Digest
  readonly format: LayerFormat | undefined
}

/**
 * Reads a layer to its end.
 * @throws ImageError where it is damaged
 */
export async function readLayer({ content }: LayerMember, source: ImageSource): Promise<ReadLayer> {
  const hash = createHash('sha256')
  const probed = await probe(content())
  const { diffId } = await hashLayer(plain(probed, source, async (chunk) => void hash.update(chunk)))
  const digest: Digest = probed.compression === undefined ? diffId : `sha256:${hash.digest('hex')}`
  return { diffId, digest, format: keptFormat(probed) }
}

/**
 * Holds a layer against what the config lists in its place.
 * @throws ImageError
 */
export function checkDiffId(
  { config, layers }: SourceImage,
  at: number,
  diffId: Digest | undefined,
  source: ImageSource,
): void {
  const expected = config.diffIds[at]
  if (diffId === expected) return
  throw new ImageError({
    message: `${source.path} is damaged: its layer ${layers[at]?.name} is not the one that its config lists`,
    detail: `its diff ID is ${diffId}, and should be ${expected}`,
    hint: ANEW,
  })
}

/**
 * Holds what goes up as it is against the manifest that lists it.
 * @throws ImageError
 */
export function checkBlob(
  { layers }: SourceImage,
  at: number,
  { digest, format }: { readonly digest: Digest; readonly format: LayerFormat | undefined },
  { path }: ImageSource,
): void {
  const { name, blob } = layers[at] ?? {}
  const listed = blob && layerFormat(blob.mediaType)
  if (blob === undefined || listed === undefined) return
  if (format !== listed)
    throw new ImageError({
      message: `${path} is damaged: its layer ${name} is ${format ?? 'not compressed so'}, and its manifest says ${listed}`,
      hint: ANEW,
    })
  if (digest !== blob.digest) throw otherContent(path, name, digest)
}

/**
 * Checks a compressed layer of an OCI layout that is read only once: which layers its manifest lists is not known yet.
 * @param name of the layout's file. A layer that was compressed only now has a digest of its own, and any other name
 * says nothing
 * @throws ImageError
 */
export function checkName(name: string, { digest, format }: ReadLayer, { path }: ImageSource): void {
  const [, hex] = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(name) ?? []
  if (hex === undefined || format === undefined || digest === `sha256:${hex}`) return
  throw otherContent(path, name, digest)
}

function otherContent(path: string, name: string | undefined, digest: Digest): ImageError {
  return new ImageError({
    message: `${path} is damaged: its layer ${name} has another content than its name says`,
    detail: `its digest is ${digest}`,
    hint: ANEW,
  })
}

/** The error of a layer that the manifest names and the image does not have as a tar. */
export function noTar(name: string, { path }: ImageSource): ImageError {
  return new ImageError({ message: `${path} is damaged: its layer ${name} is no tar`, hint: ANEW })
}

/** How a layer is compressed that goes up as it is; registries take no xz. */
export function keptFormat({ compression }: Probed): LayerFormat | undefined {
  return compression === 'xz' ? undefined : compression
}

/**
 * The bytes of the tar that a layer is, whatever it is compressed with.
 * @param write gets them as they are, where they are compressed
 */
export function plain(
  { compression, content }: Probed,
  source: ImageSource,
  write: Write = async () => undefined,
): AsyncIterable<Buffer> {
  if (compression === undefined) return content
  const windowLog = isSeekable(source) ? undefined : INNER_WINDOW_LOG
  return decompress(compression, copyTo(write, content), source.path, windowLog)
}

/** Each chunk is gone with the next: who gets it later needs a copy. */
async function* copyTo(write: Write, content: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of content) {
    const own = Buffer.from(chunk)
    await write(own)
    yield own
  }
}
