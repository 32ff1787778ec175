import { randomUUID } from 'node:crypto'
import * as core from '@actions/core'
import type { JobLog } from '../log.ts'
import { addSecret, withoutSecrets } from '../secrets.ts'
import { sanitize } from '../text.ts'

/** Secrets found while the runner ignored commands and would have printed them. */
const unmasked: string[] = []

/** The token that makes the runner accept commands again. */
let commandsStopped: string | undefined

/** The log of a job on GitHub's runner and compatible ones. */
export const jobLog: JobLog = {
  info: (message) => core.info(safeForLog(message)),
  notice: (message) => core.notice(safeForLog(message)),
  warning: (message) => core.warning(safeForLog(message)),
  debug: (message) => core.debug(safeForLog(message)),
  error: (message) => core.error(safeForLog(message)),
  mask(secret) {
    for (const form of addSecret(secret)) {
      if (commandsStopped) unmasked.push(form)
      else core.setSecret(form)
    }
  },
  group: (title, work) => core.group(safeForLog(title), work),
  // https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions#stopping-and-starting-workflow-commands
  groupToolOutput: (title, work) =>
    core.group(safeForLog(title), async () => {
      const token = randomUUID()
      core.info(`::stop-commands::${token}`)
      commandsStopped = token
      try {
        return await work()
      } finally {
        resumeCommands()
      }
    }),
}

/** Removes secrets first: a secret in a text that was cut would not be found. */
function safeForLog(message: string): string {
  return sanitize(withoutSecrets(message))
}

/**
 * Makes the runner accept commands again. Also called when the step is cancelled, because later steps need commands.
 */
export function resumeCommands(): void {
  if (commandsStopped === undefined) return
  core.info(`::${commandsStopped}::`)
  commandsStopped = undefined
  for (const secret of unmasked.splice(0)) core.setSecret(secret)
}
