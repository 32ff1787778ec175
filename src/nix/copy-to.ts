import { dirname } from 'node:path'
import { NixError } from '../errors.ts'
import { formatFreeSpace, freeSpace } from '../fs/disk.ts'
import { lastLines } from '../text.ts'
import { explainBuildFailure } from './explain.ts'
import { attributeOf, storePlaceOf } from './installable.ts'
import { foreignOptions, type NixCall, runNix } from './nix.ts'
import { storeFolder } from './store-path.ts'

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
  const { installable, nixArgs, layout } = call
  // Nix would look for the attribute in a flake at that path, and Nix 2.8 also in the parent folders.
  if (storePlaceOf(installable) !== undefined)
    throw new NixError({
      message: `${installable.name} is a nix2container image, which can't be pushed by its path: the program that writes its layers is an attribute of the image`,
      hint: 'Set `installable` or `attribute` to the attribute of the image, for example:\n  attribute: server',
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
        ? `The result of nix2container's buildImage has an attribute \`copyTo\`. Let ${installable.name} be that result, not a wrapper around it.`
        : undefined) ??
      'The action runs this program with `nix run`. Check that `nix run` accepts the arguments in `nix-args`.',
  })
}
