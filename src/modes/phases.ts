/** A part of a run whose time users want to know. */
export type Phase = 'check access' | 'evaluate' | 'fetch and build' | 'read and push' | 'read' | 'test' | 'hand over'

/** A phase that a run has entered, and when, in milliseconds from any origin. */
export interface EnteredPhase {
  readonly phase: Phase
  readonly at: number
}

/** How long a phase took, in milliseconds. */
export interface PhaseTime {
  readonly phase: Phase
  readonly time: number
}

/** Measures the phases of a run. */
export interface PhaseTimer {
  /** Ends the current phase, and begins another one. */
  enter(phase: Phase): void
  /** Returns the times up to now. */
  times(): readonly PhaseTime[]
}

export function startPhases(now: () => number = () => performance.now()): PhaseTimer {
  let entered: readonly EnteredPhase[] = []
  return {
    enter(phase) {
      entered = [...entered, { phase, at: now() }]
    },
    times: () => measurePhases(entered, now()),
  }
}

/** Returns the time of each phase, in the order in which they were first entered. A phase may be entered several times. */
export function measurePhases(entered: readonly EnteredPhase[], end: number): readonly PhaseTime[] {
  const times = new Map<Phase, number>()
  for (const [index, { phase, at }] of entered.entries())
    times.set(phase, (times.get(phase) ?? 0) + (entered[index + 1]?.at ?? end) - at)
  return [...times].map(([phase, time]) => ({ phase, time }))
}

/** Returns the time of all phases together, in milliseconds. */
export function totalTime(times: readonly PhaseTime[]): number {
  return times.reduce((sum, { time }) => sum + time, 0)
}
