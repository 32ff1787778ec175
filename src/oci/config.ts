import * as v from 'valibot'
import { DIGEST, type Digest } from './digest.ts'
import { parseDocument, STRINGS } from './manifest.ts'
import { PLATFORM, type Platform } from './platform.ts'

/** The fields of an image config that this action reads: https://github.com/opencontainers/image-spec/blob/main/config.md */
export interface ImageConfig extends Platform {
  readonly diffIds: readonly Digest[]
  readonly labels: Readonly<Record<string, string>>
}

/**
 * Parses an image config.
 * @param name the name of the document in errors
 * @throws FormatError
 */
export function parseConfig(bytes: Uint8Array, name: string): ImageConfig {
  const config = parseDocument(CONFIG, bytes, name, 'image config')
  return {
    os: config.os,
    architecture: config.architecture,
    ...(config.variant && { variant: config.variant }),
    diffIds: config.rootfs.diff_ids,
    labels: config.config?.Labels ?? {},
  }
}

const CONFIG = v.object({
  ...PLATFORM.entries,
  config: v.nullish(v.object({ Labels: STRINGS })),
  rootfs: v.object({ diff_ids: v.array(DIGEST) }),
})
