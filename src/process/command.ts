import { EOL } from 'node:os'
import { StringDecoder } from 'node:string_decoder'
import { setTimeout as sleep } from 'node:timers/promises'
import { which } from '@actions/io'
import { startActivity } from '../activity.ts'
import { withoutSecrets } from '../secrets.ts'
import { withoutEscapes, withoutHidden } from '../text.ts'
import { endGroup, startChild } from './child.ts'
import type { Trust } from './environment.ts'

/** What a program wrote, and how it ended. */
export interface CommandResult {
  readonly exitCode: number
  readonly stdout: string
  /** What it wrote to its standard error, without colours; of a long log the end. */
  readonly log: string
  /** It was ended because it wrote nothing for too long. */
  readonly stalled: boolean
}

/**
 * Whether a command and what it writes go to the job's log while it runs. A function: the command does, and the function
 * gets what it writes to its standard error, line by line.
 */
export type Shown = boolean | ((line: string) => void)

export interface CommandOptions {
  readonly trust: Trust
  readonly shown?: Shown
  /** Given to it as its standard input, which is empty otherwise: no prompt waits for an answer. */
  readonly input?: string
  /** How long it may run, in milliseconds; as long as it likes if absent. */
  readonly timeoutMs?: number
  /** How long it may go without writing anything, in milliseconds; as long as it likes if absent. */
  readonly silenceMs?: number
  /** Is called with each part of its standard output. */
  readonly onOutput?: (text: string) => void
  /** How long what it leaves behind may keep its output open, in milliseconds. */
  readonly lingerMs?: number
}

/** Enough for the last words of a failed build, however much came before them. */
const LOG_LIMIT = 256 * 1024
/** The largest answers are lists of a flake's packages: nixpkgs has some megabytes of names. */
const OUTPUT_LIMIT = 16 * 1024 * 1024
const LINGER = 10_000

/**
 * Runs a program whose output is small to its end, without a shell.
 * @returns nothing if there is no such program on the PATH
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  { trust, shown = false, input, timeoutMs, silenceMs, onOutput, lingerMs = LINGER }: CommandOptions,
): Promise<CommandResult | undefined> {
  const path = await which(program)
  if (path === '') return undefined
  if (shown !== false) printLine(`[command]${[path, ...args].join(' ')}`)
  const output = collector(OUTPUT_LIMIT)
  const log = endOf(LOG_LIMIT)
  const outputLines = shown === true ? lineSplitter(printPlain) : undefined
  const errorLines = shown === false ? undefined : lineSplitter(shown === true ? printPlain : shown)
  const activity = typeof shown === 'function' ? undefined : startActivity(`${program} ${args[0] ?? ''}`.trim())

  const { process: child, exited } = startChild(path, args, trust, input === undefined ? 'ignore' : 'pipe')
  const silence = watchSilence(silenceMs, () => endGroup(child))
  const closed = Promise.withResolvers<void>()
  child?.once('close', () => closed.resolve())
  // Neither is there if the system has no room for another program.
  child?.stdout?.on('data', (chunk: Buffer) => {
    activity?.progress()
    silence.progress()
    onOutput?.(chunk.toString('utf8'))
    outputLines?.write(chunk)
    // It is not read to its end: a program that floods its output would go on for ever.
    if (!output.add(chunk)) endGroup(child)
  })
  child?.stderr?.on('data', (chunk: Buffer) => {
    activity?.progress()
    silence.progress()
    errorLines?.write(chunk)
    log.add(chunk)
  })
  // It may end without reading its input; how it ended is what counts.
  child?.stdin?.on('error', () => undefined)
  child?.stdin?.end(input)
  const overdue = timeoutMs === undefined ? undefined : setTimeout(() => endGroup(child), timeoutMs)

  const { code, error } = await exited
  clearTimeout(overdue)
  silence.end()
  if (child?.pid !== undefined) await waitUpTo(lingerMs, closed.promise)
  // Docker's and credential helpers may leave agents behind for the next who asks.
  if (trust !== 'everything') endGroup(child)
  child?.stdout?.destroy()
  child?.stderr?.destroy()
  activity?.end()
  outputLines?.end()
  errorLines?.end()
  if (error !== undefined) log.add(Buffer.from(`${error}\n`))
  if (output.full) log.add(Buffer.from(`\nIt wrote more than ${OUTPUT_LIMIT} bytes to its standard output.\n`))
  return {
    exitCode: output.full ? 125 : code,
    stdout: output.read().toString('utf8'),
    log: withoutEscapes(log.read().toString('utf8')).replaceAll('\r', ''),
    stalled: silence.broken(),
  }
}

/** Calls `onSilence` once nothing has happened for so many milliseconds, unless there is no limit. */
function watchSilence(
  limit: number | undefined,
  onSilence: () => void,
): { readonly progress: () => void; readonly broken: () => boolean; readonly end: () => void } {
  let broken = false
  const stall = (): void => {
    broken = true
    onSilence()
  }
  const timer = limit === undefined ? undefined : setTimeout(stall, limit)
  return { progress: () => void timer?.refresh(), broken: () => broken, end: () => clearTimeout(timer) }
}

