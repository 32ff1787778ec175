import { findPublished } from '../cache/layers.ts'
import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged, type UnchangedImage } from '../cache/unchanged.ts'
import { type ComparableImage, compareBuilt, findComparable } from '../changes/image-changes.ts'
import { logChanges } from '../changes/report.ts'
import type { Workflow } from '../context.ts'
import { checkDocker, PUSH_WITHOUT_DOCKER } from '../docker/docker.ts'
import { ImageError } from '../errors.ts'
import type { ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { JobLog } from '../log.ts'
import { evaluateImage, storePathBeforeBuild } from '../nix/evaluate.ts'
import { installableOf } from '../nix/installable.ts'
import { storeFolder } from '../nix/store-path.ts'
import { platformOf } from '../nix/system.ts'
import type { ImageConfig } from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { type Digest, formatReference, formatRepository } from '../oci/reference.ts'
import { checkImage } from '../push/check.ts'
import { publishUnchanged, relabel } from '../push/existing.ts'
import { pushImage } from '../push/image.ts'
import type { RegistryPush } from '../push/layers.ts'
import { addLocalImage } from '../push/local-image.ts'
import { keepSbom, type PublishedSbom, startSbom } from '../push/sbom.ts'
import { checkTag, chooseTag } from '../push/tag.ts'
import { checkTest, testImage } from '../push/test-image.ts'
import { type CompressedLayer, totalSize } from '../push/uploads.ts'
import { pushWithDocker } from '../push/with-docker.ts'
import { preloadArtifactClient } from '../record/artifact-client.ts'
import { type DigestRecord, serializeRecord } from '../record/record.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { buildImage, findImageInStore, withReadableSource } from './build-image.ts'
import { type BuildIdentity, handOver, recordOf } from './build-record.ts'
import { findLockedInputs } from './locked-inputs.ts'
import type { Result, Tools } from './mode.ts'
import { findRevision, findSource } from './revision.ts'
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
  const comparing = push ? undefined : findComparable(registry, inputs.reuseFrom, platform, log)
  const [previous] = await Promise.all([
    push ? readPreviousImages(registry, inputs.reuseFrom, log) : [],
    // First, because an evaluation may take long.
    push ? checkPushing(inputs, tag, platform, registry) : undefined,
  ])
  const call = { installable, nixArgs, system, runnerSystem, folders: [storeFolder(), tempFolder] }
  const withRegistry = inputs.pushWith === 'registry'
  if (push) preloadArtifactClient()
  const [published, evaluation] = await Promise.all([
    findPublished(registry, withRegistry ? previous : [], inputs.images, platform, log),
    local === undefined ? evaluateImage(call, log) : undefined,
  ])
  // After the evaluation, which may have written the lock file.
  const locked = push ? await findLockedInputs(inputs, log) : undefined
  const format = withRegistry ? inputs.compression.format : undefined
  const request = { ...inputs, installable, format, runnerSystem }
  const unchanged = await lookForUnchanged(request, previous, registry, log, async () =>
    storePathBeforeBuild(installable, evaluation),
  )
  const commit = { revision, source: await findSource(inputs, revision, workflow) }
  const evaluated = { derivation: evaluation?.derivation, inputs: locked }
  const identity = { ...commit, tag, workflow, evaluated }
  if (unchanged !== undefined) return reuseImage(unchanged, inputs, identity, tools)

  const image = local
    ? await findImageInStore(local.text, withRegistry, log)
    : await buildImage(call, evaluation, withRegistry, log)
  const { storePath } = image
  checkLoadable(image.source, inputs.pushWith)
  return withReadableSource(image, call, tempFolder, log, async (found) => {
    const source = { ...found, platform }
    const check = (one: Pick<SourceImage, 'config'>) => checkPlatform(one, platform, system, source.path)
    const built = { system, platform, storePath }
    if (!push) {
      const { config } = await checkImage(source)
      check({ config })
      return reportUnpushed(built, config, await comparing, inputs, log)
    }
    const pushing = { source, images: inputs.images, tag, platform, check }
    const { compression, labels } = inputs
    const describing = { platform, images: inputs.images, previous, tempFolder }
    const pending = inputs.sbom && withRegistry ? startSbom(source, describing, registry, log) : undefined
    const test = testOf(inputs, storePath, tempFolder, log)
    let sbom: PublishedSbom | undefined
    const beforeTag: RegistryPush['beforeTag'] = async (stored, contents) => {
      for (const { digest } of stored.slice(0, 1)) await test(digest)
      sbom = await pending?.attach(contents, stored)
    }
    const { layers, info, images } = withRegistry
      ? await pushImage({ ...pushing, published, compression, labels, storePath, tempFolder, beforeTag }, registry, log)
      : await pushWithDocker(pushing, registry, log)
    const records = images.map((one) => recordOf(one, platform, storePath, info, inputs, sbom?.digest, identity))
    await handOver(records, inputs.retentionDays, tempFolder, log)
    return reportBuild(images, records, tag, { ...built, ...(layers && { layers }), sbom }, layers && trafficOf(layers))
  })
}

