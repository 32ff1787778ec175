import { readFile, stat } from 'node:fs/promises'
import * as v from 'valibot'
import { lastLines } from '../failure.ts'
import { printBytes } from '../units.ts'
import { type BuildContext, explainBuildFailure } from './explain.ts'
import { attributeOf, type Installable } from './installable.ts'
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

const DESCRIPTION = v.pipe(
  v.string(),
  v.parseJson(),
  v.object({ 'image-config': v.looseObject({}), layers: v.array(v.unknown()) }),
)

/**
 * Has the program that belongs to an image of nix2container write it as an OCI layout: its layers are not for other code
 * to make. Source: https://github.com/nlewo/nix2container#isolate-dependencies-in-dedicated-layers
 * @throws NixError where what Nix built is JSON, but no such description, or the program fails
 */
export async function copyToLayout(call: CopyCall): Promise<void> {
  const { installable, nixArgs, description, layout } = call
  const { size } = await stat(description)
  const parsed = v.safeParse(DESCRIPTION, size > DESCRIPTION_LIMIT ? undefined : await readFile(description, 'utf8'))
  if (!parsed.success)
    throw new NixError({
      what: `${description} is no image`,
      words: `it begins like JSON, and is not what nix2container's buildImage makes: ${size > DESCRIPTION_LIMIT ? `it has ${printBytes(size)}` : parsed.issues[0].message}`,
      help: 'Build an image, with dockerTools.buildLayeredImage or nix2container.buildImage for example.',
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
  if (exitCode === 0) return
  throw new NixError({
    what: `${program.name} could not write the image as an OCI layout`,
    words: lastLines(log, 20),
    help:
      explainBuildFailure(log, call) ??
      'nix2container gives each image this program. Where the installable is a store path, name the attribute instead; `nix-args` must be such as `nix run` takes, too.',
  })
}
