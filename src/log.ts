/** Progress logger. Injected so that library code does not depend on @actions/core. */
export interface Log {
  info(message: string): void
  warning(message: string): void
  debug(message: string): void
}

/** An operation that may take long. The log mentions it while it makes no progress. */
export interface Activity {
  progress(): void
  end(): void
}

interface RunningActivity {
  readonly message: string
  lastProgress: number
}

const activities = new Set<RunningActivity>()

/**
 * Registers an activity of this process.
 * @param message completes "waiting for": `ghcr.io to read ghcr.io/owner/app:latest`
 */
export function startActivity(message: string): Activity {
  const activity: RunningActivity = { message, lastProgress: performance.now() }
  activities.add(activity)
  return {
    progress() {
      activity.lastProgress = performance.now()
    },
    end: () => void activities.delete(activity),
  }
}

/** In milliseconds. */
const REPORT_INTERVAL = 30_000

/**
 * Logs that work continues every 30 seconds until it ends, if it takes that long.
 * @param message completes "Still": `reading /nix/store/…`
 * @param state what has been done so far, if it is known
 */
export async function withProgress<Result>(
  log: Pick<Log, 'info'>,
  message: string,
  work: () => Promise<Result>,
  state?: () => string,
): Promise<Result> {
  const started = performance.now()
  const timer = setInterval(() => {
    const seconds = Math.round((performance.now() - started) / 1000)
    log.info(`Still ${message} after ${seconds} s${state === undefined ? '' : `: ${state()}`}`)
  }, REPORT_INTERVAL)
  // The timer must not keep the process alive.
  timer.unref()
  try {
    return await work()
  } finally {
    clearInterval(timer)
  }
}

/**
 * Logs each activity that has made no progress for 30 seconds, and repeats the message every 30 seconds.
 * @returns a function that stops the reports
 */
export function reportSilence(info: (message: string) => void, interval = REPORT_INTERVAL): () => void {
  const reported = new WeakMap<RunningActivity, number>()
  const timer = setInterval(() => {
    const now = performance.now()
    for (const activity of activities) {
      const since = Math.max(activity.lastProgress, reported.get(activity) ?? 0)
      if (now - since < interval) continue
      reported.set(activity, now)
      const seconds = Math.round((now - activity.lastProgress) / 1000)
      info(`Still waiting for ${activity.message}: no progress for ${seconds} s`)
    }
  }, interval / 12)
  // The timer must not keep the process alive.
  timer.unref()
  return () => clearInterval(timer)
}

/** Log of a job, with annotations and groups. */
export interface JobLog extends Log {
  notice(message: string): void
  /** Adds an error annotation. The exit code decides whether the step fails. */
  error(message: string): void
  /** Hides a secret in all later output. */
  mask(secret: string): void
  /** Folds the output of `work`. */
  group<Result>(title: string, work: () => Promise<Result>): Promise<Result>
  /** Like `group`, for output of other programs: the runner ignores commands in it. */
  groupToolOutput<Result>(title: string, work: () => Promise<Result>): Promise<Result>
}
