import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/** Tells work that must not be left half done that the step is cancelled. */
export interface Cancellation {
  /** Aborted when the step is cancelled. */
  readonly signal: AbortSignal
  /** Lets a cancelled step end only once this work has settled. It has a few seconds. */
  finish<Result>(work: Promise<Result>): Promise<Result>
}

/** For work that nothing cancels. */
export const NOT_CANCELLABLE: Cancellation = { signal: new AbortController().signal, finish: (work) => work }

const finishing = new AsyncLocalStorage<true>()

/** Does work that remains once the step is cancelled, such as moving tags back. It may wait and retry, as other work may not. */
export function finishUp<Result>(work: () => Promise<Result>): Promise<Result> {
  return finishing.run(true, work)
}

/** Waits for so many milliseconds. If the step is cancelled, fails at once, unless the wait is part of `finishUp`. */
export async function waitUnlessCancelled(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, finishing.getStore() ? {} : { signal })
}

/**
 * Waits for work, or until a signal is aborted and so many milliseconds have passed. The work itself goes on.
 * @throws what `stopped` returns, if the work has not settled by then
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
