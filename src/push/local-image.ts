import { access, stat } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { ActionError, FileError, ImageError, NixError } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { resolveWithin } from '../fs/regular-file.ts'
import { readImage } from '../image/open-image.ts'
import { findSource, type ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import type { Log } from '../log.ts'
import { explainBuildFailure } from '../nix/explain.ts'
import { attributeOf, type Installable, storePlaceOf } from '../nix/installable.ts'
import { nixMissing, runNix } from '../nix/nix.ts'
import type { NixCall, NixSetup } from '../nix/setup.ts'
import { isStorePath } from '../nix/store-path.ts'
import { runCommand } from '../process/command.ts'
import { lastLines } from '../text.ts'

/**
 * Copies an image that is on disk already, as an archive or an OCI layout, into the Nix store. The store path identifies
 * its content, so that an unchanged image is recognized, and its links can't lead out of the store. The copy takes a few
 * seconds per gigabyte.
 * @returns the store path, or undefined if the installable is for Nix to build
 * @throws ImageError if a file is not an archive of an image, NixError if Nix can't add it
 */
export async function addLocalImage(
  installable: Installable,
  runnerSystem: string,
  setup: NixSetup,
  log: Log,
): Promise<Installable | undefined> {
  const path = await localPath(installable)
  if (path === undefined) return undefined
  const { name } = installable
  const place = await placeWithin(path, name)
  await checkFormat(place, name)
  const storePath = await addToStore(place, name, runnerSystem, setup)
  log.info(`${name} is an image already, so Nix does not build it. It was added to the Nix store as ${storePath}`)
  return { options: [], text: storePath, name }
}

/** Returns the path of a regular file, or of a folder with an OCI layout. Nix handles the rest, such as folders with a flake. */
async function localPath(installable: Installable): Promise<string | undefined> {
  const { options, text } = installable
  if (options.length > 0 || text.includes('#') || FLAKE_ID.test(text) || storePlaceOf(installable) !== undefined)
    return undefined
  const path = resolve(text)
  const found = await stat(path).catch(() => undefined)
  if (found?.isFile()) return path
  if (!found?.isDirectory() || (await exists(join(path, 'flake.nix')))) return undefined
  return (await exists(join(path, 'oci-layout'))) ? path : undefined
}

/** A name in Nix's flake registry, which Nix does not look up on disk. */
const FLAKE_ID = /^[A-Za-z][\w-]*$/

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** Resolves links, which may lead anywhere in the workspace; for a file outside of it, anywhere in the file's folder. */
async function placeWithin(path: string, name: string): Promise<string> {
  const workspace = process.cwd()
  const root = relative(workspace, path).startsWith('..') ? dirname(path) : workspace
  try {
    return (await resolveWithin(path, root)) ?? path
  } catch (error) {
    if (!(error instanceof FileError)) throw error
    throw new FileError({
      message: `The input \`installable\` is "${name}", a link that leads out of ${root}`,
      hint: 'Nothing was read. Copy the file to where the link is.',
      cause: error,
    })
  }
}

/** Refuses a script or an image of nix2container, which are images only as the result of a build. */
async function checkFormat(place: string, name: string): Promise<void> {
  const { format } = await findSource(place)
  if (format !== 'script' && format !== 'nix2container') return
  throw new ImageError({
    message: `The input \`installable\` is "${name}", which is ${format === 'script' ? 'a script' : 'JSON'}, not an archive of an image`,
    hint: 'Name an archive or an OCI layout. For a script that streams an image, or an image of nix2container, name the attribute that Nix builds it from.',
  })
}

async function addToStore(
  place: string,
  name: string,
  runnerSystem: string,
  { store, storeOptions }: NixSetup,
): Promise<string> {
  // Not `nix store add-path`, which reads the whole file into memory in Nix 2.8.
  const result = await runCommand('nix-store', [...storeOptions, '--add', place], { trust: 'no-secrets' })
  if (result === undefined) throw nixMissing()
  const storePath = result.stdout.trim()
  if (result.exitCode === 0 && isStorePath(storePath)) return storePath
  const space = formatFreeSpace(await freeSpace([store.place]))
  throw new NixError({
    message: `Nix could not add ${name} to its store`,
    detail: lastLines(result.log, 20),
    hint: explainBuildFailure(result.log, { runnerSystem, space }),
  })
}

/**
 * Runs nix2container's own program, which writes the image as an OCI layout, and compares the layout with the description
 * that Nix built: the program is found by the name of the image, and could belong to another one.
 * @throws NixError if the program fails, ImageError if it writes another image
 */
export async function writeLayout({ path, diffIds = [] }: ImageSource, call: CopyCall): Promise<ImageSource> {
  await copyToLayout(call)
  const layout: ImageSource = { path: call.layout, root: call.layout, format: 'layout' }
  const { config } = await readWritten(layout, call)
  const difference = firstDifference(config.diffIds, diffIds)
  if (difference === undefined) return layout
  throw new ImageError({
    message: `The copyTo of ${call.installable.name} did not write the image that Nix built, ${path}`,
    detail: difference,
    hint: `Nothing was pushed. Check that ${call.installable.name} and its copyTo belong to the same image.`,
  })
}

/** Reads the layout. Errors name the program, because the layout is deleted afterwards. */
async function readWritten(layout: ImageSource, { installable }: CopyCall): Promise<SourceImage> {
  try {
    return await readImage(layout)
  } catch (error) {
    if (!(error instanceof ActionError)) throw error
    throw new ImageError({
      message: `The copyTo of ${installable.name} succeeded, but did not write a complete OCI layout`,
      detail: error.message.replaceAll(layout.path, 'the layout'),
      hint: 'Nothing was pushed. Use the copyTo that nix2container adds to the image.',
      cause: error,
    })
  }
}

function firstDifference(written: readonly string[], described: readonly string[]): string | undefined {
  if (written.length !== described.length)
    return `it has ${written.length} layers, and the description lists ${described.length}`
  const at = written.findIndex((diffId, index) => diffId !== described[index])
  return at < 0 ? undefined : `its layer ${at + 1} is ${written[at]}, and the description lists ${described[at]} there`
}

export interface CopyCall extends NixCall {
  /** The path of the layout, which must not exist yet. */
  readonly layout: string
}

/**
 * Writes a nix2container image as an OCI layout. Runs the image's own program (`copyTo`), because only nix2container can
 * create its layers. Source: https://github.com/nlewo/nix2container#isolate-dependencies-in-dedicated-layers
 * @throws NixError if the image is given as a path instead of an attribute, or if the program fails
 */
export async function copyToLayout(call: CopyCall): Promise<void> {
  const { installable, nixArgs, setup, layout } = call
  // Nix would look for the attribute in a flake at that path, and Nix 2.8 also in the parent folders.
  if (storePlaceOf(installable) !== undefined)
    throw new NixError({
      message: `${installable.name} is a nix2container image, which can't be pushed by its path: the program that writes its layers is an attribute of the image`,
      hint: 'Set `installable` or `attribute` to the attribute of the image, for example:\n  attribute: server',
    })
  const program = attributeOf(installable, 'copyTo')
  const args = [
    'run',
    ...setup.platformOptions,
    ...nixArgs,
    ...program.options,
    program.text,
    '--',
    // Otherwise, skopeo compresses all layers, also those that need not be pushed.
    '--dest-oci-accept-uncompressed-layers',
    `oci:${layout}:image`,
  ]
  const { exitCode, log } = await runNix(args, true, { trust: 'no-logins' })
  if (exitCode === 0) return
  const space = formatFreeSpace(await freeSpace([setup.store.place, dirname(layout)]))
  throw new NixError({
    message: `${program.name} could not write the image as an OCI layout`,
    detail: lastLines(log, 20),
    hint:
      explainBuildFailure(log, { ...call, space }) ??
      (/attribute '[^']*copyTo/.test(log)
        ? `The result of nix2container's buildImage has an attribute \`copyTo\`. Let ${installable.name} be that result, not a wrapper around it.`
        : undefined) ??
      'The action runs this program with `nix run`. Check that `nix run` accepts the arguments in `nix-args`.',
  })
}
