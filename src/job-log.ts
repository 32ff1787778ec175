import { randomUUID } from 'node:crypto'
import * as core from '@actions/core'
import type { Log } from './log.ts'

/** The job's log, which folds what is long. */
export interface JobLog extends Log {
  notice(message: string): void
  /** Hides a secret from all that is logged. */
  mask(secret: string): void
  /** Folds what is printed while `work` runs. */
  group<Result>(title: string, work: () => Promise<Result>): Promise<Result>
  /** As `group`, for what other programs print: none of it is taken for a command to the runner. */
  foreignGroup<Result>(title: string, work: () => Promise<Result>): Promise<Result>
}

/** The secrets that came up while the runner took no commands, and so would have printed them. */
const unmasked: string[] = []
let deaf = false

/** The log of a job on GitHub's runner and those that follow it. */
export const jobLog: JobLog = {
  info: (message) => core.info(message),
  notice: (message) => core.notice(message),
  warning: (message) => core.warning(message),
  debug: (message) => core.debug(message),
  mask(secret) {
    if (deaf) unmasked.push(secret)
    else core.setSecret(secret)
  },
  group: (title, work) => core.group(title, work),
  // https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions#stopping-and-starting-workflow-commands
  foreignGroup: (title, work) =>
    core.group(title, async () => {
      const token = randomUUID()
      core.info(`::stop-commands::${token}`)
      deaf = true
      try {
        return await work()
      } finally {
        core.info(`::${token}::`)
        deaf = false
        for (const secret of unmasked.splice(0)) core.setSecret(secret)
      }
    }),
}
