import type { Log } from '../log.ts'
import type { Clock } from './clock.ts'
import { formatRetry } from './retry.ts'

/** A wait before a retry. */
export interface BackOff {
  readonly origin: string
  /** The number of failures so far. Requests with the same number of failures wait together. */
  readonly count: number
  /** In milliseconds. */
  readonly delay: number
  /** Whether the host has asked for the wait. If so, all requests to it wait. */
  readonly asked: boolean
  /** Whether the host limits the rate of requests. If so, all requests to it wait. */
  readonly limited?: boolean
  /** The reason, with the host, for the log. */
  readonly why: string
}

/** The waits before retries. Parallel requests to a host share a wait and its line in the log. */
export interface BackOffs {
  wait(backOff: BackOff): Promise<void>
  /** Waits until requests to a host are allowed. */
  ready(origin: string): Promise<void>
}

interface Pause {
  readonly end: number
  readonly over: Promise<void>
}

/** The most that two waits can differ by because of their jitter, in milliseconds. */
const JITTER = 1000

export function createBackOffs(clock: Clock, log: Pick<Log, 'info'>): BackOffs {
  const rounds = new Map<string, Pause>()
  const closed = new Map<string, Pause>()

  /** Starts a pause, and keeps it in the map until it ends. */
  function start(delay: number, pauses: Map<string, Pause>, key: string): Pause {
    const end = clock.now() + delay
    const over = clock.wait(delay).finally(() => {
      if (pauses.get(key) === pause) pauses.delete(key)
    })
    const pause = { end, over }
    pauses.set(key, pause)
    return pause
  }

  return {
    async wait({ origin, count, delay, asked, limited = false, why }) {
      const round = `${origin} ${count}`
      const shared = closed.get(origin) ?? (asked || limited ? undefined : rounds.get(round))
      if (shared !== undefined && (!asked || shared.end + JITTER >= clock.now() + delay)) return shared.over
      log.info(formatRetry(why, delay))
      await (asked || limited ? start(delay, closed, origin) : start(delay, rounds, round)).over
    },
    async ready(origin) {
      for (let pause = closed.get(origin); pause !== undefined; pause = closed.get(origin)) await pause.over
    },
  }
}
