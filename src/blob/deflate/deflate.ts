import { DEFLATE_MODULE } from './module.ts'

/** The most bytes that can be compressed at once. */
export const BLOCK_LIMIT = 1024 * 1024

/** Compresses blocks, one at a time. */
export interface Deflater {
  /**
   * Compresses a block as part of a deflate stream that the next block's result may follow: it ends on a byte's border,
   * and isn't the stream's end. The same block and level give the same bytes, always.
   * @param level 1, the fastest, to 9, the smallest
   */
  deflate(block: Uint8Array, level: number): Uint8Array<ArrayBuffer>
}

/** What wasm/deflate.ts exports. */
interface Exports {
  readonly memory: WebAssembly.Memory
  readonly input: WebAssembly.Global
  readonly output: WebAssembly.Global
  readonly deflate: (length: number, level: number) => number
}

let compiled: WebAssembly.Module | undefined

/** The compressor's code, which workers can be given. */
export function deflateModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(Buffer.from(DEFLATE_MODULE, 'base64'))
  return compiled
}

export function createDeflater(): Deflater {
  const { exports } = new WebAssembly.Instance(deflateModule())
  const { memory, input, output, deflate } = exports as Exports
  const bytes = new Uint8Array(memory.buffer)
  return {
    deflate(block, level) {
      if (block.length > BLOCK_LIMIT) throw new RangeError(`A block has ${BLOCK_LIMIT} bytes at most`)
      bytes.set(block, input.value)
      return bytes.slice(output.value, output.value + deflate(block.length, level))
    },
  }
}
