import { parentPort, workerData } from 'node:worker_threads';
const { memory, input, output, deflate } = (new WebAssembly.Instance(workerData).exports);
parentPort?.on('message', (request) => {
    const block = new Uint8Array(request.memory, request.offset, request.length);
    new Uint8Array(memory.buffer).set(block, input.value);
    const size = deflate(block.length, request.level);
    const compressed = memory.buffer.slice(output.value, output.value + size);
    parentPort?.postMessage({ ...request, compressed }, [(request.memory), compressed]);
});
