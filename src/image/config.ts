import { type ImageConfig, parseConfig } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import { damaged } from './source-image.ts'

/**
 * Reads an image's config.
 * @param path of the image that it is in, for errors
 * @throws ImageError
 */
export function readConfig(bytes: Buffer, name: string, path: string): ImageConfig {
  try {
    return parseConfig(bytes, `the config ${name}`)
  } catch (error) {
    if (error instanceof FormatError) throw damaged(path, error.parts.what, error)
    throw error
  }
}
