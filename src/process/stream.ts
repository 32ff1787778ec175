import type { Writable } from 'node:stream'
import { PassThrough } from 'node:stream'
import { startActivity } from '../activity.ts'
import { lastLines } from '../errors.ts'
import { withoutEscapes } from '../text.ts'
import { endGroup, startChild } from './child.ts'
import { endOf, waitUpTo } from './command.ts'
import type { Trust } from './environment.ts'

/** A program that reads or writes more than fits into memory. */
export interface StreamingProgram {
  /** Its standard input. Errors have to be listened for only by those who want to know of them. */
  readonly input: Writable
  /**
   * What it writes to its standard output, in chunks. Ends when the program has ended, even if something that it has
   * started keeps the output open.
   */
  readonly output: AsyncIterable<Buffer>
  /** Never rejects. */
  readonly ended: Promise<ProgramEnd>
  /** Ends the program, if it still runs, with all that it has started. */
  end(): void
}

export interface ProgramEnd {
  /** How it failed, for people; absent if it succeeded. */
  readonly failure?: string
  /** The last lines that it wrote to its standard error. */
  readonly log: string
}

const LOG_LIMIT = 64 * 1024
const LOG_LINES = 15

/** How long after a program's end its output may be silent until it counts as ended, too. In milliseconds. */
const LINGER = 5000
/** How many times as long it may be waited for in all, and how many times as long a program may go on without output. */
const LINGER_IN_ALL = 12

/** Starts a program that streams, without a shell. The caller ends it, whatever happens. */
export function startStreaming(
  path: string,
  args: readonly string[],
  { trust, reads = false, lingerMs = LINGER }: { trust: Trust; reads?: boolean; lingerMs?: number },
): StreamingProgram {
  const { process: child, exited } = startChild(path, args, trust, reads ? 'pipe' : 'ignore')
  const log = endOf(LOG_LIMIT)
  child?.stderr?.on('data', (chunk: Buffer) => log.add(chunk))
  const logClosed = new Promise((resolve) => child?.stderr?.once('close', resolve))
  // Whoever reads or writes them learns of their errors in other ways, if there is anything to learn.
  child?.stdin?.on('error', () => undefined)
  child?.stdout?.on('error', () => undefined)

  let exitedAt: number | undefined
  let waitingSince: number | undefined
  /** For output, since the program has ended. */
  let waited = 0
  let abandoned = false
  let overdue: NodeJS.Timeout | undefined
  let wentOn = false

  /**
   * Gives up pipes through which nothing comes any more, or little: something that the program has left behind holds
   * them. Only the time in which the reader waits counts, for it may be slow itself.
   */
  function watchPipes(): void {
    const timer = setInterval(() => {
      if (waitingSince === undefined) return
      const silent = performance.now() - Math.max(waitingSince, exitedAt ?? 0)
      if (silent < lingerMs && waited + silent < lingerMs * LINGER_IN_ALL) return
      abandoned = true
      end()
    }, lingerMs / 5)
    child?.stdout?.once('close', () => clearInterval(timer))
    if (child?.stdout?.destroyed !== false) clearInterval(timer)
  }

  /** Returns the next chunk, or nothing at the end. */
  async function next(chunks: AsyncIterator<Buffer>): Promise<Buffer | undefined> {
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
      for (let chunk = await next(chunks); chunk !== undefined; chunk = await next(chunks)) yield chunk
      if (exitedAt === undefined) overdue = setTimeout(endOverdue, lingerMs * LINGER_IN_ALL)
    } catch (error) {
      if (!abandoned) throw error
    } finally {
      child.stdout.destroy()
    }
  }

  /** Ends a program that has closed its output and goes on: it can add nothing any more. */
  function endOverdue(): void {
    wentOn = true
    endGroup(child)
  }

  function end(): void {
    clearTimeout(overdue)
    endGroup(child)
    child?.stdout?.destroy()
    child?.stderr?.destroy()
    child?.stdin?.destroy()
  }

  async function settle(): Promise<ProgramEnd> {
    const { code, error } = await exited
    exitedAt = performance.now()
    clearTimeout(overdue)
    if (child?.pid !== undefined) {
      watchPipes()
      await waitUpTo(lingerMs, logClosed)
    }
    const text = lastLines(withoutEscapes(log.read().toString('utf8')), LOG_LINES)
    if (code === 0) return { log: text }
    if (wentOn) return { failure: 'it closed its standard output, but did not end', log: text }
    return { failure: error ?? describe(code, child?.signalCode ?? null), log: text }
  }
  return { input: child?.stdin ?? closedInput(), output: output(), ended: settle(), end }
}

function describe(code: number, signal: NodeJS.Signals | null): string {
  return `it ended with ${signal ?? `status ${code}`}`
}

/** Takes nothing, as the input of a program that has ended. */
function closedInput(): Writable {
  const input = new PassThrough()
  input.on('error', () => undefined)
  input.destroy()
  return input
}
