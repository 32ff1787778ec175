import { randomUUID } from 'node:crypto'
import * as core from '@actions/core'
import type { Log } from './log.ts'

/** The job's log, which folds what is long. */
export interface JobLog extends Log {
  notice(message: string): void
  /** Folds what is printed while `work` runs; where it fails, the log stays open there. */
  group<Result>(title: string, work: () => Promise<Result>): Promise<Result>
}

/** The log of a job on GitHub's runner and those that follow it. */
export const jobLog: JobLog = {
  info: (message) => core.info(message),
  notice: (message) => core.notice(message),
  warning: (message) => core.warning(message),
  debug: (message) => core.debug(message),
  async group(title, work) {
    core.startGroup(title)
    // What builders and Docker print is somebody else's word, and must not be taken for commands to the runner.
    const token = randomUUID()
    core.info(`::stop-commands::${token}`)
    try {
      return await work()
    } finally {
      core.info(`::${token}::`)
      core.endGroup()
    }
  },
}
