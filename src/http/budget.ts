/**
 * How long a host is asked again after it was last heard from, in milliseconds. Leaves some of 120 s for the answer to the
 * last attempt.
 */
const BUDGET = 115_000

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

/**
 * Decides how long requests are tried again: 120 s after their host was last heard from, however many there are. A host may
 * answer one kind of requests and not another, so that each kind has a budget as well.
 */
export interface Budgets {
  startWork(): Work
  startAttempt(origin: string, work: Work, kind?: string): Attempt
  /** Work has come to an answer that is not a passing failure, wherever it was redirected. */
  answered(origin: string, kind: string): void
  /** Work has failed in a way that may pass, wherever it was redirected. */
  failed(origin: string, kind: string, since?: number): void
  /** Returns how long the work may wait before its next attempt, in milliseconds. Negative when time is up. */
  left(origin: string, work: Work, kind?: string): number
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

  function hostOf(key: string): Host {
    const host = hosts.get(key) ?? { heard: undefined, failingSince: undefined, lastFailure: 0 }
    hosts.set(key, host)
    return host
  }

  /** The host as a whole, and what is known of this kind of requests to it. */
  function hostsOf(origin: string, kind: string): readonly [Host, Host] {
    return [hostOf(origin), hostOf(`${kind} ${origin}`)]
  }

  function left(origin: string, work: Work, kind = ''): number {
    const since = hostsOf(origin, kind).map(({ failingSince = Number.POSITIVE_INFINITY }) => failingSince)
    const own = work.since === undefined ? Number.POSITIVE_INFINITY : work.since + work.transferred
    return Math.min(...since, own) + BUDGET - now()
  }

  function answered(origin: string, kind: string): void {
    for (const host of hostsOf(origin, kind)) {
      host.heard = now()
      host.failingSince = undefined
    }
  }

  function failed(origin: string, kind: string, last = now()): void {
    for (const host of hostsOf(origin, kind)) {
      host.lastFailure = now()
      host.failingSince ??= Math.max(last, host.heard ?? last)
    }
  }

  return {
    answered,
    failed,
    startWork: () => ({ start: now(), count: 0, since: undefined, transferred: 0 }),
    startAttempt(origin, work, kind = '') {
      const both = hostsOf(origin, kind)
      const start = now()
      let last = start
      // A failure of long ago says nothing about a host that has not been asked since.
      for (const host of both) if (start - host.lastFailure > BUDGET) host.failingSince = undefined
      return {
        limit: (timeout) => {
          const cut = Math.max(0, STALL - Math.max(SHORTEST_ATTEMPT, left(origin, work, kind)))
          return Math.max(timeout - cut, Math.min(timeout, SHORTEST_ATTEMPT))
        },
        progress() {
          last = now()
        },
        answered: () => answered(origin, kind),
        failed() {
          failed(origin, kind, last)
          if (work.since === undefined) work.since = Math.max(last, both[1].heard ?? last)
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
