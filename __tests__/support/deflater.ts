import { BLOCK_LIMIT, deflateModule } from '../../src/compress/deflate-pool.ts'

/** The exports of wasm/deflate.ts. */
interface Exports {
  readonly memory: WebAssembly.Memory
  readonly input: WebAssembly.Global
  readonly output: WebAssembly.Global
  readonly deflate: (length: number, level: number) => number
}

/** Compresses in this thread, synchronously, like a worker of the pool. */
export function createDeflater(): (block: Uint8Array, level: number) => Uint8Array<ArrayBuffer> {
  const { exports } = new WebAssembly.Instance(deflateModule())
  const { memory, input, output, deflate } = exports as unknown as Exports
  const bytes = new Uint8Array(memory.buffer)
  return (block, level) => {
    if (block.length > BLOCK_LIMIT) throw new RangeError('The block is larger than the compressor’s buffer')
    bytes.set(block, input.value)
    return bytes.slice(output.value, output.value + deflate(block.length, level))
  }
}
