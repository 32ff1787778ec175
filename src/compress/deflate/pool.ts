import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { BLOCK_LIMIT, deflateModule } from './deflate.ts'

/** A block that has been compressed. */
export interface Deflated {
  readonly compressed: Buffer
  /** The same memory and content as before, to be used again. */
  readonly block: Buffer
}

/** Compresses blocks on all cores. */
export interface DeflatePool {
  /**
   * Compresses a block as part of a deflate stream that the next block's result may follow: it ends on a byte's border,
   * and isn't the stream's end. The same block and level give the same bytes, always.
   * @param level 1, the fastest, to 9, the smallest
   * @param block has its memory for itself, and is empty from now on: its bytes come back with the result
   */
  compress(block: Buffer, level: number): Promise<Deflated>
  /** Ends all workers; what they have not finished fails. */
  close(): Promise<void>
}

/**
 * The most that there is work for: so many compress faster than one thread reads, hashes and uploads. Each has some
 * 20 MB of memory.
 */
const MOST_WORKERS = 4

/** One more than a worker can do at a time, so that it need not wait for this thread to have its next. */
const QUEUE = 2

interface Job {
  readonly block: Buffer
  readonly level: number
  readonly done: PromiseWithResolvers<Deflated>
}

/** A worker, and what it was sent, in the order in which it answers. */
interface Lane {
  readonly worker: Worker
  readonly jobs: Job[]
}

interface Request {
  readonly memory: ArrayBufferLike
  readonly offset: number
  readonly length: number
  readonly level: number
}

interface Answer extends Request {
  readonly compressed: ArrayBuffer
}

/** The program of a worker, which reads a `Request` and sends an `Answer`. A bundle has no place for a second file. */
const PROGRAM = `
const { parentPort, workerData } = require('node:worker_threads')
const { memory, input, output, deflate } = new WebAssembly.Instance(workerData).exports
parentPort.on('message', (request) => {
  const block = new Uint8Array(request.memory, request.offset, request.length)
  new Uint8Array(memory.buffer).set(block, input.value)
  const size = deflate(block.length, request.level)
  const compressed = memory.buffer.slice(output.value, output.value + size)
  parentPort.postMessage({ ...request, compressed }, [request.memory, compressed])
})
`

/**
 * Workers that compress, each on a thread of its own.
 * @param size how many workers there are at most. Each starts when there is something for it to do, and keeps the
 * process from ending only while it is at work.
 */
export function createDeflatePool(size = Math.min(availableParallelism(), MOST_WORKERS)): DeflatePool {
  const lanes = new Set<Lane>()
  const waiting: Job[] = []

  /** Sends what waits to workers that are free, or nearly so. */
  function distribute(): void {
    for (let lane = nextLane(); lane !== undefined; lane = nextLane()) {
      const job = waiting.shift()
      if (job !== undefined) send(lane, job)
    }
  }

  function nextLane(): Lane | undefined {
    if (waiting.length === 0) return undefined
    const least = [...lanes].reduce<Lane | undefined>(
      (best, lane) => (best === undefined || lane.jobs.length < best.jobs.length ? lane : best),
      undefined,
    )
    if (least === undefined || (least.jobs.length > 0 && lanes.size < size)) return start()
    return least.jobs.length < QUEUE ? least : undefined
  }

  function start(): Lane {
    const worker = new Worker(PROGRAM, { eval: true, execArgv: [], workerData: deflateModule() })
    const lane: Lane = { worker, jobs: [] }
    lanes.add(lane)
    worker.unref()
    worker.on('message', (answer: Answer) => {
      finish(lane, answer)
      distribute()
    })
    worker.on('error', (error) => end(lane, error))
    worker.on('exit', () => end(lane, new Error('A compressor ended before its work')))
    return lane
  }

  function end(lane: Lane, error: unknown): void {
    lanes.delete(lane)
    for (const { done } of lane.jobs.splice(0)) done.reject(error)
    distribute()
  }

  return {
    async compress(block, level) {
      if (block.length > BLOCK_LIMIT) throw new RangeError(`A block has ${BLOCK_LIMIT} bytes at most`)
      const done = Promise.withResolvers<Deflated>()
      waiting.push({ block, level, done })
      distribute()
      return done.promise
    },
    async close() {
      for (const { done } of waiting.splice(0)) done.reject(new Error('The compressors were closed'))
      await Promise.all([...lanes].map(({ worker }) => worker.terminate()))
    },
  }
}

function send({ worker, jobs }: Lane, job: Job): void {
  const { buffer: memory, byteOffset: offset, length } = job.block
  const request: Request = { memory, offset, length, level: job.level }
  try {
    worker.postMessage(request, memory instanceof ArrayBuffer ? [memory] : [])
  } catch (error) {
    // Memory that can't be given away, for somebody else has it.
    job.done.reject(error)
    return
  }
  worker.ref()
  jobs.push(job)
}

function finish({ worker, jobs }: Lane, { memory, offset, length, compressed }: Answer): void {
  const job = jobs.shift()
  if (jobs.length === 0) worker.unref()
  job?.done.resolve({ compressed: Buffer.from(compressed), block: Buffer.from(memory, offset, length) })
}
