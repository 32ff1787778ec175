import type { CommandResult } from '../process/command.ts'
import { startMeter } from '../progress.ts'
import { runNix } from './nix.ts'
import { endNixLog, type NixLog, type Read, readNixLine, remind, startNixLog } from './nix-log.ts'
import { countProgress } from './progress.ts'

/** A finished run of Nix, and what its log says. */
export interface LoggedRun {
  readonly result: CommandResult
  readonly log: NixLog
}

/**
 * Runs Nix and shows its log as `readNixLine` formats it.
 * @param args the subcommand and its options
 * @param target what it works on: the user's arguments and the installable
 * @param show receives each line, which contains no control characters except for colours
 * @param echo whether to print the command itself
 * @throws NixError if Nix is not installed
 */
export async function runNixLogged(
  args: readonly string[],
  target: readonly string[],
  show: (line: string) => void,
  echo = true,
): Promise<LoggedRun> {
  const run = await runShown([...args, '--log-format', 'internal-json', ...target], show, echo)
  return supportsLogFormat(run) ? run : runShown([...args, '--print-build-logs', ...target], show, echo)
}

async function runShown(args: readonly string[], show: (line: string) => void, echo: boolean): Promise<LoggedRun> {
  let log = startNixLog(performance.now())
  const meter = startMeter('Nix', 'builds and downloads')
  const showAll = (lines: readonly string[]) => lines.forEach(show)
  const update = (read: Read) => {
    log = read.log
    const { done, total } = countProgress(log.progress)
    meter.update(done, total)
    showAll(read.shown)
  }
  const reminder = setInterval(() => update(remind(log, performance.now())), 1000)
  try {
    const onLine = (line: string) => update(readNixLine(log, line, performance.now()))
    const result = await runNix(args, onLine, { echo })
    // After a failure, the progress would be wrong: Nix does not count failed builds as left.
    if (result.exitCode === 0) showAll(endNixLog(log))
    return { result, log }
  } finally {
    clearInterval(reminder)
    meter.end()
  }
}

/** Returns false if Nix does not support the log format `internal-json`, which a version may remove. */
function supportsLogFormat({ result, log }: LoggedRun): boolean {
  return result.exitCode === 0 || log.structured || !/log[- ]format|internal-json/i.test(result.log)
}
