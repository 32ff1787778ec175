import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants, EOL } from 'node:os'
import { StringDecoder } from 'node:string_decoder'
import { setTimeout as sleep } from 'node:timers/promises'
import { stripVTControlCharacters } from 'node:util'
import { which } from '@actions/io'

/** What a program said, and how it ended. */
export interface CommandResult {
  readonly exitCode: number
  readonly stdout: string
  /** What it wrote to its standard error, without colours; of a long log the end. */
  readonly log: string
}

/** Enough for the last words of a failed build, however much came before them. */
const LOG_LIMIT = 256 * 1024

/**
 * Whether a command and what it writes go to the job's log while it runs. A function: the command does, and the function
 * gets what it writes to its standard error, line by line.
 */
export type Shown = boolean | ((line: string) => void)

/**
 * Runs a program, without a shell. Nobody is there to answer what it might ask: its standard input is empty.
 * @param linger how long what it leaves behind may keep its output open, in milliseconds
 * @returns nothing where there is no such program on the PATH
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  shown: Shown,
  linger = LINGER,
): Promise<CommandResult | undefined> {
  const path = await which(program)
  if (path === '') return undefined
  const stdout: Buffer[] = []
  const log = endOf(LOG_LIMIT)
  const lines = typeof shown === 'function' ? lineSplitter(shown) : undefined
  const show = (bytes: Buffer | string) => shown === true && process.stdout.write(bytes)
  if (shown !== false) process.stdout.write(`[command]${[path, ...args].join(' ')}${EOL}`)
  const takeOutput = (chunk: Buffer) => {
    stdout.push(chunk)
    show(chunk)
  }
  const takeError = (chunk: Buffer) => {
    log.add(chunk)
    show(chunk)
    lines?.write(chunk)
  }
  const exitCode = await runToEnd(path, args, takeOutput, takeError, linger).catch((error: Error) => {
    // As a shell has it for what can't be run.
    log.add(Buffer.from(`${error.message}\n`))
    return 126
  })
  lines?.end()
  return { exitCode, stdout: Buffer.concat(stdout).toString('utf8'), log: plainText(log.read()) }
}

const LINGER = 10_000

/** The exit code, once all that the program has written is read. */
async function runToEnd(
  path: string,
  args: readonly string[],
  takeOutput: (chunk: Buffer) => void,
  takeError: (chunk: Buffer) => void,
  linger: number,
): Promise<number> {
  const child: ChildProcess = spawn(path, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  const closed = once(child, 'close')
  closed.catch(() => undefined)
  // Neither is there where the system has no room for another program.
  child.stdout?.on('data', takeOutput)
  child.stderr?.on('data', takeError)
  const [code, signal] = await exited
  const lingering = new AbortController()
  await Promise.race([closed, sleep(linger, undefined, { signal: lingering.signal }).catch(() => undefined)])
  lingering.abort()
  child.stdout?.destroy()
  child.stderr?.destroy()
  return code ?? 128 + (signal === null ? 0 : constants.signals[signal])
}

/** Keeps the last bytes of what is written, so many of them. */
function endOf(limit: number): { readonly add: (chunk: Buffer) => void; readonly read: () => Buffer } {
  const chunks: Buffer[] = []
  let size = 0
  return {
    add(chunk) {
      chunks.push(chunk)
      size += chunk.length
      while (size - (chunks[0]?.length ?? 0) >= limit) size -= chunks.shift()?.length ?? 0
    },
    read: () => Buffer.concat(chunks).subarray(-limit),
  }
}

/** Longer than a line that anybody reads; what is longer is cut in two. */
const LINE_LIMIT = 1024 * 1024

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

function plainText(log: Buffer): string {
  return stripVTControlCharacters(log.toString('utf8')).replaceAll('\r', '')
}
