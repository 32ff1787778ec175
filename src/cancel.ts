import { constants } from 'node:os'
import { jobLog, resumeCommands } from './job-log.ts'
import { endChildren } from './process/child.ts'
import { removeTempFolders } from './temp-folder.ts'

/**
 * Ends this process when the step is cancelled, and with it all programs that it has started: the runner sends SIGINT,
 * SIGTERM after 7.5 s, and ends the process 2.5 s after that, but not what it has started.
 */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void endOn(signal))
}

let ending: Promise<void> | undefined

async function endOn(signal: NodeJS.Signals): Promise<void> {
  // A second signal finds programs that have not ended after the first.
  const first = ending === undefined
  ending ??= endChildren(signal)
  if (!first) return endChildren(signal, 0)
  jobLog.info(`Cancelled by ${signal}: ending what is under way`)
  await ending
  resumeCommands()
  removeTempFolders()
  process.exit(128 + constants.signals[signal])
}

/** Whether the step has been cancelled: what fails then fails because of that. */
export function isCancelled(): boolean {
  return ending !== undefined
}
