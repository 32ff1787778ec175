import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { DEFLATE_MODULE } from './deflate-module.ts'

/** The largest block, in bytes. */
export const BLOCK_LIMIT = 1024 * 1024

/** A compressed block. */
export interface DeflatedBlock {
  readonly compressed: Buffer
  /** The uncompressed block, in its original memory. */
  readonly block: Buffer
}

/**
 * Compresses a block into deflate blocks that others can be appended to: they end at a byte boundary, and none is final.
 * The output is deterministic.
 * @param block transferred to a worker, and empty afterwards; the result returns its memory
 * @param level from 1, the fastest, to 4, the smallest
 */
export type Deflate = (block: Buffer, level: number) => Promise<DeflatedBlock>

/** Compresses blocks on all cores. */
export interface DeflatePool {
  readonly compress: Deflate
  /** Ends all workers. Unfinished blocks fail. */
  close(): Promise<void>
}

/**
 * The largest useful number of workers: these compress faster than one thread reads, hashes and uploads. Each uses about
 * 20 MB of memory.
 */
const WORKERS_LIMIT = 4

/** Blocks that a worker is sent at once: one more than it compresses, so that it need not wait for the next one. */
const QUEUE_LIMIT = 2

interface Job {
  readonly block: Buffer
  readonly level: number
  readonly done: PromiseWithResolvers<DeflatedBlock>
}

/** A worker and its unfinished jobs, which it finishes in order. */
interface PoolWorker {
  readonly thread: Worker
  readonly jobs: Job[]
}

/** A block that a worker compresses. */
export interface DeflateRequest {
  /** Transferred to the worker. */
  readonly memory: ArrayBufferLike
  readonly offset: number
  readonly length: number
  readonly level: number
}

/** The response to a request, which returns its memory. */
interface DeflateResponse extends DeflateRequest {
  readonly compressed: ArrayBuffer
}

/**
 * Creates a pool of worker threads. Workers start on demand and keep the process from exiting only while they compress.
 * @param size the largest number of workers
 */
export function createDeflatePool(size = Math.min(availableParallelism(), WORKERS_LIMIT)): DeflatePool {
  const workers = new Set<PoolWorker>()
  const waiting: Job[] = []

  /** Sends waiting jobs to workers with a free place in their queues. */
  function distribute(): void {
    for (let worker = nextWorker(); worker !== undefined; worker = nextWorker()) {
      const job = waiting.shift()
      if (job !== undefined) send(worker, job)
    }
  }

  function nextWorker(): PoolWorker | undefined {
    if (waiting.length === 0) return undefined
    const leastBusy = [...workers].reduce<PoolWorker | undefined>(
      (best, worker) => (best === undefined || worker.jobs.length < best.jobs.length ? worker : best),
      undefined,
    )
    if (leastBusy === undefined || (leastBusy.jobs.length > 0 && workers.size < size)) return start()
    return leastBusy.jobs.length < QUEUE_LIMIT ? leastBusy : undefined
  }

  function start(): PoolWorker {
    const thread = new Worker(new URL('./deflate-worker.js', import.meta.url), {
      execArgv: [],
      workerData: deflateModule(),
    })
    const worker: PoolWorker = { thread, jobs: [] }
    workers.add(worker)
    thread.unref()
    thread.on('message', (response: DeflateResponse) => {
      finish(worker, response)
      distribute()
    })
    thread.on('error', (error) => end(worker, error))
    thread.on('exit', () => end(worker, new Error('a worker thread exited before it had compressed its blocks')))
    return worker
  }

  function end(worker: PoolWorker, error: unknown): void {
    workers.delete(worker)
    for (const { done } of worker.jobs.splice(0)) done.reject(error)
    distribute()
  }

  return {
    async compress(block, level) {
      if (block.length > BLOCK_LIMIT) throw new RangeError(`a block has at most ${BLOCK_LIMIT} bytes`)
      const done = Promise.withResolvers<DeflatedBlock>()
      waiting.push({ block, level, done })
      distribute()
      return done.promise
    },
    async close() {
      for (const { done } of waiting.splice(0)) done.reject(new Error('the pool was closed'))
      await Promise.all([...workers].map(({ thread }) => thread.terminate()))
    },
  }
}

function send({ thread, jobs }: PoolWorker, job: Job): void {
  const { buffer: memory, byteOffset: offset, length } = job.block
  const request: DeflateRequest = { memory, offset, length, level: job.level }
  try {
    thread.postMessage(request, memory instanceof ArrayBuffer ? [memory] : [])
  } catch (error) {
    // The memory can't be transferred, for example because it has been already.
    job.done.reject(error)
    return
  }
  thread.ref()
  jobs.push(job)
}

function finish({ thread, jobs }: PoolWorker, { memory, offset, length, compressed }: DeflateResponse): void {
  const job = jobs.shift()
  if (jobs.length === 0) thread.unref()
  job?.done.resolve({ compressed: Buffer.from(compressed), block: Buffer.from(memory, offset, length) })
}

let compiled: WebAssembly.Module | undefined

/** Returns the compressor of wasm/, compiled once for all workers. */
export function deflateModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(Buffer.from(DEFLATE_MODULE, 'base64'))
  return compiled
}
