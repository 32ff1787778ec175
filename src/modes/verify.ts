import { readPublishedPlatform } from '../changes/published-platform.ts'
import { compareWithPublished, serializeDifferences } from '../changes/verification.ts'
import type { Workflow } from '../context.ts'
import type { VerifyInputs } from '../inputs/verify.ts'
import { withProgress } from '../log.ts'
import { evaluateImage } from '../nix/evaluate.ts'
import type { NixBuildCall } from '../nix/failure.ts'
import { installableOf } from '../nix/installable.ts'
import { readNixSetup } from '../nix/setup.ts'
import { platformOf } from '../nix/system.ts'
import { formatPlatform } from '../oci/platform.ts'
import { formatReference } from '../oci/reference.ts'
import { readHead } from '../process/git.ts'
import { checkImage } from '../push/check.ts'
import { addLocalImage } from '../push/local-image.ts'
import { buildImage, findImageInStore, withReadableSource } from './build-image.ts'
import type { Result, Tools } from './mode.ts'
import { sourceFolder } from './revision.ts'
import { summarizeVerification, verificationFailure } from './verify-report.ts'

/**
 * Builds the image of one system with Nix, and compares it with the published one. Publishes nothing.
 * @throws ActionError if the images can't be compared
 */
export async function verify(inputs: VerifyInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { registry, log, phases } = tools
  const { reference, system } = inputs
  const platform = platformOf(system)
  phases.enter('check access')
  // First, because a build may take long.
  const published = await readPublishedPlatform(registry, reference, platform)
  const name = `${formatReference(reference)} for ${formatPlatform(platform)}`
  log.info(`${name} is ${published.image.digest}${published.revision ? `, from commit ${published.revision}` : ''}`)
  const revision = await findBuiltRevision(inputs)
  if (revision !== undefined) log.info(`Commit ${revision} is checked out`)
  const { storePath, config } = await buildConfig(inputs, workflow, tools)
  const { differences, addedLabels } = compareWithPublished(published.image.configBytes, config, published.addedLabels)
  const report = { reference, system, platform, published, revision, storePath, differences, addedLabels }
  const failure = differences.length === 0 ? undefined : verificationFailure(report)
  if (failure === undefined) log.info(`Verified: ${name} is the image that this source builds`)
  return {
    outputs: { verified: String(failure === undefined), differences: serializeDifferences(differences) },
    summary: summarizeVerification(report, phases.times()),
    ...(failure && { failure }),
  }
}

/** Returns the commit that is checked out, undefined if Nix fetches the source. */
async function findBuiltRevision(inputs: VerifyInputs): Promise<string | undefined> {
  const folder = sourceFolder(inputs)
  return folder === undefined ? undefined : readHead(folder)
}

/** An image that Nix has built and whose layers were checked. */
interface CheckedBuild {
  readonly storePath: string
  readonly config: Buffer
}

async function buildConfig(
  inputs: VerifyInputs,
  { runnerSystem, tempFolder }: Workflow,
  { log, phases }: Tools,
): Promise<CheckedBuild> {
  const { system, nixArgs } = inputs
  const requested = installableOf(inputs, runnerSystem)
  const setup = await readNixSetup({ system, runnerSystem }, nixArgs)
  log.info(`Using ${setup.version}`)
  const local = await addLocalImage(requested, runnerSystem, setup, log)
  const folders = [setup.store.place, tempFolder]
  const call: NixBuildCall = { installable: local ?? requested, nixArgs, system, runnerSystem, setup, folders }
  if (local === undefined) phases.enter('evaluate')
  const evaluation = local === undefined ? await evaluateImage(call, log) : undefined
  const image = local
    ? await findImageInStore(local.text, setup.store, true, log)
    : await buildImage(call, evaluation, true, { log, phases })
  return withReadableSource(image, call, tempFolder, log, async (source) => {
    phases.enter('read')
    const read = () => checkImage(source, platformOf(system))
    const { configBytes } = await withProgress(log, `reading ${source.path}`, read)
    return { storePath: image.storePath, config: configBytes }
  })
}
