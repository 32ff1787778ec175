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
 * @param shown whether the command and what it writes go to the job's log while it runs
 * @returns nothing where there is no such program on the PATH
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  shown: boolean,
): Promise<CommandResult | undefined> {
  const path = await which(program)
  if (path === '') return undefined
  const stdout: Buffer[] = []
  let log = Buffer.alloc(0)
  const exitCode = await exec(`"${path}"`, [...args], {
    ignoreReturnCode: true,
    silent: !shown,
    listeners: {
      stdout: (chunk) => stdout.push(chunk),
      stderr: (chunk) => {
        log = Buffer.concat([log, chunk]).subarray(-LOG_LIMIT)
      },
    },
  })
  return { exitCode, stdout: Buffer.concat(stdout).toString('utf8'), log: plainText(log) }
}

function plainText(log: Buffer): string {
  return stripVTControlCharacters(log.toString('utf8')).replaceAll('\r', '')
}