function reportUnpushed(
  built: Pick<BuiltImage, 'system' | 'platform' | 'storePath'>,
  config: ImageConfig,
  published: ComparableImage | undefined,
  inputs: BuildInputs,
  log: JobLog,
): Result {
  log.info('Not pushing the image: `push` is `false`')
  if (inputs.test !== '') log.info('Not running `test`: it needs a pushed image')
  const changes = published && compareBuilt(published, { ...built, config }, log)
  if (changes !== undefined) logChanges(changes, log)
  return { outputs: { 'store-path': built.storePath }, summary: summarizeBuild({ ...built, pushed: [], changes }) }
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
  const test = testOf(inputs, storePath, workflow.tempFolder, log)
  let sbom: PublishedSbom | undefined
  const sent = await publishUnchanged(registry, image, images, tag, async (digest) => {
    await test(digest)
    if (inputs.sbom) sbom = await keepSbom(registry, published, image, images, workflow.tempFolder)
  })
  const kept = images.map((repository) => ({ ...image, repository }))
  const records = kept.map((one) => recordOf(one, platform, storePath, info, inputs, sbom?.digest, identity))
  await handOver(records, inputs.retentionDays, workflow.tempFolder, log)
  const built = { system, platform, storePath, reused: unchanged ? 'as-is' : 'relabelled', sbom } as const
  return reportBuild(kept, records, tag, built, { sent, reusedLayers: image.own.blobs.length - 1 })
}

/** Checks before the image is read that Docker can load it. @throws ImageError */
function checkLoadable({ format, path }: ImageSource, pushWith: BuildInputs['pushWith']): void {
  if (pushWith !== 'docker' || (format !== 'layout' && format !== 'nix2container')) return
  throw new ImageError({
    message: `Docker can't load ${path}, which is ${format === 'layout' ? 'an OCI layout' : 'a nix2container image'}`,
    hint: PUSH_WITHOUT_DOCKER,
  })
}

/** Returns a function that tests the pushed image. Uses its first name: all repositories have the same image. */
function testOf(
  { images: [first], system, test: script }: BuildInputs,
  storePath: string,
  tempFolder: string,
  log: JobLog,
): (digest: Digest) => Promise<void> {
  return async (digest) => {
    const image = `${first === undefined ? '' : formatRepository(first)}@${digest}`
    await testImage({ script, image, system, storePath }, tempFolder, log)
  }
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
      name: formatRepository(first.repository),
      image: `${formatRepository(first.repository)}@${first.digest}`,
      record: records.map(serializeRecord).join('\n'),
      'store-path': built.storePath,
      unchanged: String(built.reused === 'as-is'),
      ...(built.sbom && { sbom: built.sbom.path }),
      ...(traffic && { 'pushed-bytes': String(traffic.sent), 'reused-layers': String(traffic.reusedLayers) }),
    },
    summary: summarizeBuild({ ...built, pushed }),
  }
}

/** Checks before a long build that Docker runs, and that this job may push to every repository and tag. */
async function checkPushing(
  { images, pushWith, test }: BuildInputs,
  tag: string,
  platform: Platform,
  registry: Registry,
): Promise<void> {
  if (pushWith === 'docker') await checkDocker()
  await checkTest(test)
  await Promise.all(
    images.map(async (repository) => {
      await registry.checkPush(repository)
      if (tag !== '') await checkTag(registry, { repository, tag }, platform)
    }),
  )
}

function checkPlatform({ config }: Pick<SourceImage, 'config'>, wanted: Platform, system: string, path: string): void {
  if (fits(config, wanted)) return
  throw new ImageError({
    message: `The image is for ${formatPlatform(config)}, but ${system} is ${formatPlatform(wanted)}`,
    detail: `the config in ${path} says "architecture": "${config.architecture}", "os": "${config.os}"`,
    hint: `Nothing was pushed. In the flake, use the \`pkgs\` of ${system} for packages.${system}. For cross-built images, also set \`architecture\` in dockerTools.`,
  })
}
