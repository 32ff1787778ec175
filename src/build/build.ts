import { NoArtifactService, writeRecord } from '../artifacts.ts'
import { checkDocker } from '../docker/docker.ts'
import { ImageError } from '../image/image-error.ts'
import { findSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { BuildInputs } from '../inputs.ts'
import type { JobLog } from '../job-log.ts'
import type { Result, Tools } from '../mode.ts'
import { buildInstallable } from '../nix/build.ts'
import { installableOf } from '../nix/installable.ts'
import { platformOf } from '../nix/system.ts'
import { fits, type Platform, printPlatform } from '../oci/platform.ts'
import { printReference, printRepository } from '../oci/reference.ts'
import { type DigestRecord, printRecord } from '../record.ts'
import type { ImageManifest } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import type { Workflow } from '../workflow.ts'
import { bytesOf, checkImage } from './push.ts'
import { pushWithDocker } from './push-with-docker.ts'
import { pushWithRegistry } from './push-with-registry.ts'
import type { Pushed } from './pushing.ts'
import { findPublished, NOTHING_PUBLISHED } from './reuse.ts'
import { type BuiltImage, summarizeBuild } from './summary.ts'

/**
 * Builds one system's image with Nix, pushes it, and hands its digest to merge.
 * @throws Failure, before anything is pushed wherever the cause can be known by then
 */
export async function build(inputs: BuildInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { registry, log } = tools
  const { system, images, tag, push } = inputs
  const platform = platformOf(system)
  const looksForPublished = push && inputs.pushWith === 'registry'
  // Both before Nix builds: while its log is shown, the runner takes no commands, and so would mask no secret.
  const [published] = await Promise.all([
    looksForPublished ? findPublished(registry, inputs.reuseFrom, platform, log) : NOTHING_PUBLISHED,
    push && checkPushing(inputs, registry),
  ])

  const storePath = await buildWithNix(inputs, workflow, log)
  const source = await findSource(storePath)
  const check = (archive: SourceImage) => checkPlatform(archive, platform, system, storePath)
  const built = { system, platform, storePath }
  if (!push) {
    check(await checkImage(source))
    log.info('Nothing is pushed: `push` is `false`')
    return { outputs: { 'store-path': storePath }, summary: summarizeBuild({ ...built, pushed: [] }) }
  }

  const pushing = { source, images, tag, check }
  const pushed =
    inputs.pushWith === 'docker'
      ? await pushWithDocker(pushing, tools)
      : await pushWithRegistry({ ...inputs, ...pushing, platform, published, tempFolder: workflow.tempFolder }, tools)
  const records = pushed.images.map((image) => recordOf(image, platform, storePath, inputs, workflow))
  await handOver(records, inputs, workflow, log)
  return report(pushed, records, inputs, built)
}

function report(
  { images, layers }: Pushed,
  records: readonly DigestRecord[],
  { tag }: BuildInputs,
  built: Omit<BuiltImage, 'pushed'>,
): Result {
  const [first] = images
  if (first === undefined) throw new Error('nothing was pushed, though inputs name one image at least')
  const pushed = images.map(({ repository, digest }) => ({
    reference: tag === '' ? printRepository(repository) : printReference({ repository, tag }),
    digest,
  }))
  return {
    outputs: {
      digest: first.digest,
      image: `${printRepository(first.repository)}@${first.digest}`,
      record: records.map(printRecord).join('\n'),
      'store-path': built.storePath,
      ...(layers && {
        'pushed-bytes': String(bytesOf(layers.filter(({ reused }) => !reused))),
        'reused-layers': String(layers.filter(({ reused }) => reused).length),
      }),
    },
    summary: summarizeBuild({ ...built, pushed, ...(layers && { layers }) }),
  }
}

/** What can be known before a long build: that Docker runs, and that every registry lets this job push. */
async function checkPushing({ images, pushWith }: BuildInputs, registry: Registry): Promise<void> {
  if (pushWith === 'docker') await checkDocker()
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

function checkPlatform({ config }: SourceImage, wanted: Platform, system: string, storePath: string): void {
  if (fits(config, wanted)) return
  throw new ImageError({
    what: `The image is for ${printPlatform(config)}, and ${system} is ${printPlatform(wanted)}`,
    words: `the config in ${storePath} says "architecture": "${config.architecture}", "os": "${config.os}"`,
    help: `Nothing was pushed. Does the flake take \`pkgs\` for ${system} in packages.${system}? Cross-built images need \`architecture\` set in dockerTools, too.`,
  })
}

/** Where there is no artifact service the output is what is left, and the image is pushed all the same. */
async function handOver(
  records: readonly DigestRecord[],
  { retentionDays }: BuildInputs,
  { tempFolder }: Workflow,
  log: JobLog,
): Promise<void> {
  try {
    await log.group('Hand the digest over', async () => {
      for (const record of records) await writeRecord(record, retentionDays, tempFolder)
    })
  } catch (error) {
    if (!(error instanceof NoArtifactService)) throw error
    log.warning(error.message)
  }
}

function recordOf(
  { repository, digest, mediaType, size, platform: own }: ImageManifest,
  { os, architecture, variant = own.variant }: Platform,
  storePath: string,
  { system, labels, jobTotal, jobIndex }: BuildInputs,
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
    ...(Object.keys(labels).length === 0 && { plain: true }),
    job: {
      id: job,
      ...(jobTotal !== undefined && { total: jobTotal }),
      ...(jobIndex !== undefined && { index: jobIndex }),
    },
    run,
  }
}
