/** Like Promise.all, but waits for all promises to settle before rejecting, so that callers can clean up safely. */
export async function settleAll<Value>(promises: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}

/** The value of a promise, or the error that it was rejected with. */
export interface Settled<Value> {
  readonly value?: Value
  readonly error?: unknown
}

export async function settled<Value>(promise: Promise<Value>): Promise<Settled<Value>> {
  try {
    return { value: await promise }
  } catch (error) {
    return { error }
  }
}

/**
 * Maps items with at most `limit` of them in work at the same time. After a failure, starts no more, and waits for those
 * in work before rejecting.
 */
export async function mapAtMost<Item, Result>(
  limit: number,
  items: readonly Item[],
  map: (item: Item) => Promise<Result>,
): Promise<readonly Result[]> {
  const results: Result[] = []
  const left = items.entries()
  let failed = false
  const work = async () => {
    for (const [at, item] of left) {
      if (failed) return
      try {
        results[at] = await map(item)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  await settleAll(Array.from({ length: limit }, work))
  return results
}

/** Limits how many tasks run at once. */
export interface Semaphore {
  /** Resolves when a permit is available, in the order of the calls. */
  acquire(): Promise<void>
  release(): void
}

/** @param count the number of permits */
export function createSemaphore(count: number): Semaphore {
  let free = count
  const waiting: (() => void)[] = []
  return {
    acquire() {
      if (free > 0) {
        free--
        return Promise.resolve()
      }
      return new Promise((resolve) => {
        waiting.push(resolve)
      })
    },
    release() {
      const next = waiting.shift()
      if (next === undefined) free++
      else next()
    },
  }
}
