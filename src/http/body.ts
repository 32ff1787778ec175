import { Readable } from 'node:stream'

/** An answer that did not arrive in time. Trying again may help. */
export class LateAnswer extends Error {
  override readonly name = 'LateAnswer'
  readonly code = 'ETIMEDOUT'
}

/**
 * Reads a whole body.
 * @param limit the most bytes it may have
 * @param timeout for the whole of it, in milliseconds
 * @returns nothing where the body is longer
 * @throws LateAnswer
 */
export async function readWhole(body: Readable, limit: number, timeout: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  const length = await collect(body, limit + 1, timeout, chunks)
  return length > limit ? undefined : Buffer.concat(chunks, length)
}

/** Reads the first `limit` bytes of a body, or those that arrive within `timeout` milliseconds. */
export async function readStart(body: Readable, limit: number, timeout: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  // A body that breaks off or stalls may have said enough.
  await collect(body, limit, timeout, chunks).catch(() => undefined)
  return Buffer.concat(chunks).subarray(0, limit)
}

/** Adds a body's chunks to `chunks` until it ends or they have `enough` bytes. Returns how many bytes they have. */
async function collect(body: Readable, enough: number, timeout: number, chunks: Buffer[]): Promise<number> {
  const late = new LateAnswer(`the answer did not arrive within ${timeout / 1000} s`)
  const timer = setTimeout(() => body.destroy(late), timeout)
  let length = 0
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      length += chunk.length
      // Leaving the loop destroys the stream, and with it the connection: nothing waits for the rest.
      if (length >= enough) break
    }
    return length
  } finally {
    clearTimeout(timer)
  }
}

/** The largest part of a body that is sent at a time: slow connections take it within any time limit. */
const SLICE = 64 * 1024

/** Limits how long the other side may go without progress. */
export interface Watchdog {
  /** The other side has to make progress from now on. */
  start(): void
  /** This side has to. */
  stop(): void
}

/**
 * Returns a body to send in place of another, which it closes with itself.
 * @param watchdog runs while the receiver takes bytes, not while they are made, and goes on when the body has ended
 */
export function watchBody(body: Readable, watchdog: Watchdog): Readable {
  async function* slices(): AsyncGenerator<Buffer> {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      for (let start = 0; start < chunk.length; start += SLICE) {
        watchdog.start()
        yield chunk.subarray(start, start + SLICE)
        watchdog.stop()
      }
    }
    watchdog.start()
  }
  const watched = Readable.from(slices(), { objectMode: false })
  watched.once('close', () => body.destroy())
  return watched
}

/** A body that is slower than this many bytes per timeout has stalled. */
const LEAST_PROGRESS = 1024

/**
 * Reads a body of any size, chunk by chunk.
 * @param timeout how long 1 KiB may take, in milliseconds; the time that the reader takes does not count
 * @throws LateAnswer where the transfer stalls
 */
export async function* readSteadily(body: Readable, timeout: number): AsyncGenerator<Buffer> {
  const stalled = new LateAnswer(`the transfer stalled: less than 1 KiB arrived within ${timeout / 1000} s`)
  const chunks: AsyncIterator<Buffer> = body[Symbol.asyncIterator]()
  let received = 0
  let waited = 0
  try {
    while (true) {
      const start = performance.now()
      const timer = setTimeout(() => body.destroy(stalled), timeout - waited)
      const next = await chunks.next().finally(() => clearTimeout(timer))
      if (next.done) return
      received += next.value.length
      waited += performance.now() - start
      if (received >= LEAST_PROGRESS) {
        received = 0
        waited = 0
      }
      yield next.value
    }
  } finally {
    body.destroy()
  }
}
