import { findPublished } from '../cache/layers.ts'
import { readPreviousImages } from '../cache/previous-image.ts'
import { readPublishedContents } from '../cache/published-sbom.ts'
import { lookForUnchanged, type UnchangedImage } from '../cache/unchanged.ts'
import { type ComparableImage, compareBuilt, compressedSize, findComparable } from '../changes/image-changes.ts'
import { logChanges } from '../changes/report.ts'
import type { Workflow } from '../context.ts'
import { checkDocker, PUSH_WITHOUT_DOCKER } from '../docker/docker.ts'
import { ImageError } from '../errors.ts'
import type { ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { BuildInputs } from '../inputs/build.ts'
import { type Log, withProgress } from '../log.ts'
import { evaluateImage, storePathBeforeBuild } from '../nix/evaluate.ts'
import { installableOf } from '../nix/installable.ts'
import { readNixSetup } from '../nix/setup.ts'
import { platformOf } from '../nix/system.ts'
import type { ImageConfig } from '../oci/manifest.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { type Digest, formatRepository } from '../oci/reference.ts'
import { checkImage } from '../push/check.ts'
import { publishUnchanged, relabel } from '../push/existing.ts'
import { type PushedImage, pushImage } from '../push/image.ts'
import type { RegistryPush } from '../push/layers.ts'
import { addLocalImage } from '../push/local-image.ts'
import { keepSbom, type PublishedSbom, type SbomSettings, startSbom } from '../push/sbom.ts'
import { checkTag, chooseTag } from '../push/tag.ts'
import { checkTest, testImage } from '../push/test-image.ts'
import { type CompressedLayer, totalSize } from '../push/uploads.ts'
import { pushWithDocker } from '../push/with-docker.ts'
import { preloadArtifactClient } from '../record/artifact-client.ts'
import { type DigestRecord, serializeRecord } from '../record/record.ts'
import { shareLookUps } from '../registry/client.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { buildImage, findImageInStore, withReadableSource } from './build-image.ts'
import { type BuildIdentity, handOver, recordOf } from './build-record.ts'
import { type BuiltImage, summarizeBuild, type Traffic } from './build-summary.ts'
import { findLockedInputs } from './locked-inputs.ts'
import type { Result, Tools } from './mode.ts'
import type { PhaseTimer } from './phases.ts'
import { findRevision, findSourceRepository } from './revision.ts'

/**
 * Builds the image of one system with Nix, pushes it, and hands its digest over to merge. Skips an image that is already
 * published from the same store path. Checks before the build that the image can be pushed.
 * @throws ActionError
 */
export async function build(inputs: BuildInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { registry, log, phases, onWrite } = tools
  const { system, push, nixArgs } = inputs
  phases.enter('check access')
  const { runnerSystem, tempFolder } = workflow
  const platform = platformOf(system)
  const requested = installableOf(inputs, runnerSystem)
  const revision = push ? await findRevision(inputs, workflow, log) : ''
  const tag = push ? tagOf(inputs, revision, log) : ''
  const comparing = push ? undefined : findComparable(registry, inputs.reuseFrom, platform, log)
  const readingSetup = readNixSetup({ system, runnerSystem }, nixArgs)
  // Reported after the checks.
  readingSetup.catch(() => undefined)
  const published = shareLookUps(registry)
  const [previous] = await Promise.all([
    push ? readPreviousImages(published, inputs.reuseFrom, log) : [],
    // First, because an evaluation may take long.
    push ? checkPushing(inputs, tag, platform, registry) : undefined,
  ])
  const setup = await readingSetup
  log.info(`Using ${setup.version}`)
  const withRegistry = inputs.pushWith === 'registry'
  // Docker reuses nothing and attaches no SBOM.
  const reusable = withRegistry ? previous : []
  // Read while Nix evaluates.
  const contents = inputs.sbom ? readPublishedContents(published, reusable, inputs.images, platform, log) : []
  const local = await addLocalImage(requested, runnerSystem, setup, log)
  const installable = local ?? requested
  const folders = [setup.store.place, tempFolder]
  const call = { installable, nixArgs, system, runnerSystem, setup, folders }
  if (push) preloadArtifactClient()
  if (local === undefined) phases.enter('evaluate')
  const [layerCache, evaluation] = await Promise.all([
    findPublished(published, reusable, inputs.images, platform, log),
    local === undefined ? evaluateImage(call, log) : undefined,
  ])
  // After the evaluation, which may have written the lock file.
  const locked = push ? await findLockedInputs(inputs, log) : undefined
  const format = withRegistry ? inputs.compression.format : undefined
  const request = { ...inputs, installable, format, runnerSystem }
  const knownStorePath = storePathBeforeBuild(installable, evaluation)
  const unchanged = await lookForUnchanged(request, previous, published, log, knownStorePath)
  const commit = { revision, source: await findSourceRepository(inputs, revision, workflow) }
  const evaluated = { derivation: evaluation?.derivation, inputs: locked }
  const identity = { ...commit, tag, workflow, evaluated }
  if (unchanged !== undefined) return reuseImage(unchanged, inputs, identity, { ...tools, registry: published })

  const image = local
    ? await findImageInStore(local.text, setup.store, withRegistry, log)
    : await buildImage(call, evaluation, withRegistry, tools)
  const { storePath } = image
  checkLoadable(image.source, inputs.pushWith)
  return withReadableSource(image, call, tempFolder, log, async (found) => {
    phases.enter(push ? 'read and push' : 'read')
    const source = { ...found, platform }
    const check = (one: Pick<SourceImage, 'config'>) => checkPlatform(one, platform, system, source.path)
    const built = { system, platform, storePath, images: inputs.images, tag }
    if (!push) {
      const { config } = await withProgress(log, `reading ${source.path}`, () => checkImage(source))
      check({ config })
      return reportUnpushed(built, config, await comparing, inputs, tools)
    }
    const pushing = { source, images: inputs.images, tag, platform, check }
    const { compression, labels } = inputs
    const pushed = withRegistry
      ? await pushTested(
          { ...pushing, published: layerCache, compression, labels, storePath, tempFolder },
          { platform, published: contents, tempFolder, setup },
          inputs,
          tools,
        )
      : { ...(await pushWithDocker({ ...pushing, onWrite }, registry, log)), sbom: undefined }
    const { layers, info, images, sbom } = pushed
    const records = images.map((one) => recordOf(one, platform, storePath, info, inputs, sbom?.digest, identity))
    phases.enter('hand over')
    await handOver(records, inputs.retentionDays, workflow, log)
    return reportBuild(images, records, { ...built, sbom, traffic: layers && trafficOf(layers) }, phases)
  })
}

function tagOf(inputs: BuildInputs, revision: string, log: Log): string {
  const { tag, warning } = chooseTag(inputs, revision)
  if (warning) log.warning(warning)
  return tag
}

/** Pushes an image by digest, tests it and attaches its SBOM. Then moves its tag. */
async function pushTested(
  request: RegistryPush,
  describing: SbomSettings,
  inputs: BuildInputs,
  tools: Tools,
): Promise<PushedImage & { readonly sbom: PublishedSbom | undefined }> {
  const { registry, log } = tools
  const pending = inputs.sbom ? startSbom(request.source, describing, registry, log) : undefined
  const test = testOf(inputs, request.storePath, request.tempFolder, tools)
  let sbom: PublishedSbom | undefined
  const beforeTag: RegistryPush['beforeTag'] = async (images, contents) => {
    const [first] = images
    if (first !== undefined) await test(first.digest)
    sbom = await withProgress(log, 'collecting the SBOM', async () => pending?.attach(contents, images))
    if (sbom !== undefined) log.info(`Pushed the SBOM: ${sbom.digest}`)
  }
  return { ...(await pushImage({ ...request, beforeTag, onProgram: pending?.onProgram }, registry, log)), sbom }
}

function reportUnpushed(
  built: Omit<BuiltImage, 'pushed' | 'times'>,
  config: ImageConfig,
  published: ComparableImage | undefined,
  inputs: BuildInputs,
  { log, phases }: Tools,
): Result {
  log.info('Not pushing the image: `push` is `false`')
  if (inputs.test !== '') log.info('Not running `test`: it needs a pushed image')
  const changes = published && compareBuilt(published, { ...built, config }, log)
  if (changes !== undefined) logChanges(changes, log)
  const summary = summarizeBuild({ ...built, pushed: [], changes, times: phases.times() })
  return { outputs: { 'store-path': built.storePath }, summary }
}

/** Hands over a published image as if this run had built it. Updates its labels if they differ. */
async function reuseImage(
  found: UnchangedImage,
  inputs: BuildInputs,
  identity: BuildIdentity,
  tools: Tools,
): Promise<Result> {
  const { registry, log, phases } = tools
  phases.enter('read and push')
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
  const test = testOf(inputs, storePath, workflow.tempFolder, tools)
  let sbom: PublishedSbom | undefined
  const beforeTag = async (digest: Digest) => {
    await test(digest)
    if (inputs.sbom) sbom = await keepSbom(registry, published, image, images, workflow.tempFolder)
  }
  const copy = () => publishUnchanged(registry, image, images, tag, beforeTag)
  const sent = await withProgress(log, 'copying the image', copy)
  const kept = images.map((repository) => ({ ...image, repository }))
  const records = kept.map((one) => recordOf(one, platform, storePath, info, inputs, sbom?.digest, identity))
  phases.enter('hand over')
  await handOver(records, inputs.retentionDays, workflow, log)
  const layers = image.own.blobs.length - 1
  const traffic = { sent, total: compressedSize(image), layers, reusedLayers: layers }
  const reused = unchanged ? 'as-is' : 'relabelled'
  return reportBuild(kept, records, { system, platform, storePath, images, tag, reused, sbom, traffic }, phases)
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
  { log, phases }: Tools,
): (digest: Digest) => Promise<void> {
  return async (digest) => {
    if (script === '') return
    phases.enter('test')
    const image = `${first === undefined ? '' : formatRepository(first)}@${digest}`
    await testImage({ script, image, system, storePath }, tempFolder, log)
    phases.enter('read and push')
  }
}

function trafficOf(layers: readonly CompressedLayer[]): Traffic {
  const sent = layers.filter(({ reused }) => !reused)
  const reusedLayers = layers.length - sent.length
  return { sent: totalSize(sent), total: totalSize(layers), layers: layers.length, reusedLayers }
}

function reportBuild(
  pushed: readonly ImageManifest[],
  records: readonly DigestRecord[],
  built: Omit<BuiltImage, 'pushed' | 'times'>,
  phases: PhaseTimer,
): Result {
  const [first] = pushed
  if (first === undefined) throw new Error('inputs name at least one image')
  const { traffic } = built
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
    summary: summarizeBuild({ ...built, pushed, times: phases.times() }),
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
    hint: `No image was pushed. In the flake, use the \`pkgs\` of ${system} for packages.${system}. For cross-built images, also set \`architecture\` in dockerTools.`,
  })
}
