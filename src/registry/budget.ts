/** How long a host is asked again after it was last heard from, in milliseconds. */
const BUDGET = 120_000

/** What an attempt may take at least, however little of the budget is left, in milliseconds. */
const SHORTEST_ATTEMPT = 10_000

/** How often a body is sent whose transfer time does not count. */
const MOST_TRANSFERS = 6

/** One request, or several that are tried again together. */
export interface Work {
  readonly start: number
  /** How often it has failed. */
  count: number
  /** When the first attempt that failed last made progress. */
  since: number | undefined
  /** How long later attempts have transferred bytes, which does not count. */
  transferred: number
}

/** One request on its way. */
export interface Attempt {
  /** Returns how long it may go without progress, in milliseconds, where `timeout` is the most. */
  limit(timeout: number): number
  /** Bytes have gone over. */
  progress(): void
  /** The host has given an answer that is not a passing failure. */
  answered(): void
  /** It has failed in a way that may pass. */
  failed(): void
}

/** Decides how long requests are tried again: 120 s after their host was last heard from, however many there are. */
export interface Budgets {
  startWork(): Work
  startAttempt(origin: string, work: Work): Attempt
  /** Returns how long the work may wait before its next attempt, in milliseconds. Negative when time is up. */
  left(origin: string, work: Work): number
  /** Reports whether a host has answered before. */
  hasAnswered(origin: string): boolean
}

interface Host {
  /** When it last answered. */
  heard: number | undefined
  /** When it last made progress before it began to fail. Undefined while it works. */
  failingSince: number | undefined
  lastFailure: number
}

/** @param now in milliseconds, from any moment on */
export function createBudgets(now: () => number): Budgets {
  const hosts = new Map<string, Host>()

  function hostOf(origin: string): Host {
    const host = hosts.get(origin) ?? { heard: undefined, failingSince: undefined, lastFailure: 0 }
    hosts.set(origin, host)
    return host
  }

  function left(origin: string, work: Work): number {
    const host = hostOf(origin).failingSince ?? Number.POSITIVE_INFINITY
    const own = work.since === undefined ? Number.POSITIVE_INFINITY : work.since + work.transferred
    return Math.min(host, own) + BUDGET - now()
  }

  return {
    startWork: () => ({ start: now(), count: 0, since: undefined, transferred: 0 }),
    startAttempt(origin, work) {
      const host = hostOf(origin)
      const start = now()
      let last = start
      // A failure of long ago says nothing about a host that has not been asked since.
      if (start - host.lastFailure > BUDGET) host.failingSince = undefined
      return {
        limit: (timeout) => {
          const cut = Math.max(0, STALL - Math.max(SHORTEST_ATTEMPT, left(origin, work)))
          return Math.max(timeout - cut, Math.min(timeout, SHORTEST_ATTEMPT))
        },
        progress() {
          last = now()
        },
        answered() {
          host.heard = now()
          host.failingSince = undefined
        },
        failed() {
          host.lastFailure = now()
          host.failingSince ??= Math.max(last, host.heard ?? last)
          if (work.since === undefined) work.since = Math.max(last, host.heard ?? last)
          else if (work.count < MOST_TRANSFERS) work.transferred += last - start
        },
      }
    },
    left,
    hasAnswered: (origin) => hosts.get(origin)?.heard !== undefined,
  }
}

/** How long an attempt may go without a byte in either direction, in milliseconds. */
export const STALL = 60_000
