import { join } from 'node:path'
import { MORE_SPACE } from '../advice.ts'
import { ImageError } from '../errors.ts'
import { formatFreeSpace, freeSpace, shortOfSpace } from '../fs/disk.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import { descriptionOfScript, NotDescribed, readLayeredImage, readNix2containerImage } from '../image/layered-image.ts'
import { findSource, type ImageSource } from '../image/source.ts'
import type { JobLog } from '../log.ts'
import { type Built, buildDerivation, buildInstallable } from '../nix/build.ts'
import { unrelatedDescription } from '../nix/derivation.ts'
import type { Evaluation } from '../nix/evaluate.ts'
import { explainIgnoredSettings } from '../nix/explain.ts'
import type { NixBuildCall } from '../nix/failure.ts'
import { checkPrerequisites } from '../nix/preflight.ts'
import { placeOnDisk, type StoreFolder } from '../nix/store-path.ts'
import { writeLayout } from '../push/local-image.ts'
import type { Tools } from './mode.ts'

/** An image that Nix has built. */
export interface NixImage {
  /** The store path of the installable. */
  readonly storePath: string
  readonly source: ImageSource
  /** Builds the complete image, if `source` is only its description. */
  readonly complete?: () => Promise<ImageSource>
}

/**
 * Builds an image with Nix. Of a layered image of dockerTools, builds only the description and the store paths that it
 * names, from which this action makes the layers itself.
 * @param evaluation undefined if only `nix build` interprets the installable
 * @param mayDescribe whether the description is enough. Docker needs the complete image
 * @throws NixError, ImageError
 */
export async function buildImage(
  call: NixBuildCall,
  evaluation: Evaluation | undefined,
  mayDescribe: boolean,
  { log, phases }: Pick<Tools, 'log' | 'phases'>,
): Promise<NixImage> {
  phases.enter('fetch and build')
  const short = await logDiskSpace('before', call.folders, log)
  const { warnings, notes } = await checkPrerequisites(call, evaluation)
  for (const warning of warnings) log.warning(warning)
  for (const note of notes) log.info(note)
  const { name } = call.installable
  if (evaluation !== undefined) logIgnoredSettings(evaluation.ignoredSettings, log)
  const complete = () => {
    // Again, if the description turns out not to be enough.
    phases.enter('fetch and build')
    return runLogged(name, call, evaluation, log, () =>
      evaluation ? buildDerivation(call, evaluation) : buildInstallable(call),
    )
  }
  const isDescribed = evaluation !== undefined && (evaluation.conf ?? evaluation.stream) !== undefined
  const described = mayDescribe && isDescribed ? await buildDescribed(call, evaluation, log) : undefined
  const storePath = described?.storePath ?? (await complete())
  await logDiskSpace('after', call.folders, log, short)
  return described
    ? { ...described, complete: async () => sourceInStore(await complete(), call.setup.store) }
    : findImageInStore(storePath, call.setup.store, mayDescribe && !isDescribed, log)
}

/** Returns an image that is in the Nix store already. */
export async function findImageInStore(
  storePath: string,
  store: StoreFolder,
  mayDescribe: boolean,
  log: JobLog,
): Promise<NixImage> {
  const source = await sourceInStore(storePath, store)
  const described = mayDescribe ? await readDescribed(source, store, log) : undefined
  return described ? { storePath, source: described, complete: async () => source } : { storePath, source }
}

function sourceInStore(storePath: string, store: StoreFolder): Promise<ImageSource> {
  const path = placeOnDisk(storePath, store)
  // A Nix that was compiled with another store folder does not report it in its settings.
  return path.startsWith(`${store.place}/`) ? findSource(path, store.place) : findSource(path)
}

/** Builds the description of an image. Returns undefined if it is not enough. */
async function buildDescribed(
  call: NixBuildCall,
  evaluation: Evaluation,
  log: JobLog,
): Promise<Pick<NixImage, 'storePath' | 'source'> | undefined> {
  const { storePath } = evaluation
  if (storePath === undefined) return undefined
  try {
    return { storePath, source: await buildDescription(call, evaluation, log) }
  } catch (error) {
    logNotDescribed(error, call.installable.name, log)
    return undefined
  }
}

