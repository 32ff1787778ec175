import { randomUUID } from 'node:crypto'
import * as core from '@actions/core'
import type { Log } from './log.ts'
import { sanitize } from './text.ts'

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
  info: (message) => core.info(sanitize(message)),
  notice: (message) => core.notice(sanitize(message)),
  warning: (message) => core.warning(sanitize(message)),
  debug: (message) => core.debug(sanitize(message)),
  error: (message) => core.error(sanitize(message)),
  mask(secret) {
    for (const form of formsOf(secret)) {
      if (commandsStopped) unmasked.push(form)
      else core.setSecret(form)
    }
  },
  group: (title, work) => core.group(sanitize(title), work),
  // https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions#stopping-and-starting-workflow-commands
  foreignGroup: (title, work) =>
    core.group(sanitize(title), async () => {
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

/**
 * In characters. The runner hides a secret wherever it occurs, and drops outputs that contain it: with an ordinary word
 * for a password, such as `sha256`, neither the log nor a digest would be left. Passwords so short protect nothing.
 */
const SHORTEST_SECRET = 8

/** A secret as it may occur in a URL, in a header or in what another program prints. */
function formsOf(secret: string): readonly string[] {
  const bytes = Buffer.from(secret)
  const forms = [secret, encodeURIComponent(secret), bytes.toString('base64'), bytes.toString('base64url')]
  return [...new Set(forms)].filter(({ length }) => length >= SHORTEST_SECRET && secret.length >= SHORTEST_SECRET)
}
