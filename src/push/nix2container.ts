import { ActionError } from '../errors.ts'
import { ImageError } from '../image/image-error.ts'
import { type ImageSource, readImage } from '../image/source.ts'
import type { SourceImage } from '../image/source-image.ts'
import { type CopyCall, copyToLayout } from '../nix/copy-to.ts'

/**
 * Has nix2container's own program write an image, and holds what it wrote against the description that Nix built: which
 * program that is hangs on how the image was named.
 * @throws NixError where the program fails, ImageError where it writes another image
 */
export async function writeLayout({ path, diffIds = [] }: ImageSource, call: CopyCall): Promise<ImageSource> {
  await copyToLayout(call)
  const layout: ImageSource = { path: call.layout, root: call.layout, format: 'layout' }
  const { config } = await readWritten(layout, call)
  const difference = firstDifference(config.diffIds, diffIds)
  if (difference === undefined) return layout
  throw new ImageError({
    message: `The copyTo of ${call.installable.name} wrote another image than the one that Nix built, ${path}`,
    detail: difference,
    hint: `Nothing was pushed. Do ${call.installable.name} and its copyTo belong to the same image?`,
  })
}

/** Its errors name the program: the layout is gone when they are read. */
async function readWritten(layout: ImageSource, { installable }: CopyCall): Promise<SourceImage> {
  try {
    return await readImage(layout)
  } catch (error) {
    if (!(error instanceof ActionError)) throw error
    throw new ImageError({
      message: `The copyTo of ${installable.name} ended well, but wrote no whole OCI layout`,
      detail: error.message.replaceAll(layout.path, 'what it wrote'),
      hint: 'Nothing was pushed. Is its copyTo the one that nix2container makes?',
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
