import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/** The cancellation of the step, for work that must not be left half done. */
export interface Cancellation {
  /** Aborted when the step is cancelled. */
  readonly signal: AbortSignal
  /** Delays the end of a cancelled step until this work has settled, for a few seconds at most. */
  deferExit<Result>(work: Promise<Result>): Promise<Result>
}

/** For work that is never cancelled. */
export const NOT_CANCELLABLE: Cancellation = { signal: new AbortController().signal, deferExit: (work) => work }

const finishing = new AsyncLocalStorage<true>()

/** Runs work that is still necessary after the step is cancelled, such as restoring tags. It may wait and retry. */
export function finishUp<Result>(work: () => Promise<Result>): Promise<Result> {
  return finishing.run(true, work)
}

/** Waits for a number of milliseconds. Rejects when the step is cancelled, unless called within `finishUp`. */
export async function waitUnlessCancelled(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, finishing.getStore() ? {} : { signal })
}

/** Waits for work that never rejects, for a number of milliseconds at most. */
export async function waitUpTo(milliseconds: number, work: Promise<unknown>): Promise<void> {
  const waiting = new AbortController()
  const time = sleep(milliseconds, undefined, { signal: waiting.signal }).catch(() => undefined)
  await Promise.race([work, time])
  waiting.abort()
}

/**
 * Waits for work until a signal is aborted, and then for a number of milliseconds at most. Does not stop the work.
 * @throws the error that `stopped` returns, if the work has not settled by then
 */
export async function untilAborted<Result>(
  work: Promise<Result>,
  signal: AbortSignal,
  stopped: () => Error,
  milliseconds = 0,
): Promise<Result> {
  const aborted = Promise.withResolvers<void>()
  const settled = new AbortController()
  const onAbort = () => aborted.resolve()
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })
  const stop = async (): Promise<never> => {
    await aborted.promise
    if (milliseconds > 0) await sleep(milliseconds, undefined, { signal: settled.signal })
    throw stopped()
  }
  try {
    return await Promise.race([work, stop()])
  } finally {
    settled.abort()
    signal.removeEventListener('abort', onAbort)
  }
}
