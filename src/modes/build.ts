import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { JobLog } from '../actions/log.ts'
import type { BuildInfo } from '../cache/build-info.ts'
import { findPublished } from '../cache/layers.ts'
import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged, type UnchangedImage } from '../cache/unchanged.ts'
import type { Workflow } from '../context.ts'
import { checkDocker, PUSH_STRAIGHT } from '../docker/docker.ts'
import { formatFreeSpace, freeSpace, MORE_SPACE, shortOfSpace } from '../fs/disk.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import { ImageError } from '../image/image-error.ts'
import { findSource, type ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { BuildInputs } from '../inputs/inputs.ts'
import { adviseOnSettings, buildInstallable, storeFolder } from '../nix/build.ts'
import { type Installable, installableOf } from '../nix/installable.ts'
import { checkPrerequisites } from '../nix/preflight.ts'
import { platformOf } from '../nix/system.ts'
import { fits, formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, formatRepository } from '../oci/reference.ts'
import { checkImage } from '../push/check-image.ts'
import { publishUnchanged, relabel } from '../push/keep.ts'
import { addLocalImage } from '../push/local-image.ts'
import { writeLayout } from '../push/nix2container.ts'
import { pushWithDocker } from '../push/push-with-docker.ts'
import { pushWithRegistry } from '../push/push-with-registry.ts'
import { bytesOf, type PushedLayer } from '../push/pushing.ts'
import { checkTag, chooseTag } from '../push/tag.ts'
import { NoArtifactService, writeRecord } from '../record/artifacts.ts'
import { writeJobRecord } from '../record/job-records.ts'
import { type DigestRecord, serializeRecord } from '../record/record.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { settleAll } from '../settle-all.ts'
import { type BuiltImage, summarizeBuild } from './build-summary.ts'
import type { Result, Tools } from './mode.ts'
import { findRevision } from './revision.ts'

/**
 * Builds one system's image with Nix, pushes it, and hands its digest to merge. What is published already, of the same
 * store path, is neither built nor pushed.
 * @throws Failure, before anything is pushed wherever the cause can be known by then
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
  // All before Nix builds: while its log is shown, the runner takes no commands, and so would mask no secret.
  const pushable = push ? checkPushing(inputs, tag, platform, registry) : Promise.resolve()
  const format = inputs.pushWith === 'registry' ? inputs.compression.format : undefined
  const question = { ...inputs, installable, format, runnerSystem: workflow.runnerSystem }
  const earlier = push ? readPreviousImages(registry, inputs.reuseFrom, log) : Promise.resolve([])
  const [published, unchanged] = await Promise.all([
    earlier.then((read) => findPublished(registry, inputs.pushWith === 'registry' ? read : [], platform, log)),
    earlier.then((read) => lookForUnchanged(question, read, registry, log, pushable)),
    pushable,
  ])
  if (unchanged !== undefined) return keep(unchanged, inputs, identity, tools)

  const storePath = local?.text ?? (await buildWithNix(installable, inputs, workflow, log))
  const check = (image: SourceImage) => checkPlatform(image, platform, system, storePath)
  const source = { ...(await findSource(storePath)), platform }
  return withReadable(source, installable, inputs, workflow, log, async (source) => {
    const built = { system, platform, storePath }
    if (!push) {
      check(await checkImage(source))
      log.info('Nothing is pushed: `push` is `false`')
      return { outputs: { 'store-path': storePath }, summary: summarizeBuild({ ...built, pushed: [] }) }
    }
    const pushing = { source, images: inputs.images, tag, platform, check }
    const pushed =
      inputs.pushWith === 'docker'
        ? await pushWithDocker(pushing, tools)
        : await pushWithRegistry(
            {
              ...pushing,
              published,
              compression: inputs.compression,
              labels: inputs.labels,
              storePath,
              tempFolder: workflow.tempFolder,
            },
            tools,
          )
    const { layers, info } = pushed
    const records = pushed.images.map((image) => recordOf(image, platform, storePath, info, inputs, identity))
    await handOver(records, inputs, workflow, log)
    return report(pushed.images, records, tag, { ...built, ...(layers && { layers }) }, layers && trafficOf(layers))
  })
}

/** What a build is known by: its commit, which is empty if unknown, its tag, and the run. */
interface BuildIdentity {
  readonly revision: string
  /** Empty: the image is pushed by digest alone. */
  readonly tag: string
  readonly workflow: Workflow
}

/** Hands over an image that needs no build, as if it had just been pushed; where its labels say other things, with those. */
async function keep(
  found: UnchangedImage,
  inputs: BuildInputs,
  identity: BuildIdentity,
  { registry, log }: Tools,
): Promise<Result> {
  const { system, images } = inputs
  const { tag, workflow } = identity
  const platform = platformOf(system)
  const {
    image: there,
    info: { storePath },
  } = found
  log.info(`Nothing to build: ${formatRepository(there.repository)}@${there.digest} is of ${storePath}`)
  const asked = inputs.pushWith === 'registry' ? inputs.compression.format : undefined
  const { image, info } = await relabel(registry, found, inputs.labels, asked)
  const unchanged = image.digest === there.digest
  if (!unchanged) log.info(`With the labels of this run it is ${image.digest}; its layers are the same`)
  const sent = await publishUnchanged(registry, image, images, tag)
  const kept = images.map((repository) => ({ ...image, repository }))
  const records = kept.map((one) => recordOf(one, platform, storePath, info, inputs, identity))
  await handOver(records, inputs, workflow, log)
  const built = { system, platform, storePath, kept: unchanged ? 'whole' : 'relabelled' } as const
  return report(kept, records, tag, built, { sent, reusedLayers: image.own.blobs.length - 1 })
}

/** Has what nix2container describes written as an OCI layout, which is there while `work` runs. */
async function withReadable(
  source: ImageSource,
  installable: Installable,
  { system, nixArgs, pushWith }: BuildInputs,
  { tempFolder, runnerSystem }: Workflow,
  log: JobLog,
  work: (source: ImageSource) => Promise<Result>,
): Promise<Result> {
  if (pushWith === 'docker' && (source.format === 'layout' || source.format === 'nix2container'))
    throw new ImageError({
      message: `Docker can't load ${source.path}, which is ${source.format === 'layout' ? 'an OCI layout' : "nix2container's"}`,
      hint: PUSH_STRAIGHT,
    })
  if (source.format !== 'nix2container') return work(source)
  return withTempFolder(tempFolder, async (folder) => {
    const layout = join(folder, 'layout')
    const call = { installable, nixArgs, system, runnerSystem, layout }
    return work(await log.foreignGroup(`Have ${installable.name} write its layers`, () => writeLayout(source, call)))
  })
}

interface Traffic {
  /** In bytes. */
  readonly sent: number
  readonly reusedLayers: number
}

function trafficOf(layers: readonly PushedLayer[]): Traffic {
  const sent = layers.filter(({ reused }) => !reused)
  return { sent: bytesOf(sent), reusedLayers: layers.length - sent.length }
}

/** @param traffic absent where Docker pushed: it does not tell */
function report(
  images: readonly ImageManifest[],
  records: readonly DigestRecord[],
  tag: string,
  built: Omit<BuiltImage, 'pushed'>,
  traffic: Traffic | undefined,
): Result {
  const [first] = images
  if (first === undefined) throw new Error('nothing was pushed, though inputs name one image at least')
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
      unchanged: String(built.kept === 'whole'),
      ...(traffic && { 'pushed-bytes': String(traffic.sent), 'reused-layers': String(traffic.reusedLayers) }),
    },
    summary: summarizeBuild({ ...built, pushed }),
  }
}

