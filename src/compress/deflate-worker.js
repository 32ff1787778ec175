// A worker thread of the pool. Plain JavaScript, because tsc does not rewrite the extension in the pool's URL of it.
import { parentPort, workerData } from 'node:worker_threads'

/**
 * The exports of wasm/deflate.ts.
 * @typedef {object} Exports
 * @property {WebAssembly.Memory} memory
 * @property {WebAssembly.Global} input
 * @property {WebAssembly.Global} output
 * @property {(length: number, level: number) => number} deflate
 */

const { memory, input, output, deflate } = /** @type {Exports} */ (new WebAssembly.Instance(workerData).exports)

parentPort?.on('message', (/** @type {import('./deflate-pool.ts').DeflateRequest} */ request) => {
  const block = new Uint8Array(request.memory, request.offset, request.length)
  new Uint8Array(memory.buffer).set(block, input.value)
  const size = deflate(block.length, request.level)
  const compressed = memory.buffer.slice(output.value, output.value + size)
  parentPort?.postMessage({ ...request, compressed }, [/** @type {ArrayBuffer} */ (request.memory), compressed])
})
