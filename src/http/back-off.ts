import type { Log } from '../log.ts'
import type { Clock } from './clock.ts'

/** A wait before something is tried again. */
export interface BackOff {
  readonly origin: string
  /** How often it has failed. Requests that have failed equally often wait together. */
  readonly count: number
  /** In milliseconds. */
  readonly delay: number
  /** Whether the host has asked for it. Then all its requests wait. */
  readonly asked: boolean
  /** Whether the host limits how often it is asked. Then all its requests wait, whatever it asks for. */
  readonly limited?: boolean
  /** For the log, with the host. */
  readonly why: string
}

/** Waits between attempts. Parallel requests to a host share them, and their lines in the log. */
export interface BackOffs {
  wait(backOff: BackOff): Promise<void>
  /** Waits until a host may be asked. */
  passed(origin: string): Promise<void>
}

interface Pause {
  readonly end: number
  readonly over: Promise<void>
}

/** What the random parts of two waits can differ by, in milliseconds. */
const JITTER = 1000

export function createBackOffs(clock: Clock, log: Pick<Log, 'info'>): BackOffs {
  const rounds = new Map<string, Pause>()
  const closed = new Map<string, Pause>()

  /** Starts a pause, which stands in the map while it lasts. */
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
      log.info(`${why}; retrying in ${(delay / 1000).toFixed(1)} s`)
      await (asked || limited ? start(delay, closed, origin) : start(delay, rounds, round)).over
    },
    async passed(origin) {
      for (let pause = closed.get(origin); pause !== undefined; pause = closed.get(origin)) await pause.over
    },
  }
}
