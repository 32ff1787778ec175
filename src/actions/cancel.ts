import { constants } from 'node:os'
import { removeTempFolders } from '../fs/temp-folder.ts'
import type { Log } from '../log.ts'
import { type Cancellation, waitUpTo } from '../process/cancellation.ts'
import { endChildren } from '../process/child.ts'
import { resumeCommands } from './log.ts'

/** How long unfinished work may take after the first signal and after further signals, in milliseconds. */
const FINISH = 7000
const HURRY = 1500

/**
 * Ends this process and its child processes when the step is cancelled. The runner sends SIGINT, SIGTERM after 7.5 s, and
 * kills the process 2.5 s later, but not its children.
 */
export function endOnSignals(log: Pick<Log, 'info'>): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void endOn(signal, log))
}

let ending: Promise<void> | undefined
const controller = new AbortController()
const unfinished = new Set<Promise<unknown>>()
const hurry = Promise.withResolvers<void>()

/** The cancellation of this step. */
export const cancellation: Cancellation = {
  signal: controller.signal,
  deferExit(work) {
    unfinished.add(work)
    const remove = () => unfinished.delete(work)
    work.then(remove, remove)
    return work
  },
}

async function endOn(signal: NodeJS.Signals, log: Pick<Log, 'info'>): Promise<void> {
  // A second signal kills programs that are still running.
  const first = ending === undefined
  ending ??= endChildren(signal)
  if (!first) {
    setTimeout(hurry.resolve, HURRY)
    return endChildren(signal, 0)
  }
  log.info(`Cancelled by ${signal}: stopping`)
  controller.abort()
  const settled = Promise.allSettled(unfinished)
  await Promise.all([ending, waitUpTo(FINISH, Promise.race([settled, hurry.promise]))])
  resumeCommands()
  removeTempFolders()
  process.exit(128 + constants.signals[signal])
}

/** Reports whether the step has been cancelled. Later errors are consequences of that. */
export function isCancelled(): boolean {
  return ending !== undefined
}
