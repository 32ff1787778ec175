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
