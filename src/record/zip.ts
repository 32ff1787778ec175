import { unzipSync } from 'fflate'
import { formatBytes } from '../text.ts'

/** A file of a zip archive. */
export interface ZipFile {
  /** As in the archive: may be absolute and contain `..` or any character. */
  readonly path: string
  readonly content: Buffer
}

/**
 * Reads all files of a small zip archive into memory.
 * @param limit of the unpacked size of all files, in bytes
 * @throws Error if the files are larger or the archive is damaged
 */
export function readZip(archive: Uint8Array, limit: number): readonly ZipFile[] {
  let size = 0
  const files = unzipSync(archive, {
    // fflate unpacks no more of a file than the archive declares.
    filter({ name, originalSize }) {
      size += originalSize
      if (size > limit) throw new Error(`its unpacked size exceeds ${formatBytes(limit)}`)
      return !name.endsWith('/')
    },
  })
  return Object.entries(files).map(([path, content]) => ({ path, content: Buffer.from(content) }))
}
