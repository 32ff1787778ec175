/** How long requests are retried after the last answer of their host, in milliseconds. Leaves 5 s of 120 s for the last answer. */
const RETRY_BUDGET = 115_000

/** The minimum timeout of an attempt, however little of the budget is left, in milliseconds. */
const MIN_ATTEMPT_TIMEOUT = 10_000

/** The number of attempts for which the time of sending a body does not count. */
const MAX_TRANSFERS = 6

/** A request, or several that are retried as a whole. */
export interface Work {
  readonly start: number
  /** The number of failed attempts. */
  count: number
  /** The time of the last progress in the first failed attempt. */
  since: number | undefined
  /** The time that later attempts have spent on transferring bytes, which does not count. */
  transferred: number
}

/** A single attempt to send a request. */
export interface Attempt {
  /** Returns how long it may go without progress, in milliseconds, at most `timeout`. */
  limit(timeout: number): number
  /** Notes that bytes were transferred. */
  progress(): void
  /** Notes an answer that is not a transient failure. */
  answered(): void
  /** Notes a transient failure. */
  failed(): void
}

/**
 * Decides how long requests are retried: for 120 s after the last answer of their host, however many requests there are. A
 * host may answer one kind of request and not another, so each kind has a budget as well.
 */
export interface Budgets {
  startWork(): Work
  startAttempt(origin: string, work: Work, kind?: string): Attempt
  /** Notes that work has ended with an answer that is not a transient failure, wherever it was redirected. */
  answered(origin: string, kind: string): void
  /** Notes that work has failed with a transient failure, wherever it was redirected. */
  failed(origin: string, kind: string, since?: number): void
  /** Returns how long the work may wait before its next attempt, in milliseconds. Negative if the budget is used up. */
  left(origin: string, work: Work, kind?: string): number
  /** Reports whether a host has answered before. */
  hasAnswered(origin: string): boolean
}

interface Host {
  /** The time of the last answer. */
  heard: number | undefined
  /** The time of the last progress before the first of the current failures. Undefined if there are none. */
  failingSince: number | undefined
  lastFailure: number
}

/** @param now returns a monotonic time in milliseconds */
export function createBudgets(now: () => number): Budgets {
  const hosts = new Map<string, Host>()

  function hostOf(key: string): Host {
    const host = hosts.get(key) ?? { heard: undefined, failingSince: undefined, lastFailure: 0 }
    hosts.set(key, host)
    return host
  }

  /** Returns the states of the host as a whole, and of this kind of request to it. */
  function hostsOf(origin: string, kind: string): readonly [Host, Host] {
    return [hostOf(origin), hostOf(`${kind} ${origin}`)]
  }

  function left(origin: string, work: Work, kind = ''): number {
    const since = hostsOf(origin, kind).map(({ failingSince = Number.POSITIVE_INFINITY }) => failingSince)
    const own = work.since === undefined ? Number.POSITIVE_INFINITY : work.since + work.transferred
    return Math.min(...since, own) + RETRY_BUDGET - now()
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
      // An old failure says nothing about a host that got no requests since.
      for (const host of both) if (start - host.lastFailure > RETRY_BUDGET) host.failingSince = undefined
      return {
        limit: (timeout) => {
          const cut = Math.max(0, STALL - Math.max(MIN_ATTEMPT_TIMEOUT, left(origin, work, kind)))
          return Math.max(timeout - cut, Math.min(timeout, MIN_ATTEMPT_TIMEOUT))
        },
        progress() {
          last = now()
        },
        answered: () => answered(origin, kind),
        failed() {
          failed(origin, kind, last)
          if (work.since === undefined) work.since = Math.max(last, both[1].heard ?? last)
          else if (work.count < MAX_TRANSFERS) work.transferred += last - start
        },
      }
    },
    left,
    hasAnswered: (origin) => hosts.get(origin)?.heard !== undefined,
  }
}

/** How long an attempt may go without a byte in either direction, in milliseconds. */
export const STALL = 60_000
