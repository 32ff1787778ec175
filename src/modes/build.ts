import { join } from 'node:path'
import { MORE_SPACE } from '../advice.ts'
import { findPublished } from '../cache/layers.ts'
import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged, type UnchangedImage } from '../cache/unchanged.ts'
import type { Workflow } from '../context.ts'
import { checkDocker, PUSH_WITHOUT_DOCKER } from '../docker/docker.ts'
import { ImageError } from '../errors.ts'
import { formatFreeSpace, freeSpace, shortOfSpace } from '../fs/disk.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import { findSource, type ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { JobLog } from '../log.ts'
import { buildInstallable } from '../nix/build.ts'
import { explainIgnoredSettings } from '../nix/explain.ts'
import { type Installable, installableOf } from '../nix/installable.ts'
import { checkPrerequisites } from '../nix/preflight.ts'
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
  const { system, push } = inputs
  const platform = platformOf(system)
  const asked = installableOf(inputs, workflow.runnerSystem)
  const local = await addLocalImage(asked, workflow.runnerSystem, log)
  const installable = local ?? asked
  const revision = push ? await findRevision(inputs, workflow, log) : ''
  const { tag, warning } = push ? chooseTag(inputs, revision) : { tag: '' }
  if (warning) log.warning(warning)
  const identity = { revision, tag, workflow }
  // Log in before the build: while Nix's log is shown, the runner ignores commands, including those that mask secrets.
  const pushable = push ? checkPushing(inputs, tag, platform, registry) : Promise.resolve()
  const format = inputs.pushWith === 'registry' ? inputs.compression.format : undefined
  const question = { ...inputs, installable, format, runnerSystem: workflow.runnerSystem }
  const earlier = push ? readPreviousImages(registry, inputs.reuseFrom, log) : Promise.resolve([])
  const [published, unchanged] = await Promise.all([
    earlier.then((read) => findPublished(registry, inputs.pushWith === 'registry' ? read : [], platform, log)),
    earlier.then((read) => lookForUnchanged(question, read, registry, log, pushable)),
    pushable,
  ])
  if (unchanged !== undefined) return reuseImage(unchanged, inputs, identity, tools)

  const storePath = local?.text ?? (await buildWithNix(installable, inputs, workflow, log))
  const check = (image: SourceImage) => checkPlatform(image, platform, system, storePath)
  const source = { ...(await findSource(storePath)), platform }
  return withReadableSource(source, installable, inputs, workflow, log, async (source) => {
    const built = { system, platform, storePath }
    if (!push) {
      check(await checkImage(source))
      log.info('Not pushing the image: `push` is `false`')
      return { outputs: { 'store-path': storePath }, summary: summarizeBuild({ ...built, pushed: [] }) }
    }
    const pushing = { source, images: inputs.images, tag, platform, check }
    const pushed =
      inputs.pushWith === 'docker'
        ? await pushWithDocker(pushing, registry, log)
        : await pushImage(
            {
              ...pushing,
              published,
              compression: inputs.compression,
              labels: inputs.labels,
              storePath,
              tempFolder: workflow.tempFolder,
            },
            registry,
            log,
          )
    const { layers, info } = pushed
    const records = pushed.images.map((image) => recordOf(image, platform, storePath, info, inputs, identity))
    await handOver(records, inputs.retentionDays, workflow.tempFolder, log)
    return reportBuild(
      pushed.images,
      records,
      tag,
      { ...built, ...(layers && { layers }) },
      layers && trafficOf(layers),
    )
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

/** Has nix2container write its image as an OCI layout, which exists while `work` runs. */
async function withReadableSource(
  source: ImageSource,
  installable: Installable,
  { system, nixArgs, pushWith }: BuildInputs,
  { tempFolder, runnerSystem }: Workflow,
  log: JobLog,
  work: (source: ImageSource) => Promise<Result>,
): Promise<Result> {
  if (pushWith === 'docker' && (source.format === 'layout' || source.format === 'nix2container'))
    throw new ImageError({
      message: `Docker can't load ${source.path}, which is ${source.format === 'layout' ? 'an OCI layout' : 'an image of nix2container'}`,
      hint: PUSH_WITHOUT_DOCKER,
    })
  if (source.format !== 'nix2container') return work(source)
  return withTempFolder(tempFolder, async (folder) => {
    const layout = join(folder, 'layout')
    const call = { installable, nixArgs, system, runnerSystem, layout }
    return work(await log.groupToolOutput(`Write the layers of ${installable.name}`, () => writeLayout(source, call)))
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

async function buildWithNix(
  installable: Installable,
  { system, nixArgs }: BuildInputs,
  { tempFolder, runnerSystem }: Workflow,
  log: JobLog,
): Promise<string> {
  const folders = [storeFolder(), tempFolder]
  const call = { installable, nixArgs, system, runnerSystem, folders }
  const short = await logDiskSpace('before', folders, log)
  const { warnings, notes } = await checkPrerequisites(call)
  for (const warning of warnings) log.warning(warning)
  for (const note of notes) log.info(note)
  const title = `Build ${installable.name} for ${system}`
  const { storePath, ignoredSettings } = await log.groupToolOutput(title, () => buildInstallable(call))
  log.info(`Nix built ${storePath}`)
  if (ignoredSettings.length > 0) log.info(explainIgnoredSettings(ignoredSettings))
  await logDiskSpace('after', folders, log, short)
  return storePath
}

/**
 * Logs the free disk space. Warns if it is low, unless that has been done.
 * @returns whether it is low
 */
async function logDiskSpace(when: string, folders: readonly string[], log: JobLog, warned = false): Promise<boolean> {
  const disks = await freeSpace(folders)
  log.info(`Disk space ${when} the build: ${formatFreeSpace(disks)}`)
  const short = shortOfSpace(disks)
  if (short.length > 0 && !warned)
    log.warning(`The disk is nearly full ${when} the build: ${formatFreeSpace(short)}. ${MORE_SPACE}`)
  return short.length > 0
}

function checkPlatform({ config }: SourceImage, wanted: Platform, system: string, storePath: string): void {
  if (fits(config, wanted)) return
  throw new ImageError({
    message: `The image is for ${formatPlatform(config)}, but ${system} is ${formatPlatform(wanted)}`,
    detail: `the config in ${storePath} says "architecture": "${config.architecture}", "os": "${config.os}"`,
    hint: `Nothing was pushed. In the flake, use the \`pkgs\` of ${system} for packages.${system}. For cross-built images, also set \`architecture\` in dockerTools.`,
  })
}
