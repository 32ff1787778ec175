import { type ImageConfig, parseConfig } from '../oci/document.ts'
import { FormatError } from '../oci/format-error.ts'
import { damaged } from './source-image.ts'

/** Twice as many layers as Linux can stack: https://docs.kernel.org/filesystems/overlayfs.html (OVL_MAX_STACK). */
export const LAYERS_LIMIT = 1000

/** Says what is wrong with an image of so many layers, each of which is a request to the registry at least. */
export function tooManyLayers(count: number): string {
  return `it has ${count} layers, and no runtime runs an image with more than ${LAYERS_LIMIT}`
}

/**
 * Reads an image's config.
 * @param path of the image that it is in, for errors
 * @throws ImageError
 */
export function readConfig(bytes: Buffer, name: string, path: string): ImageConfig {
  const config = parse(bytes, name, path)
  if (config.diffIds.length > LAYERS_LIMIT) throw damaged(path, tooManyLayers(config.diffIds.length))
  return config
}

function parse(bytes: Buffer, name: string, path: string): ImageConfig {
  try {
    return parseConfig(bytes, `the config ${name}`)
  } catch (error) {
    if (error instanceof FormatError) throw damaged(path, error.parts.message, error)
    throw error
  }
}
