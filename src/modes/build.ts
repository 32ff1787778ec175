import { join } from 'node:path'
import { findPublished } from '../cache/layers.ts'
import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged, type UnchangedImage } from '../cache/unchanged.ts'
import type { Workflow } from '../context.ts'
import { checkDocker, PUSH_WITHOUT_DOCKER } from '../docker/docker.ts'
import { ImageError } from '../errors.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import type { ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { JobLog } from '../log.ts'
import { evaluateImage, storePathBeforeBuild } from '../nix/evaluate.ts'
import { type Installable, installableOf } from '../nix/installable.ts'
import { storeFolder } from '../nix/store-path.ts'
import { platformOf } from '../nix/system.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, formatRepository } from '../oci/reference.ts'
import { checkImage } from '../push/check.ts'
import { publishUnchanged, relabel } from '../push/existing.ts'
import { pushImage } from '../push/image.ts'
import { addLocalImage, writeLayout } from '../push/local-image.ts'
import { checkTag, chooseTag } from '../push/tag.ts'
import { type CompressedLayer, totalSize } from '../push/uploads.ts'
import { pushWithDocker } from '../push/with-docker.ts'
import { type DigestRecord, serializeRecord } from '../record/record.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { buildImage, findImageInStore, logNotDescribed, type NixImage } from './build-image.ts'
import { type BuildIdentity, handOver, recordOf } from './build-record.ts'
import type { Result, Tools } from './mode.ts'
import { findRevision } from './revision.ts'
import { type BuiltImage, summarizeBuild } from './summaries.ts'

/**
 * Builds the image of one system with Nix, pushes it, and hands its digest over to merge. Skips an image that is already
 * published from the same store path. Checks before the build that the image can be pushed.
 * @throws ActionError
 */
export async function build(inputs: BuildInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { registry, log } = tools
  const { system, push, nixArgs } = inputs
  const { runnerSystem, tempFolder } = workflow
  const platform = platformOf(system)
  const requested = installableOf(inputs, runnerSystem)
  const local = await addLocalImage(requested, runnerSystem, log)
  const installable = local ?? requested
  const revision = push ? await findRevision(inputs, workflow, log) : ''
  const { tag, warning } = push ? chooseTag(inputs, revision) : { tag: '' }
  if (warning) log.warning(warning)
  const identity = { revision, tag, workflow }
  const [previous] = await Promise.all([
    push ? readPreviousImages(registry, inputs.reuseFrom, log) : [],
    // First, because an evaluation may take long.
    push ? checkPushing(inputs, tag, platform, registry) : undefined,
  ])
  const call = { installable, nixArgs, system, runnerSystem, folders: [storeFolder(), tempFolder] }
  const withRegistry = inputs.pushWith === 'registry'
  const [published, evaluation] = await Promise.all([
    findPublished(registry, withRegistry ? previous : [], inputs.images, platform, log),
    local === undefined ? evaluateImage(call, log) : undefined,
  ])
  const format = withRegistry ? inputs.compression.format : undefined
  const request = { ...inputs, installable, format, runnerSystem }
  const unchanged = await lookForUnchanged(request, previous, registry, log, async () =>
    storePathBeforeBuild(installable, evaluation),
  )
  if (unchanged !== undefined) return reuseImage(unchanged, inputs, identity, tools)

  const image = local
    ? await findImageInStore(local.text, withRegistry, log)
    : await buildImage(call, evaluation, withRegistry, log)
  const { storePath } = image
  return withReadableSource(image, installable, inputs, workflow, log, async (found) => {
    const source = { ...found, platform }
    const check = (one: SourceImage) => checkPlatform(one, platform, system, source.path)
    const built = { system, platform, storePath }
    if (!push) {
      check(await checkImage(source))
      log.info('Not pushing the image: `push` is `false`')
      return { outputs: { 'store-path': storePath }, summary: summarizeBuild({ ...built, pushed: [] }) }
    }
    const pushing = { source, images: inputs.images, tag, platform, check }
    const { compression, labels } = inputs
    const { layers, info, images } = withRegistry
      ? await pushImage({ ...pushing, published, compression, labels, storePath, tempFolder }, registry, log)
      : await pushWithDocker(pushing, registry, log)
    const records = images.map((one) => recordOf(one, platform, storePath, info, inputs, identity))
    await handOver(records, inputs.retentionDays, tempFolder, log)
    return reportBuild(images, records, tag, { ...built, ...(layers && { layers }) }, layers && trafficOf(layers))
  })
}

