import type { Writable } from 'node:stream'
import { PassThrough } from 'node:stream'
import { startActivity } from '../log.ts'
import { lastLines, withoutEscapes } from '../text.ts'
import { waitUpTo } from './cancellation.ts'
import { endGroup, startChild, type Trust } from './child.ts'
import { keepTail } from './output.ts'

/** A program whose input or output does not fit into memory. */
export interface StreamingProgram {
  /** The standard input. Its errors need no listener; see `isBrokenPipe`. */
  readonly input: Writable
  /**
   * The standard output. Ends when the program has ended, even if a process that it has started keeps the output open.
   */
  readonly output: AsyncIterable<Buffer>
  /** Never rejects. */
  readonly ended: Promise<ProgramEnd>
  /** Kills the program, if it is still running, and every process in its group. */
  end(): void
}

export interface ProgramEnd {
  /** Why the program failed. Undefined if it succeeded. */
  readonly failure?: string
  /** The last lines of the standard error. */
  readonly log: string
}

/**
 * Returns whether writing to a program failed because the program has closed its input. It usually has failed by then,
 * and the reason is in `ended`.
 */
export function isBrokenPipe(error: unknown): boolean {
  return PIPE_ERRORS.has(String((error as NodeJS.ErrnoException | undefined)?.code))
}

const PIPE_ERRORS = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_DESTROYED', 'ERR_STREAM_PREMATURE_CLOSE'])

const LOG_LIMIT = 64 * 1024
const LOG_LINES = 15

/** How long the output may be silent after the program has exited, in milliseconds. */
const LINGER = 5000
/**
 * The limit for all such silences together, and for a program that keeps running after it has closed its output. A
 * multiple of the above.
 */
const LINGER_TOTAL = 12

/** Starts a program that streams, without a shell. The caller must call `end`, also after errors. */
export function startStreaming(
  path: string,
  args: readonly string[],
  { trust, reads = false, lingerMs = LINGER }: { trust: Trust; reads?: boolean; lingerMs?: number },
): StreamingProgram {
  const { process: child, exited } = startChild(path, args, trust, reads ? 'pipe' : 'ignore')
  const log = keepTail(LOG_LIMIT)
  child?.stderr?.on('data', (chunk: Buffer) => log.add(chunk))
  const logClosed = new Promise((resolve) => child?.stderr?.once('close', resolve))

  let exitedAt: number | undefined
  let waitingSince: number | undefined
  /** Time spent waiting for output since the program exited. */
  let waited = 0
  let outputAbandoned = false
  let exitTimer: NodeJS.Timeout | undefined
  let exitOverdue = false

  /**
   * Abandons the output once it is silent, or nearly silent, for too long: a process that the program has left behind
   * keeps it open. Counts only time in which the reader waits, because the reader may be slow itself.
   */
  function watchOutput(): void {
    const timer = setInterval(() => {
      if (waitingSince === undefined) return
      const silent = performance.now() - Math.max(waitingSince, exitedAt ?? 0)
      if (silent < lingerMs && waited + silent < lingerMs * LINGER_TOTAL) return
      outputAbandoned = true
      end()
    }, lingerMs / 5)
    child?.stdout?.once('close', () => clearInterval(timer))
    if (child?.stdout?.destroyed !== false) clearInterval(timer)
  }

  /** Returns the next chunk, or undefined at the end. */
  async function nextChunk(chunks: AsyncIterator<Buffer>): Promise<Buffer | undefined> {
    const since = performance.now()
    waitingSince = since
    const waiting = startActivity(`the output of ${path}`)
    try {
      const { done, value } = await chunks.next()
      return done ? undefined : value
    } finally {
      waiting.end()
      waitingSince = undefined
      if (exitedAt !== undefined) waited += performance.now() - Math.max(since, exitedAt)
    }
  }

  async function* output(): AsyncGenerator<Buffer> {
    if (child?.stdout == null) return
    const chunks = child.stdout[Symbol.asyncIterator]() as AsyncIterator<Buffer>
    try {
      for (let chunk = await nextChunk(chunks); chunk !== undefined; chunk = await nextChunk(chunks)) yield chunk
      if (exitedAt === undefined) exitTimer = setTimeout(endOverdue, lingerMs * LINGER_TOTAL)
    } catch (error) {
      if (!outputAbandoned) throw error
    } finally {
      child.stdout.destroy()
    }
  }

  /** Kills a program that has closed its output and keeps running. */
  function endOverdue(): void {
    exitOverdue = true
    endGroup(child)
  }

  function end(): void {
    clearTimeout(exitTimer)
    endGroup(child)
    child?.stdout?.destroy()
    child?.stderr?.destroy()
    child?.stdin?.destroy()
  }

  async function ended(): Promise<ProgramEnd> {
    const { code, error } = await exited
    exitedAt = performance.now()
    clearTimeout(exitTimer)
    if (child?.pid !== undefined) {
      watchOutput()
      await waitUpTo(lingerMs, logClosed)
    }
    const text = lastLines(withoutEscapes(log.read().toString('utf8')), LOG_LINES)
    if (code === 0) return { log: text }
    if (exitOverdue) return { failure: 'it closed its standard output, but did not end', log: text }
    return { failure: error ?? `it ended with ${child?.signalCode ?? `status ${code}`}`, log: text }
  }
  return { input: child?.stdin ?? closedInput(), output: output(), ended: ended(), end }
}

/** Returns the input of a program that has ended: writes fail. */
function closedInput(): Writable {
  const input = new PassThrough()
  input.on('error', () => undefined)
  input.destroy()
  return input
}
