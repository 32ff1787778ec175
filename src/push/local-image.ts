import { access, stat } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { FileError, ImageError, NixError } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { resolveWithin } from '../fs/regular-file.ts'
import { findSource } from '../image/source.ts'
import type { Log } from '../log.ts'
import { explainBuildFailure } from '../nix/explain.ts'
import { type Installable, storePlaceOf } from '../nix/installable.ts'
import { nixMissing } from '../nix/nix.ts'
import { isStorePath, storeFolder } from '../nix/store-path.ts'
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
  log: Log,
): Promise<Installable | undefined> {
  const path = await localPath(installable)
  if (path === undefined) return undefined
  const { name } = installable
  const place = await placeWithin(path, name)
  await checkFormat(place, name)
  const storePath = await addToStore(place, name, runnerSystem)
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

async function addToStore(place: string, name: string, runnerSystem: string): Promise<string> {
  // Not `nix store add-path`, which reads the whole file into memory in Nix 2.8.
  const result = await runCommand('nix-store', ['--add', place], { trust: 'nix' })
  if (result === undefined) throw nixMissing()
  const storePath = result.stdout.trim()
  if (result.exitCode === 0 && isStorePath(storePath)) return storePath
  const space = formatFreeSpace(await freeSpace([storeFolder()]))
  throw new NixError({
    message: `Nix could not add ${name} to its store`,
    detail: lastLines(result.log, 20),
    hint: explainBuildFailure(result.log, { runnerSystem, space }),
  })
}
