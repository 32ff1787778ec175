/** The difference between a server's clock and this machine's. Positive if this machine's is behind. */
export interface ClockSkew {
  readonly host: string
  readonly milliseconds: number
}

/** In milliseconds. */
export const DAY = 86_400_000

/**
 * Returns the difference between a server's clock and this machine's, if it is a day or more. Ignores answers from caches,
 * which keep the original `Date`.
 */
export function clockSkew(host: string, headers: Headers, now: number): ClockSkew | undefined {
  const date = Date.parse(headers.get('date') ?? '')
  if (Number.isNaN(date) || headers.has('age') || Math.abs(date - now) < DAY) return undefined
  return { host, milliseconds: date - now }
}

/** Formats a time to the minute: `2026-02-03 04:05 UTC`. @param time milliseconds since 1970 */
export function formatTime(time: number): string {
  return `${new Date(time).toISOString().slice(0, 16).replace('T', ' ')} UTC`
}

/** A monotonic clock, in milliseconds. */
export interface Clock {
  now(): number
  wait(milliseconds: number): Promise<void>
}

/** Creates a clock that advances by the length of each wait, even if `wait` returns at once, as in tests. */
export function createClock(now: () => number, wait: (milliseconds: number) => Promise<unknown>): Clock {
  let skipped = 0
  const read = (): number => now() + skipped
  return {
    now: read,
    async wait(milliseconds) {
      const end = read() + milliseconds
      await wait(milliseconds)
      skipped += Math.max(0, end - read())
    },
  }
}
