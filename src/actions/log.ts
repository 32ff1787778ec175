import { randomUUID } from 'node:crypto'
import * as core from '@actions/core'
import type { Log } from '../log.ts'
import { addSecret, withoutSecrets } from '../secrets.ts'
import { sanitize } from '../text.ts'

/** The job's log, which folds what is long. */
export interface JobLog extends Log {
  notice(message: string): void
  /** As an annotation; the step fails by its exit code. */
  error(message: string): void
  /** Hides a secret from all that is logged. */
  mask(secret: string): void
  /** Folds what is printed while `work` runs. */
  group<Result>(title: string, work: () => Promise<Result>): Promise<Result>
  /** As `group`, for what other programs print: none of it is taken for a command to the runner. */
  foreignGroup<Result>(title: string, work: () => Promise<Result>): Promise<Result>
}

/** The secrets that came up while the runner took no commands, and so would have printed them. */
const unmasked: string[] = []
/** The token that makes the runner take commands again. */
let commandsStopped: string | undefined

/** The log of a job on GitHub's runner and those that follow it. */
export const jobLog: JobLog = {
  info: (message) => core.info(printable(message)),
  notice: (message) => core.notice(printable(message)),
  warning: (message) => core.warning(printable(message)),
  debug: (message) => core.debug(printable(message)),
  error: (message) => core.error(printable(message)),
  mask(secret) {
    for (const form of addSecret(secret)) {
      if (commandsStopped) unmasked.push(form)
      else core.setSecret(form)
    }
  },
  group: (title, work) => core.group(printable(title), work),
  // https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions#stopping-and-starting-workflow-commands
  foreignGroup: (title, work) =>
    core.group(printable(title), async () => {
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

/** Secrets go first: where a long text is cut, the rest of a secret would not be found. */
function printable(message: string): string {
  return sanitize(withoutSecrets(message))
}

/**
 * Lets the runner take commands again, if it takes none. Called also when the step is cancelled in the middle: the steps
 * that follow need them.
 */
export function resumeCommands(): void {
  if (commandsStopped === undefined) return
  core.info(`::${commandsStopped}::`)
  commandsStopped = undefined
  for (const secret of unmasked.splice(0)) core.setSecret(secret)
}
