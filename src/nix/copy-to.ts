import { dirname } from 'node:path'
import { lastLines } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { storeFolder } from './build.ts'
import { explainBuildFailure } from './explain.ts'
import { attributeOf, placeOf } from './installable.ts'
import { foreignOptions, type NixCall, runNix } from './nix.ts'
import { NixError } from './nix-error.ts'

export interface CopyCall extends NixCall {
  /** Where the layout is to be; it must not be there yet. */
  readonly layout: string
}

/**
 * Has the program that belongs to an image of nix2container write it as an OCI layout: its layers are not for other code
 * to make. Source: https://github.com/nlewo/nix2container#isolate-dependencies-in-dedicated-layers
 * @throws NixError where there is no way to the program, or it fails
 */
export async function copyToLayout(call: CopyCall): Promise<void> {
  const { installable, nixArgs, layout } = call
  // Nix takes an attribute of a path for one of a flake there, and Nix 2.8 for one of a flake in the folders above.
  if (placeOf(installable) !== undefined)
    throw new NixError({
      message: `${installable.name} is an image of nix2container, and from a path there is no way to the program that writes its layers`,
      hint: 'Name the attribute of the image: `installable: .#server` for example, or `attribute: server`.',
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
  const { exitCode, log } = await runNix(args, true, 'script')
  if (exitCode === 0) return
  const space = formatFreeSpace(await freeSpace([storeFolder(), dirname(layout)]))
  throw new NixError({
    message: `${program.name} could not write the image as an OCI layout`,
    detail: lastLines(log, 20),
    hint:
      explainBuildFailure(log, { ...call, space }) ??
      (/attribute '[^']*copyTo/.test(log)
        ? `What nix2container's buildImage returns has a copyTo. Let ${installable.name} be that itself, not something around it.`
        : undefined) ??
      'nix2container gives each image this program; `nix-args` must be such as `nix run` takes, too.',
  })
}
