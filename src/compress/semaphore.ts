/** A number of places, of which each can be taken by one at a time. */
export interface Slots {
  /** Resolves when a place is free, first come, first served. */
  take(): Promise<void>
  give(): void
}

/** @param count how many there are */
export function createSlots(count: number): Slots {
  let free = count
  const waiting: (() => void)[] = []
  return {
    take() {
      if (free > 0) {
        free--
        return Promise.resolve()
      }
      return new Promise((resolve) => {
        waiting.push(resolve)
      })
    },
    give() {
      const next = waiting.shift()
      if (next === undefined) free++
      else next()
    },
  }
}
