/** The progress of work whose amount is known. */
export interface Progress {
  /** Names the work: `Nix`, `Push`. */
  readonly work: string
  readonly done: number
  /** May grow while the work goes on. */
  readonly total: number
  /** The things that are counted: `layers`. */
  readonly unit: string
}

/** Counts the progress of work, for a progress bar. */
export interface Meter {
  update(done: number, total: number): void
  end(): void
}

const meters = new Set<Progress>()

/** Starts to count the progress of work in this process. */
export function startMeter(work: string, unit: string): Meter {
  let current: Progress = { work, unit, done: 0, total: 0 }
  meters.add(current)
  return {
    update(done, total) {
      if (!meters.delete(current)) return
      current = { ...current, done, total }
      meters.add(current)
    },
    end: () => void meters.delete(current),
  }
}

/** Returns the progress of the work that was counted last, if any is going on. */
export function currentProgress(): Progress | undefined {
  return [...meters].filter(({ total }) => total > 0).at(-1)
}
