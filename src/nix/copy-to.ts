import { readFile, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import * as v from 'valibot'
import { freeSpace, printFreeSpace } from '../disk.ts'
import { lastLines } from '../failure.ts'
import { readLayoutFolder } from '../image/oci-layout.ts'
import { printBytes } from '../units.ts'
import { storeFolder } from './build.ts'
import { type BuildContext, explainBuildFailure } from './explain.ts'
import { attributeOf, type Installable, placeOf } from './installable.ts'
import { foreignOptions, runNix } from './nix.ts'
import { NixError } from './nix-error.ts'

export interface CopyCall extends BuildContext {
  readonly installable: Installable
  /** More arguments for Nix. */
  readonly nixArgs: readonly string[]
  /** What Nix built: nix2container's description of the image. */
  readonly description: string
  /** Where the layout is to be; it must not be there yet. */
  readonly layout: string
}

/** In bytes; a description lists store paths, of which an image has some thousands at most. */
const DESCRIPTION_LIMIT = 64 * 1024 * 1024

/**
 * The config that is written has the layers' `diff_ids` as they are here: https://github.com/nlewo/nix2container, Layer
 * in types/types.go, getV1Image in nix/image.go.
 */
const DESCRIPTION = v.pipe(
  v.string(),
  v.parseJson(),
  v.object({ 'image-config': v.looseObject({}), layers: v.array(v.object({ diff_ids: v.string() })) }),
)

/**
 * Has the program that belongs to an image of nix2container write it as an OCI layout: its layers are not for other code
 * to make. Source: https://github.com/nlewo/nix2container#isolate-dependencies-in-dedicated-layers
 * @throws NixError where what Nix built is JSON, but no such description, or the program fails or writes another image
 */
export async function copyToLayout(call: CopyCall): Promise<void> {
  const { installable, nixArgs, description, layout } = call
  const diffIds = await readDescription(description)
  // Nix takes an attribute of a path for one of a flake there, and Nix 2.8 for one of a flake in the folders above.
  if (placeOf(installable) !== undefined)
    throw new NixError({
      what: `${installable.name} is an image of nix2container, and from a path there is no way to the program that writes its layers`,
      help: 'Name the attribute of the image: `installable: .#server` for example, or `attribute: server`.',
    })
  const program = attributeOf(installable, 'copyTo')
  const args = [
    'run',
    ...foreignOptions(call),
    ...nixArgs,
    ...program.options,
    program.text,
    '--',
    `oci:${layout}:image`,
  ]
  const { exitCode, log } = await runNix(args, true)
  if (exitCode !== 0) {
    const space = printFreeSpace(await freeSpace([storeFolder(), dirname(layout)]))
    throw new NixError({
      what: `${program.name} could not write the image as an OCI layout`,
      words: lastLines(log, 20),
      help:
        explainBuildFailure(log, { ...call, space }) ??
        'nix2container gives each image this program; `nix-args` must be such as `nix run` takes, too.',
    })
  }
  const { config } = await readLayoutFolder(layout)
  const difference = firstDifference(config.diffIds, diffIds)
  if (difference === undefined) return
  throw new NixError({
    what: `${program.name} wrote another image than the one that Nix built, ${description}`,
    words: difference,
    help: `Nothing was pushed. Do ${installable.name} and its copyTo belong to the same image?`,
  })
}

/** @returns the diff IDs of the layers that it lists, in their order */
async function readDescription(path: string): Promise<readonly string[]> {
  const { size } = await stat(path)
  const parsed = v.safeParse(DESCRIPTION, size > DESCRIPTION_LIMIT ? undefined : await readFile(path, 'utf8'))
  if (parsed.success) return parsed.output.layers.map((layer) => layer.diff_ids)
  throw new NixError({
    what: `${path} is no image`,
    words: `it begins like JSON, and is not what nix2container's buildImage makes: ${size > DESCRIPTION_LIMIT ? `it has ${printBytes(size)}` : parsed.issues[0].message}`,
    help: 'Build an image, with dockerTools.buildLayeredImage or nix2container.buildImage for example.',
  })
}

function firstDifference(written: readonly string[], described: readonly string[]): string | undefined {
  if (written.length !== described.length)
    return `it has ${written.length} layers, and the description lists ${described.length}`
  const at = written.findIndex((diffId, index) => diffId !== described[index])
  return at < 0 ? undefined : `its layer ${at + 1} is ${written[at]}, and the description lists ${described[at]} there`
}