/** What can be known before a long build: that Docker runs, and that every registry lets this job push, also to the tag. */
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
  const { storePath, ignoredSettings } = await log.foreignGroup(title, () => buildInstallable(call))
  log.info(`Nix built ${storePath}`)
  if (ignoredSettings.length > 0) log.info(adviseOnSettings(ignoredSettings))
  await logDiskSpace('after', folders, log, short)
  return storePath
}

/**
 * Says what is free on the disks, and warns where that is little.
 * @param warned whether it has been warned of already
 * @returns whether it is little
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
    message: `The image is for ${formatPlatform(config)}, and ${system} is ${formatPlatform(wanted)}`,
    detail: `the config in ${storePath} says "architecture": "${config.architecture}", "os": "${config.os}"`,
    hint: `Nothing was pushed. Does the flake take \`pkgs\` for ${system} in packages.${system}? Cross-built images need \`architecture\` set in dockerTools, too.`,
  })
}

/** Hands records to the merge. Without an artifact service, they are in the job's folder and in the output. */
async function handOver(
  records: readonly DigestRecord[],
  { retentionDays }: BuildInputs,
  { tempFolder }: Workflow,
  log: JobLog,
): Promise<void> {
  await settleAll(records.map((record) => writeJobRecord(record, tempFolder)))
  try {
    await log.group('Hand the digest over', async () => {
      await settleAll(records.map((record) => writeRecord(record, retentionDays, tempFolder)))
    })
  } catch (error) {
    if (!(error instanceof NoArtifactService)) throw error
    const { detail, hint } = error.parts
    log.info(
      `This runner has no artifact service (${detail}). A merge in this job finds the digest. For a merge in another job: ${hint}`,
    )
  }
}

/** @param info what the image's manifest says; absent where Docker wrote it */
function recordOf(
  { repository, digest, mediaType, size, platform: own }: ImageManifest,
  { os, architecture, variant: ownVariant = own.variant }: Platform,
  storePath: string,
  info: BuildInfo | undefined,
  inputs: BuildInputs,
  { revision, workflow: { run, job } }: BuildIdentity,
): DigestRecord {
  const { system, variant, jobTotal, jobIndex } = inputs
  return {
    schema: 1,
    image: formatRepository(repository),
    system,
    platform: { os, architecture, ...(ownVariant !== undefined && { variant: ownVariant }) },
    digest,
    mediaType,
    size,
    storePath,
    ...(info && { labels: info.labels }),
    ...(info?.compression && { compression: info.compression }),
    ...(variant !== '' && { variant }),
    ...(revision !== '' && { revision }),
    job: {
      id: job,
      inputs: hashInputs(inputs),
      ...(jobTotal !== undefined && { total: jobTotal }),
      ...(jobIndex !== undefined && { index: jobIndex }),
    },
    run,
  }
}

/** A hash of the inputs that say what to build. It is the same for each attempt of a job, unlike the values of labels. */
function hashInputs({ flake, attribute, installable, file, nixArgs, tag, labels }: BuildInputs): string {
  const text = JSON.stringify([flake, attribute, installable, file, nixArgs, tag, Object.keys(labels)])
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}