async function buildDescription(call: NixBuildCall, evaluation: Evaluation, log: JobLog): Promise<ImageSource> {
  const { conf, stream } = evaluation
  const { store } = call.setup
  const unrelated = await unrelatedDescription(evaluation, store)
  if (unrelated !== undefined) throw new NotDescribed(unrelated)
  const build = (derivation: string) =>
    runLogged(`the layers of ${call.installable.name}`, call, evaluation, log, () =>
      buildDerivation(call, { ...evaluation, derivation, output: 'out' }),
    )
  if (conf !== undefined) return readLayeredImage(await build(conf), store)
  // Versions of nixpkgs without `conf` name the description only in the script.
  return readLayeredImage(await descriptionOfScript(await build(stream ?? ''), store), store)
}

/** Returns an image whose layers this action can make itself, from what the image's script or JSON names. */
async function readDescribed(
  { path, format }: ImageSource,
  store: StoreFolder,
  log: JobLog,
): Promise<ImageSource | undefined> {
  try {
    if (format === 'script') return await readLayeredImage(await descriptionOfScript(path, store), store)
    return format === 'nix2container' ? await readNix2containerImage(path, store) : undefined
  } catch (error) {
    logNotDescribed(error, path, log)
    return undefined
  }
}

/**
 * Runs `work` with the image. Runs it again with the complete image if the description is not enough. Of nix2container,
 * the complete image is a layout, which exists while `work` runs.
 * @param tempFolder where the layout is written
 */
export async function withReadableSource<Outcome>(
  { source, complete }: Pick<NixImage, 'source' | 'complete'>,
  call: NixBuildCall,
  tempFolder: string,
  log: JobLog,
  work: (source: ImageSource) => Promise<Outcome>,
): Promise<Outcome> {
  const { name } = call.installable
  if (complete !== undefined) {
    try {
      return await work(source)
    } catch (error) {
      logNotDescribed(error, name, log)
      return withReadableSource({ source: await complete() }, call, tempFolder, log, work)
    }
  }
  if (source.format === 'script') checkRunnable(source.path, call.setup.store)
  if (source.format !== 'nix2container') return work(source)
  return withTempFolder(tempFolder, async (folder) => {
    const copy = { ...call, layout: join(folder, 'layout') }
    const title = `Write the layers of ${name}`
    return work(await log.groupToolOutput(title, () => writeLayout(source, copy)))
  })
}

/** Checks that a script can run: the programs that it names are in the store, and only Nix finds them below another root. */
function checkRunnable(path: string, { name, place }: StoreFolder): void {
  if (place === name) return
  throw new ImageError({
    message: `${path} is a script that runs programs in ${name}, but the Nix store of this runner is ${place}`,
    hint: 'Build the image with dockerTools.buildLayeredImage.',
  })
}

/** Logs why an image is built in full. Rethrows any other error. */
function logNotDescribed(error: unknown, name: string, log: JobLog): void {
  if (!(error instanceof NotDescribed)) throw error
  log.info(`Using the complete image ${name} instead of its description, because ${error.message}`)
}

async function runLogged(
  what: string,
  { system }: NixBuildCall,
  evaluation: Evaluation | undefined,
  log: JobLog,
  build: () => Promise<Built>,
): Promise<string> {
  const { storePath, ignoredSettings } = await log.groupToolOutput(`Build ${what} for ${system}`, build)
  log.info(`Nix built ${storePath}`)
  logIgnoredSettings(
    ignoredSettings.filter((name) => !evaluation?.ignoredSettings.includes(name)),
    log,
  )
  return storePath
}

/** Logs settings that Nix ignores, as a notice if it does not use a cache for that reason. */
function logIgnoredSettings(names: readonly string[], log: JobLog): void {
  if (names.length === 0) return
  if (names.some((name) => /substituters$|trusted-public-keys$/.test(name))) log.notice(explainIgnoredSettings(names))
  else log.info(explainIgnoredSettings(names))
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
