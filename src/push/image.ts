import { type BuildInfo, describeBuild } from '../cache/build-info.ts'
import { NOTHING_PUBLISHED } from '../cache/layers.ts'
import type { SourceImage } from '../image/source-image.ts'
import { type JobLog, withProgress } from '../log.ts'
import { formatReference, formatRepository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { putBlobEverywhere } from '../registry/copy.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { RegistryError } from '../registry/registry-error.ts'
import { formatBytes, formatDuration, sanitizeLine } from '../text.ts'
import { checkLayer, notATar } from './check.ts'
import { contentOfLayers, type ImageContent } from './content.ts'
import { pushLayers, type RegistryPush } from './layers.ts'
import { labelledConfig, manifestOf } from './manifest.ts'
import { putImageTag } from './tag.ts'
import { type CompressedLayer, type LayerUpload, startUploads, totalSize, type UploadReport } from './uploads.ts'

/** The result of a push. */
export interface PushedImage {
  /** One per repository, in their order. */
  readonly images: readonly ImageManifest[]
  /** Undefined if Docker pushed, which does not report them. */
  readonly layers?: readonly CompressedLayer[]
  /** The annotations of the manifest. Undefined if Docker pushed, which writes none. */
  readonly info?: BuildInfo
  /** The content of the image. Undefined if Docker pushed. */
  readonly contents?: ImageContent
}

/** The parts of a log that a push needs. */
export type PushLog = Pick<JobLog, 'info' | 'group'>

/**
 * Pushes an image without Docker. Layers that were published before are reused; the others are compressed and uploaded
 * while the rest of the image is read. The manifest comes last, then the tag.
 * @throws ImageError if the image is damaged, RegistryError if a registry refuses; no tag has moved then
 */
export async function pushImage(
  request: RegistryPush,
  registry: Registry,
  log: PushLog,
): Promise<Required<PushedImage>> {
  const { images, tag, platform: wanted, beforeTag } = request
  const pushed = await pushLogged(request, registry, log)
  const { image, layers, info, manifest, contents } = pushed
  const { os, architecture, variant } = image.config
  const platform = { os, architecture, ...(variant !== undefined && { variant }) }
  const { digest, mediaType, bytes } = manifest
  const stored = images.map((repository) => ({ repository, digest, mediaType, size: bytes.length, platform }))
  await beforeTag?.(stored, contents)
  await putImageTag(registry, images, tag, manifest, wanted)
  for (const repository of images) {
    const name = tag === '' ? formatRepository(repository) : formatReference({ repository, tag })
    log.info(`Pushed ${name}: ${manifest.digest}`)
  }
  return { images: stored, layers, info, contents }
}

/** Pushes an image. Folds the lines about its layers, with a summary as their title. */
async function pushLogged(request: RegistryPush, registry: Registry, log: PushLog): Promise<PushedOnce> {
  const started = performance.now()
  const lines: string[] = []
  let read = 0
  const report: UploadReport = {
    onLayer: (line) => void lines.push(line),
    onRead(bytes) {
      read += bytes
    },
  }
  const logLayers = (title: string) => log.group(title, async () => lines.forEach(log.info))
  const state = () => `${lines.length === 1 ? '1 layer' : `${lines.length} layers`} done, ${formatBytes(read)} read`
  const push = async (): Promise<PushedOnce> => {
    try {
      return await pushOnce(request, registry, report)
    } catch (error) {
      // A registry may have lost a layer that a published image lists, for example in a faulty clean-up.
      if (!(error instanceof RegistryError) || !/BLOB_UNKNOWN/.test(error.code ?? '')) throw error
      log.info(`${sanitizeLine(error.message)}; checking all layers again`)
      return pushOnce({ ...request, published: NOTHING_PUBLISHED }, registry, report)
    }
  }
  try {
    const pushed = await withProgress(log, 'reading and pushing layers', push, state)
    await logLayers(`${summarizeLayers(pushed.layers)} in ${formatDuration(performance.now() - started)}`)
    return pushed
  } catch (error) {
    if (lines.length > 0) await logLayers('Layers pushed or reused before the error')
    throw error
  }
}

/** `60 layers: 58 reused, 2 pushed (3.1 MB of 221 MB)` */
export function summarizeLayers(layers: readonly CompressedLayer[]): string {
  const pushed = layers.filter(({ reused }) => !reused)
  const count = layers.length === 1 ? '1 layer' : `${layers.length} layers`
  const bytes = `${formatBytes(totalSize(pushed))} of ${formatBytes(totalSize(layers))}`
  return `${count}: ${layers.length - pushed.length} reused, ${pushed.length} pushed (${bytes})`
}

interface PushedOnce {
  readonly image: SourceImage
  readonly layers: readonly CompressedLayer[]
  readonly info: BuildInfo
  readonly manifest: StoredManifest
  readonly contents: ImageContent
}

async function pushOnce(request: RegistryPush, registry: Registry, report: UploadReport): Promise<PushedOnce> {
  const { storePath, labels, compression } = request
  const uploads = startUploads(request, registry, report)
  try {
    const { image, started } = await pushLayers(request, uploads, registry)
    const layers = await Promise.all(image.layerNames.map((name, at) => layerOf(image, at, started.get(name), request)))
    const formats = layers.map(({ format }) => format)
    const info = describeBuild(storePath, labels, compression.format, formats)
    const manifest = await pushManifest(request, image, layers, info, registry)
    const contents = contentOfLayers(request.source, image, started)
    return { image, layers, info, manifest, contents }
  } finally {
    await uploads.settled()
  }
}

async function layerOf(
  image: SourceImage,
  at: number,
  upload: LayerUpload | undefined,
  { source }: RegistryPush,
): Promise<CompressedLayer> {
  if (upload === undefined) throw notATar(image.layerNames[at] ?? '', source)
  const layer = await upload.uploaded
  checkLayer(image, at, layer, source)
  return layer
}

async function pushManifest(
  { images, labels, published }: RegistryPush,
  image: SourceImage,
  layers: readonly CompressedLayer[],
  info: BuildInfo,
  registry: Registry,
): Promise<StoredManifest> {
  const config = labelledConfig(image.configBytes, labels)
  const manifest = manifestOf(image, config, layers, info)
  const { bytes, digest, mediaType } = manifest
  const missing = images.filter((repository) => !published.has(repository, config.digest))
  await putBlobEverywhere(registry, missing, config)
  // Also if it exists: the registry's answer says whether it still has all the layers.
  await settleAll(images.map((repository) => registry.putManifest(repository, digest, mediaType, bytes)))
  return manifest
}
