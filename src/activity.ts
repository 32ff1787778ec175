/** Something that may take long, and is reported in the job's log while it makes no progress. */
export interface Activity {
  progress(): void
  end(): void
}

interface Started {
  readonly message: string
  lastProgress: number
}

const activities = new Set<Started>()

/**
 * Registers an activity of this process.
 * @param what fits after "waiting for": `ghcr.io to read ghcr.io/owner/app:latest`
 */
export function startActivity(message: string): Activity {
  const started: Started = { message, lastProgress: performance.now() }
  activities.add(started)
  return {
    progress() {
      started.lastProgress = performance.now()
    },
    end: () => void activities.delete(started),
  }
}

/** In milliseconds. */
const SILENCE = 60_000

/**
 * Says in a log, once a minute each, which activities have made no progress for a minute.
 * @returns a function that ends this
 */
export function reportSilence(info: (message: string) => void, silence = SILENCE): () => void {
  const reported = new WeakMap<Started, number>()
  const timer = setInterval(() => {
    const now = performance.now()
    for (const activity of activities) {
      const since = Math.max(activity.lastProgress, reported.get(activity) ?? 0)
      if (now - since < silence) continue
      reported.set(activity, now)
      const seconds = Math.round((now - activity.lastProgress) / 1000)
      info(`Still waiting for ${activity.message}: no progress for ${seconds} s`)
    }
  }, silence / 12)
  // It must not keep the process from ending.
  timer.unref()
  return () => clearInterval(timer)
}
