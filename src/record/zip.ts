import { unzipSync } from 'fflate'
import { formatBytes } from '../units.ts'

/** A file of a zip archive. */
export interface ZipFile {
  /** As the archive has it: it may be absolute, or have `..` or any other character in it. */
  readonly path: string
  readonly content: Buffer
}

/**
 * Reads all files of a small zip archive into memory. Nothing is written to disk.
 * @param limit the largest size of all files together, unpacked, in bytes
 * @throws Error if they are larger, or the archive is damaged
 */
export function readZip(archive: Uint8Array, limit: number): readonly ZipFile[] {
  let size = 0
  const files = unzipSync(archive, {
    // fflate unpacks no more of a file than the archive says that it has.
    filter({ name, originalSize }) {
      size += originalSize
      if (size > limit) throw new Error(`unpacked, it has more than ${formatBytes(limit)}`)
      return !name.endsWith('/')
    },
  })
  return Object.entries(files).map(([path, content]) => ({ path, content: Buffer.from(content) }))
}
