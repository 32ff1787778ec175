import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'

/** An answer that did not arrive in time. May be retried. */
export class LateAnswer extends Error {
  override readonly name = 'LateAnswer'
  readonly code = 'ETIMEDOUT'
}

/**
 * Reads a whole body.
 * @param limit the maximum size in bytes
 * @param timeout for the whole body, in milliseconds
 * @returns undefined if the body is larger
 * @throws LateAnswer
 */
export async function readBody(body: Readable, limit: number, timeout: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  const length = await collectChunks(body, limit + 1, timeout, chunks)
  return length > limit ? undefined : Buffer.concat(chunks, length)
}

/** Reads the first `limit` bytes of a body, or those that arrive within `timeout` milliseconds. */
export async function readBodyStart(body: Readable, limit: number, timeout: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  // The beginning of a body that breaks off or stalls may suffice.
  await collectChunks(body, limit, timeout, chunks).catch(() => undefined)
  return Buffer.concat(chunks).subarray(0, limit)
}

/** Adds a body's chunks to `chunks` until the body ends or they have `enough` bytes. Returns their size in bytes. */
async function collectChunks(body: Readable, enough: number, timeout: number, chunks: Buffer[]): Promise<number> {
  const late = new LateAnswer(`the answer did not arrive within ${timeout / 1000} s`)
  const timer = setTimeout(() => body.destroy(late), timeout)
  let length = 0
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      length += chunk.length
      // Leaving the loop destroys the stream and its connection, so that nothing waits for the rest.
      if (length >= enough) break
    }
    return length
  } finally {
    clearTimeout(timer)
  }
}

/** The size of the parts in which a body is sent, in bytes. Even slow connections send one within the timeout. */
const SLICE = 64 * 1024

/** Limits how long a server may go without progress. */
export interface Watchdog {
  /** Called when progress depends on the server. */
  start(): void
  /** Called when progress depends on this process. */
  stop(): void
}

/**
 * Wraps a body so that a watchdog runs while the server accepts bytes, but not while they are produced. The watchdog keeps
 * running after the end of the body. Closing the wrapper closes the body.
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

/** The least number of bytes per timeout. A slower body has stalled. */
const LEAST_PROGRESS = 1024

/**
 * Reads a body of any size, chunk by chunk.
 * @param timeout for each KiB, in milliseconds, not counting the time that the consumer takes
 * @throws LateAnswer if the transfer stalls
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

/** The most bytes of a discarded body that are read to keep its connection open. */
const DRAIN_LIMIT = 64 * 1024

/**
 * Discards a body whose content does not matter.
 * @param timeout for reading its rest, in milliseconds
 */
export function discard(body: Dispatcher.ResponseData['body'], timeout: number): void {
  // A failure does not matter: nothing needs the body.
  body.dump({ limit: DRAIN_LIMIT, signal: AbortSignal.timeout(timeout) }).catch(() => undefined)
}
