/** How far this machine's clock is behind a server's; negative if it is ahead. */
export interface ClockSkew {
  readonly host: string
  readonly milliseconds: number
}

/** In milliseconds. */
export const DAY = 86_400_000

/**
 * Returns how far this machine's clock is from a server's, if that is a day or more. An answer that a cache has kept has
 * the `Date` at which it was made, and proves nothing.
 */
export function clockSkew(host: string, headers: Headers, now: number): ClockSkew | undefined {
  const date = Date.parse(headers.get('date') ?? '')
  if (Number.isNaN(date) || headers.has('age') || Math.abs(date - now) < DAY) return undefined
  return { host, milliseconds: date - now }
}

/** Returns a time as a person reads it, to the minute: `2026-02-03 04:05 UTC`. @param time milliseconds since 1970 */
export function formatTime(time: number): string {
  return `${new Date(time).toISOString().slice(0, 16).replace('T', ' ')} UTC`
}

/** Time in milliseconds, from any moment on. */
export interface Clock {
  now(): number
  wait(milliseconds: number): Promise<void>
}

/** A clock that has always advanced by what was waited, even if `wait` lets no time pass. */
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
