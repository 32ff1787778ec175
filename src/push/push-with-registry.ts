import type { Tools } from '../modes/mode.ts'
import { formatReference, formatRepository } from '../oci/reference.ts'
import { formatBytes } from '../units.ts'
import { type PushCall, pushImage } from './push.ts'
import { bytesOf, type Pushed, type PushedLayer } from './pushing.ts'

/** Pushes an image straight from what Nix built, without a daemon. */
export async function pushWithRegistry(call: PushCall, { registry, log }: Tools): Promise<Pushed> {
  const { images, tag } = call
  const pushed = await pushImage(call, registry, log)
  const { image, manifest, layers, info, milliseconds } = pushed
  log.info(`${summarizeLayers(layers)} in ${(milliseconds / 1000).toFixed(1)} s`)
  for (const repository of images) {
    const name = tag === '' ? formatRepository(repository) : formatReference({ repository, tag })
    log.info(`${name} is ${manifest.digest}`)
  }
  const { os, architecture, variant } = image.config
  const platform = { os, architecture, ...(variant !== undefined && { variant }) }
  const { digest, mediaType, bytes } = manifest
  return {
    images: images.map((repository) => ({ repository, digest, mediaType, size: bytes.length, platform })),
    layers,
    info,
  }
}

/** `60 layers: 58 reused, 2 pushed (3.1 MB of 221 MB)` */
export function summarizeLayers(layers: readonly PushedLayer[]): string {
  const pushed = layers.filter(({ reused }) => !reused)
  const count = layers.length === 1 ? '1 layer' : `${layers.length} layers`
  const bytes = `${formatBytes(bytesOf(pushed))} of ${formatBytes(bytesOf(layers))}`
  return `${count}: ${layers.length - pushed.length} reused, ${pushed.length} pushed (${bytes})`
}
