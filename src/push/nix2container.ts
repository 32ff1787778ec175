import { ActionError, ImageError } from '../errors.ts'
import { readImage } from '../image/open-image.ts'
import type { ImageSource } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import { type CopyCall, copyToLayout } from '../nix/copy-to.ts'

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
