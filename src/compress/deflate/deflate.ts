import { DEFLATE_MODULE } from './module.ts'

/** The most bytes that can be compressed at once. */
export const BLOCK_LIMIT = 1024 * 1024

let compiled: WebAssembly.Module | undefined

/** The compressor's code, which workers can be given. */
export function deflateModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(Buffer.from(DEFLATE_MODULE, 'base64'))
  return compiled
}