/** Hands over a published image as if this run had built it. Updates its labels if they differ. */
async function reuseImage(
  found: UnchangedImage,
  inputs: BuildInputs,
  identity: BuildIdentity,
  { registry, log }: Tools,
): Promise<Result> {
  const { system, images } = inputs
  const { tag, workflow } = identity
  const platform = platformOf(system)
  const {
    image: published,
    info: { storePath },
  } = found
  log.info(
    `Skipping the build: ${formatRepository(published.repository)}@${published.digest} was built from ${storePath}`,
  )
  const asked = inputs.pushWith === 'registry' ? inputs.compression.format : undefined
  const { image, info } = await relabel(registry, found, inputs.labels, asked)
  const unchanged = image.digest === published.digest
  if (!unchanged) log.info(`With the labels of this run, its digest is ${image.digest}; its layers are unchanged`)
  const sent = await publishUnchanged(registry, image, images, tag)
  const kept = images.map((repository) => ({ ...image, repository }))
  const records = kept.map((one) => recordOf(one, platform, storePath, info, inputs, identity))
  await handOver(records, inputs.retentionDays, workflow.tempFolder, log)
  const built = { system, platform, storePath, reused: unchanged ? 'as-is' : 'relabelled' } as const
  return reportBuild(kept, records, tag, built, { sent, reusedLayers: image.own.blobs.length - 1 })
}

/**
 * Runs `work` with the image. Runs it again with the complete image if the description is not enough. Of nix2container,
 * the complete image is a layout, which exists while `work` runs.
 */
async function withReadableSource(
  { source, complete }: NixImage,
  installable: Installable,
  inputs: BuildInputs,
  workflow: Workflow,
  log: JobLog,
  work: (source: ImageSource) => Promise<Result>,
): Promise<Result> {
  const { format, path } = source
  if (inputs.pushWith === 'docker' && (format === 'layout' || format === 'nix2container'))
    throw new ImageError({
      message: `Docker can't load ${path}, which is ${format === 'layout' ? 'an OCI layout' : 'a nix2container image'}`,
      hint: PUSH_WITHOUT_DOCKER,
    })
  if (complete !== undefined) {
    try {
      return await work(source)
    } catch (error) {
      logNotDescribed(error, installable.name, log)
      return withReadableSource({ source: await complete(), storePath: '' }, installable, inputs, workflow, log, work)
    }
  }
  if (format !== 'nix2container') return work(source)
  return withTempFolder(workflow.tempFolder, async (folder) => {
    const { nixArgs, system } = inputs
    const call = { installable, nixArgs, system, runnerSystem: workflow.runnerSystem, layout: join(folder, 'layout') }
    const title = `Write the layers of ${installable.name}`
    return work(await log.groupToolOutput(title, () => writeLayout(source, call)))
  })
}

interface Traffic {
  /** In bytes. */
  readonly sent: number
  readonly reusedLayers: number
}

function trafficOf(layers: readonly CompressedLayer[]): Traffic {
  const sent = layers.filter(({ reused }) => !reused)
  return { sent: totalSize(sent), reusedLayers: layers.length - sent.length }
}

/** @param traffic absent if Docker pushed: it does not report how much it sent */
function reportBuild(
  images: readonly ImageManifest[],
  records: readonly DigestRecord[],
  tag: string,
  built: Omit<BuiltImage, 'pushed'>,
  traffic: Traffic | undefined,
): Result {
  const [first] = images
  if (first === undefined) throw new Error('inputs name at least one image')
  const pushed = images.map(({ repository, digest }) => ({
    reference: tag === '' ? formatRepository(repository) : formatReference({ repository, tag }),
    digest,
  }))
  return {
    outputs: {
      digest: first.digest,
      image: `${formatRepository(first.repository)}@${first.digest}`,
      record: records.map(serializeRecord).join('\n'),
      'store-path': built.storePath,
      unchanged: String(built.reused === 'as-is'),
      ...(traffic && { 'pushed-bytes': String(traffic.sent), 'reused-layers': String(traffic.reusedLayers) }),
    },
    summary: summarizeBuild({ ...built, pushed }),
  }
}

/** Checks before a long build that Docker runs, and that this job may push to every repository and tag. */
async function checkPushing(
  { images, pushWith }: BuildInputs,
  tag: string,
  platform: Platform,
  registry: Registry,
): Promise<void> {
  if (pushWith === 'docker') await checkDocker()
  await Promise.all(
    images.map(async (repository) => {
      await registry.checkPush(repository)
      if (tag !== '') await checkTag(registry, { repository, tag }, platform)
    }),
  )
}

function checkPlatform({ config }: SourceImage, wanted: Platform, system: string, path: string): void {
  if (fits(config, wanted)) return
  throw new ImageError({
    message: `The image is for ${formatPlatform(config)}, but ${system} is ${formatPlatform(wanted)}`,
    detail: `the config in ${path} says "architecture": "${config.architecture}", "os": "${config.os}"`,
    hint: `Nothing was pushed. In the flake, use the \`pkgs\` of ${system} for packages.${system}. For cross-built images, also set \`architecture\` in dockerTools.`,
  })
}
