import { join } from 'node:path'
import { contentOf, openRegularFile, type RegularFile, readWhole, resolveWithin } from '../fs/regular-file.ts'
import type { Platform } from '../oci/platform.ts'
import { DOCUMENT_LIMIT, DOCUMENTS_LIMIT, isDocument } from './documents.ts'
import { imageOfLayout } from './oci-layout.ts'
import { type Contents, damagedImage, type ImageReader } from './source-image.ts'

/**
 * Reads an OCI layout in a folder. Yields only the files of the image's own layers, each once.
 * @param root as for `openRegularFile`
 * @param platform as for `imageOfLayout`
 * @throws ImageError
 */
export async function* readLayoutFolder(path: string, root: string, platform?: Platform): ImageReader {
  const image = await imageOfLayout(contentsOfFolder(path, root), path, platform)
  const sizes = new Map(image.layerNames.map((name, at) => [name, image.manifest?.layers[at]?.size ?? 0]))
  for (const [name, size] of sizes) yield { name, size, content: () => readFileWithin(join(path, name), root) }
  return image
}

async function* readFileWithin(path: string, root: string): AsyncGenerator<Buffer> {
  yield* contentOf(await openRegularFile(path, root), path)
}

/** Reads only the files that the image consists of. The folder may contain countless others. */
function contentsOfFolder(path: string, root: string): Contents {
  let read = 0
  async function open(name: string): Promise<RegularFile | undefined> {
    const place = await resolveWithin(join(path, name), root)
    return place === undefined ? undefined : openRegularFile(place, root)
  }
  return {
    async member(name) {
      const file = await open(name)
      await file?.handle.close()
      return file && { type: 'file', target: '', size: file.size }
    },
    async document(name) {
      const file = await open(name)
      try {
        if (file === undefined || file.size > DOCUMENT_LIMIT) return undefined
        read += file.size
        if (read > DOCUMENTS_LIMIT) throw damagedImage(path, `it contains more than ${DOCUMENTS_LIMIT} bytes of JSON`)
        const bytes = await readWhole(file, join(path, name))
        return isDocument(name, bytes) ? bytes : undefined
      } finally {
        await file?.handle.close()
      }
    },
  }
}
