import { createHash } from 'node:crypto'
import { hashLayer, type Write } from '../compress/compress.ts'
import { ImageError } from '../errors.ts'
import { type ArchiveCompression, decompress, INNER_WINDOW_LOG, peekCompression } from '../image/decompress.ts'
import { baseProblem, NotDescribed } from '../image/layered-image.ts'
import { isBlobName } from '../image/oci-layout.ts'
import { isSeekable, openImage } from '../image/open-image.ts'
import type { ImageSource, LayeredImage } from '../image/source.ts'
import type { LayerFile, SourceImage } from '../image/source-image.ts'
import { type LayerFormat, layerFormat } from '../oci/manifest.ts'
import type { Platform } from '../oci/platform.ts'
import type { Digest } from '../oci/reference.ts'
import { mapAtMost } from '../promises.ts'
import type { LayerContent } from '../sbom/spdx.ts'
import { observeLayer, type ProgramObserver } from '../sbom/store-paths.ts'

/**
 * Reads an image and checks each layer against the config, without pushing anything.
 * @param platform selects the image if an OCI layout has several
 * @throws ImageError if the image is damaged, or the file is not an image
 */
export async function checkImage(source: ImageSource, platform?: Platform): Promise<SourceImage> {
  if (source.layered !== undefined) return checkLayered(source, source.layered)
  const layers = new Map<string, LayerDigests>()
  const opened = openImage(source, { platform })
  // A blob of an OCI layout may belong to an image for another platform, and the manifest may follow it.
  for await (const file of opened.layers)
    if (!isBlobName(file.name)) layers.set(file.name, await readLayer(file, source))
  const image = await opened.image()
  for await (const file of layerFiles(source, platform, image.layerNames, layers))
    layers.set(file.name, await readLayer(file, source))
  for (const [at, name] of image.layerNames.entries()) {
    const layer = layers.get(name)
    if (layer === undefined) throw notATar(name, source)
    checkLayer(image, at, layer, source)
  }
  return image
}

/** How many layers are read from the Nix store at the same time, so that a slow disk does not delay the processor. */
export const STORE_LAYERS_AT_ONCE = 4

/** Reads layers from the Nix store, several at the same time. */
async function checkLayered(source: ImageSource, { layers, base, image }: LayeredImage): Promise<SourceImage> {
  const baseImage = base && (await checkBase(base))
  const diffIds = await mapAtMost(STORE_LAYERS_AT_ONCE, layers, async ({ name, diffId: expected, content }) => {
    const { diffId } = await readLayer({ name, size: 0, content }, source)
    if (expected !== undefined && diffId !== expected) throw unexpectedLayer(name, diffId, expected)
    return diffId
  })
  return image(diffIds, baseImage)
}

async function checkBase(base: ImageSource): Promise<SourceImage> {
  try {
    return await checkImage(base)
  } catch (error) {
    throw baseProblem(error)
  }
}

/**
 * Reads an image again, and yields only the files of some of its layers. Opens nothing if there are none.
 * @param names the files of the layers
 * @param except the files to skip
 */
export async function* layerFiles(
  source: ImageSource,
  platform: Platform | undefined,
  names: readonly string[],
  except: ReadonlyMap<string, unknown> = new Map(),
): AsyncGenerator<LayerFile> {
  const wanted = new Set(names.filter((name) => !except.has(name)))
  if (wanted.size === 0) return
  for await (const file of openImage(source, { platform }).layers) if (wanted.has(file.name)) yield file
}

/** The digests and the compression of a layer file. */
export interface LayerDigests {
  readonly diffId: Digest
  /** Of the file as stored. */
  readonly digest: Digest
  /** The compression of the file, undefined if a registry does not accept the file as a layer. */
  readonly format: LayerFormat | undefined
}

/**
 * Reads a layer to its end.
 * @throws ImageError if its compression is damaged
 */
export async function readLayer(
  file: LayerFile,
  source: ImageSource,
  onProgram?: ProgramObserver,
): Promise<LayerDigests & Pick<LayerContent, 'storePaths'>> {
  const hash = createHash('sha256')
  const { compression, content } = await peekCompression(file.content())
  const update: Write = async (chunk) => void hash.update(chunk)
  const { tar, storePaths } = observeLayer(decompressLayer(compression, content, source, update), onProgram)
  const { diffId } = await hashLayer(tar)
  const digest: Digest = compression === undefined ? diffId : `sha256:${hash.digest('hex')}`
  return { diffId, digest, format: uploadFormat(compression), storePaths: storePaths() }
}

/** Returns the format in which a layer is uploaded unchanged, undefined if it has to be compressed first. */
export function uploadFormat(compression: ArchiveCompression | undefined): LayerFormat | undefined {
  // Registries accept no xz.
  return compression === 'xz' ? undefined : compression
}

/**
 * Returns the tar of a layer.
 * @param write receives the compressed bytes, if the layer is compressed
 */
export function decompressLayer(
  compression: ArchiveCompression | undefined,
  content: AsyncIterable<Buffer>,
  source: ImageSource,
  write: Write = async () => undefined,
): AsyncIterable<Buffer> {
  if (compression === undefined) return content
  const windowLog = isSeekable(source) ? undefined : INNER_WINDOW_LOG
  return decompress(compression, writeThrough(content, write), source.path, windowLog)
}

async function* writeThrough(content: AsyncIterable<Buffer>, write: Write): AsyncGenerator<Buffer> {
  for await (const chunk of content) {
    // A copy, because the chunk is invalid once the next one is read.
    const copy = Buffer.from(chunk)
    await write(copy)
    yield copy
  }
}

const REBUILD = 'Nothing was published. Build it again: nix build --rebuild'

/**
 * Checks a layer against the config and the manifest of its image.
 * @param at the index of the layer
 * @throws ImageError if they list another layer
 */
export function checkLayer(image: SourceImage, at: number, layer: LayerDigests, source: ImageSource): void {
  checkDiffId(image, at, layer.diffId, source)
  checkBlob(image, at, layer, source)
}

function checkDiffId({ config, layerNames }: SourceImage, at: number, diffId: Digest, { path }: ImageSource): void {
  const expected = config.diffIds[at]
  if (diffId === expected) return
  throw new ImageError({
    message: `${path} is damaged: its layer ${layerNames[at]} does not match its config`,
    detail: `the diff ID is ${diffId} instead of ${expected}`,
    hint: REBUILD,
  })
}

/** Returns the error for a layer that has other content than the image's description gives. */
export function unexpectedLayer(name: string, diffId: Digest, expected: Digest): NotDescribed {
  return new NotDescribed(`its layer ${name} has the diff ID ${diffId}, and its description gives ${expected}`)
}

function checkBlob(
  { layerNames, manifest }: SourceImage,
  at: number,
  { digest, format }: LayerDigests,
  { path }: ImageSource,
): void {
  const blob = manifest?.layers[at]
  const listed = blob && layerFormat(blob.mediaType)
  if (listed === undefined) return
  if (format !== listed)
    throw new ImageError({
      message: `${path} is damaged: its layer ${layerNames[at]} is ${format ?? 'not compressed'}, but its manifest lists ${listed}`,
      hint: REBUILD,
    })
  if (digest !== blob?.digest)
    throw new ImageError({
      message: `${path} is damaged: the content of its layer ${layerNames[at]} does not match its name`,
      detail: `the digest is ${digest}`,
      hint: REBUILD,
    })
}

/** Returns the error for a layer whose file can't be a layer. */
export function notATar(name: string, { path }: ImageSource): ImageError {
  return new ImageError({ message: `${path} is damaged: its layer ${name} is not a tar`, hint: REBUILD })
}
