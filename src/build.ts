import { loginStep } from './advice.ts'
import { writeRecord } from './artifacts.ts'
import { checkDocker, loadedImage, loadImage, pushImage, tagImage } from './docker/docker.ts'
import type { DockerArchive } from './image/docker-archive.ts'
import { ImageError } from './image/image-error.ts'
import { findSource, type ImageSource, readImage } from './image/source.ts'
import type { BuildInputs } from './inputs.ts'
import type { JobLog } from './job-log.ts'
import type { Result, Tools } from './mode.ts'
import { buildInstallable } from './nix/build.ts'
import { installableOf } from './nix/installable.ts'
import { platformOf } from './nix/system.ts'
import { fits, type Platform, printPlatform } from './oci/platform.ts'
import { printRepository, type Repository } from './oci/reference.ts'
import { type DigestRecord, printRecord } from './record.ts'
import { fetchImage, type PublishedImage } from './registry/image.ts'
import type { Registry } from './registry/registry.ts'
import { RegistryError } from './registry/registry-error.ts'
import { summarizeBuild } from './summary.ts'
import type { Workflow } from './workflow.ts'

/**
 * Builds one system's image with Nix, pushes it, and hands its digest to merge.
 * @throws Failure, before anything is pushed wherever the cause can be known by then
 */
export async function build(inputs: BuildInputs, workflow: Workflow, { registry, log }: Tools): Promise<Result> {
  const platform = platformOf(inputs.system)
  if (inputs.push) await checkPushing(inputs.images, registry)

  const storePath = await buildWithNix(inputs, workflow, log)
  const source = await findSource(storePath)
  const archive = inputs.push ? await load(source, log) : await readImage(source)
  checkPlatform(archive, platform, inputs.system, storePath)
  const built = { system: inputs.system, platform, storePath }
  if (!inputs.push) {
    log.info('Nothing is pushed: `push` is `false`')
    return { outputs: { 'store-path': storePath }, summary: summarizeBuild({ ...built, pushed: [] }) }
  }

  const name = await loadedImage(archive.configDigest, archive.names)
  const pushed: PublishedImage[] = []
  for (const image of inputs.images) pushed.push(await push(name, image, inputs.tag, archive, { registry, log }))
  const records = pushed.map((image) => recordOf(image, platform, storePath, inputs, workflow))
  await log.group('Hand the digest over', async () => {
    for (const record of records) await writeRecord(record, inputs.retentionDays, workflow.tempFolder)
  })

  const references = pushed.map(({ repository, digest }) => ({
    reference: `${printRepository(repository)}:${inputs.tag}`,
    digest,
  }))
  return {
    outputs: {
      digest: pushed[0]?.digest ?? '',
      image: pushed[0] ? `${printRepository(pushed[0].repository)}@${pushed[0].digest}` : '',
      record: records.map(printRecord).join('\n'),
      'store-path': storePath,
    },
    summary: summarizeBuild({ ...built, pushed: references }),
  }
}

/** What can be known before a long build: that Docker runs, and that every registry lets this job push. */
async function checkPushing(images: readonly Repository[], registry: Registry): Promise<void> {
  await checkDocker()
  await Promise.all(images.map((image) => registry.checkPush(image)))
}

async function buildWithNix(inputs: BuildInputs, { runnerSystem }: Workflow, log: JobLog): Promise<string> {
  const { system, nixArgs } = inputs
  const installable = installableOf(inputs)
  const storePath = await log.foreignGroup(`Build ${installable} for ${system}`, () =>
    buildInstallable({ installable, nixArgs, system, runnerSystem }),
  )
  log.info(`Nix built ${storePath}`)
  return storePath
}

/** Docker gets the image's bytes while they are read here, so that a script that streams them runs once. */
async function load(source: ImageSource, log: JobLog): Promise<DockerArchive> {
  log.info(`Docker loads ${source.path}`)
  return loadImage((stdin) => readImage(source, stdin))
}

function checkPlatform({ config }: DockerArchive, wanted: Platform, system: string, storePath: string): void {
  if (fits(config, wanted)) return
  throw new ImageError({
    what: `The image is for ${printPlatform(config)}, and ${system} is ${printPlatform(wanted)}`,
    words: `the config in ${storePath} says "architecture": "${config.architecture}", "os": "${config.os}"`,
    help: `Nothing was pushed. Does the flake take \`pkgs\` for ${system} in packages.${system}? Cross-built images need \`architecture\` set in dockerTools, too.`,
  })
}

async function push(
  name: string,
  image: Repository,
  tag: string,
  archive: DockerArchive,
  { registry, log }: Tools,
): Promise<PublishedImage> {
  const reference = `${printRepository(image)}:${tag}`
  await tagImage(name, reference)
  const loginHelp = `Log in before this step:\n${loginStep(image.host)}`
  const digest = await log.foreignGroup(`Push ${reference}`, () => pushImage(reference, loginHelp))
  const published = await fetchImage(registry, image, digest)
  // The daemon may have been told of another image by that name in the meantime, by another job for example.
  if (published.configDigest !== archive.configDigest)
    throw new RegistryError({
      host: image.host,
      problem: 'other',
      what: `${reference} is not the image that Nix built`,
      words: `its config is ${published.configDigest}, and should be ${archive.configDigest}`,
      help: 'Another job may have used the same Docker daemon at the same time. Run this job again; no tag that users pull has moved.',
    })
  log.info(`${reference} is ${published.digest}`)
  return published
}

function recordOf(
  { repository, digest, mediaType, size, platform: own }: PublishedImage,
  { os, architecture, variant = own.variant }: Platform,
  storePath: string,
  { system, jobTotal }: BuildInputs,
  { run, job }: Workflow,
): DigestRecord {
  return {
    schema: 1,
    image: printRepository(repository),
    system,
    platform: { os, architecture, ...(variant !== undefined && { variant }) },
    digest,
    mediaType,
    size,
    storePath,
    job: { id: job, ...(jobTotal !== undefined && { total: jobTotal }) },
    run,
  }
}