/**
 * Prints a line of a program's to the job's log, without secrets: the runner masks none that came up while it takes no
 * commands. It ends with a line break whatever the program does: a command to the runner that comes next must begin a
 * line.
 */
export function printLine(line: string): void {
  process.stdout.write(`${withoutSecrets(line)}${EOL}`)
}

/** Colours are left out, too: what is shown so are the few lines that Docker and copyTo write. */
function printPlain(line: string): void {
  printLine(withoutHidden(withoutEscapes(line)))
}

/** Waits for work that never rejects, but not longer than so many milliseconds. */
export async function waitUpTo(milliseconds: number, work: Promise<unknown>): Promise<void> {
  const waiting = new AbortController()
  const time = sleep(milliseconds, undefined, { signal: waiting.signal }).catch(() => undefined)
  await Promise.race([work, time])
  waiting.abort()
}

/** Keeps what is written as long as it is not more than `limit` bytes. */
function collector(limit: number): {
  readonly full: boolean
  readonly add: (chunk: Buffer) => boolean
  readonly read: () => Buffer
} {
  // One buffer that grows: a program that writes byte by byte would leave millions.
  let kept = Buffer.alloc(1024)
  let size = 0
  return {
    get full() {
      return size > limit
    },
    add(chunk) {
      const start = size
      size += chunk.length
      if (size > limit) return false
      if (size > kept.length) kept = Buffer.concat([kept], Math.max(size, 2 * kept.length))
      chunk.copy(kept, start)
      return true
    },
    read: () => kept.subarray(0, Math.min(size, limit, kept.length)),
  }
}

/** Keeps the last bytes of what is written, so many of them. */
export function endOf(limit: number): { readonly add: (chunk: Buffer) => void; readonly read: () => Buffer } {
  // One buffer, twice as large, so that what is kept moves only when it is full: a program may write byte by byte.
  const kept = Buffer.alloc(2 * limit)
  let size = 0
  return {
    add(chunk) {
      const end = chunk.subarray(-limit)
      if (size + end.length > kept.length) {
        kept.copyWithin(0, size - limit, size)
        size = limit
      }
      size += end.copy(kept, size)
    },
    read: () => Buffer.from(kept.subarray(Math.max(0, size - limit), size)),
  }
}

/** Longer than a line that anybody reads; a longer one is cut in two. In characters. */
const LINE_LIMIT = 256 * 1024

/** Calls `onLine` for each line of what is written in pieces, which may end within a character. */
function lineSplitter(onLine: (line: string) => void): {
  readonly write: (chunk: Buffer) => void
  readonly end: () => void
} {
  const decoder = new StringDecoder('utf8')
  let rest = ''
  const add = (text: string) => {
    const [first = '', ...more] = text.split('\n')
    const lines = [rest + first, ...more]
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line)
    if (rest.length <= LINE_LIMIT) return
    onLine(rest)
    rest = ''
  }
  return {
    write: (chunk) => add(decoder.write(chunk)),
    end: () => {
      add(decoder.end())
      if (rest !== '') onLine(rest)
    },
  }
}
