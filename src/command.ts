import { EOL } from 'node:os'
import { StringDecoder } from 'node:string_decoder'
import { stripVTControlCharacters } from 'node:util'
import { exec } from '@actions/exec'
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
 * Runs a program, without a shell.
 * @returns nothing where there is no such program on the PATH
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  shown: Shown,
): Promise<CommandResult | undefined> {
  const path = await which(program)
  if (path === '') return undefined
  const stdout: Buffer[] = []
  const log = endOf(LOG_LIMIT)
  const lines = typeof shown === 'function' ? lineSplitter(shown) : undefined
  if (lines !== undefined) process.stdout.write(`[command]${[path, ...args].join(' ')}${EOL}`)
  const exitCode = await exec(`"${path}"`, [...args], {
    ignoreReturnCode: true,
    silent: shown !== true,
    listeners: {
      stdout: (chunk) => stdout.push(chunk),
      stderr: (chunk) => {
        log.add(chunk)
        lines?.write(chunk)
      },
    },
  })
  lines?.end()
  return { exitCode, stdout: Buffer.concat(stdout).toString('utf8'), log: plainText(log.read()) }
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
