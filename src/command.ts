import { EOL } from 'node:os'
import { StringDecoder } from 'node:string_decoder'
import { stripVTControlCharacters } from 'node:util'
import { exec } from '@actions/exec'
import { which } from '@actions/io'

export interface CommandResult {
  readonly exitCode: number
  readonly stdout: string
  /** What it wrote to its standard error, without colours; of a long log the end. */
  readonly log: string
}

/** Enough for the last words of a failed build, however much came before them. */
const LOG_LIMIT = 256 * 1024

/**
 * Runs a program, without a shell.
 * @param shown whether the command and what it writes go to the job's log while it runs. A function: the command does,
 * and the function gets what it writes to its standard error, line by line
 * @returns nothing where there is no such program on the PATH
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  shown: boolean | ((line: string) => void),
): Promise<CommandResult | undefined> {
  const path = await which(program)
  if (path === '') return undefined
  const stdout: Buffer[] = []
  let log = Buffer.alloc(0)
  const lines = typeof shown === 'function' ? lineSplitter(shown) : undefined
  if (lines !== undefined) process.stdout.write(`[command]${[path, ...args].join(' ')}${EOL}`)
  const exitCode = await exec(`"${path}"`, [...args], {
    ignoreReturnCode: true,
    silent: shown !== true,
    listeners: {
      stdout: (chunk) => stdout.push(chunk),
      stderr: (chunk) => {
        log = Buffer.concat([log, chunk]).subarray(-LOG_LIMIT)
        lines?.write(chunk)
      },
    },
  })
  lines?.end()
  return { exitCode, stdout: Buffer.concat(stdout).toString('utf8'), log: plainText(log) }
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
