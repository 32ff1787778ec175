import { constants } from 'node:os'
import { removeTempFolders } from '../fs/temp-folder.ts'
import type { Cancellation } from '../process/cancellation.ts'
import { endChildren } from '../process/child.ts'
import { waitUpTo } from '../process/command.ts'
import { jobLog, resumeCommands } from './log.ts'

/** How long unfinished work may take after the first signal, and after a further one, in milliseconds. */
const FINISH = 7000
const HURRY = 1500

/**
 * Ends this process when the step is cancelled, and with it all programs that it has started: the runner sends SIGINT,
 * SIGTERM after 7.5 s, and ends the process 2.5 s after that, but not what it has started.
 */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void endOn(signal))
}

let ending: Promise<void> | undefined
const controller = new AbortController()
const unfinished = new Set<Promise<unknown>>()
const hurry = Promise.withResolvers<void>()

/** The cancellation of this step. */
export const cancellation: Cancellation = {
  signal: controller.signal,
  finish(work) {
    unfinished.add(work)
    const remove = () => unfinished.delete(work)
    work.then(remove, remove)
    return work
  },
}

async function endOn(signal: NodeJS.Signals): Promise<void> {
  // A second signal finds programs that have not ended after the first.
  const first = ending === undefined
  ending ??= endChildren(signal)
  if (!first) {
    setTimeout(hurry.resolve, HURRY)
    return endChildren(signal, 0)
  }
  jobLog.info(`Cancelled by ${signal}: ending what is under way`)
  controller.abort()
  const settled = Promise.allSettled(unfinished)
  await Promise.all([ending, waitUpTo(FINISH, Promise.race([settled, hurry.promise]))])
  resumeCommands()
  removeTempFolders()
  process.exit(128 + constants.signals[signal])
}

/** Whether the step has been cancelled: what fails then fails because of that. */
export function isCancelled(): boolean {
  return ending !== undefined
}
