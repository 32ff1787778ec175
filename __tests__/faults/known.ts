import type { Cell } from './cells.ts'
import type { Wrong } from './judge.ts'
import type { Judged } from './run.ts'

/** A way in which cells are known to be wrong; without `cells`, any of them may be. */
interface Known {
  readonly wrong: Wrong
  readonly cells?: (cell: Cell) => boolean
}

/** What is wrong until it is fixed. To be emptied. */
const KNOWN: readonly Known[] = [
  { wrong: 'fails', cells: isElsewhere },
  { wrong: 'slow', cells: isElsewhere },
  { wrong: 'unclear', cells: isElsewhere },
  { wrong: 'hang', cells: isElsewhere },
  { wrong: 'false success', cells: ({ kind }) => kind === 'ListArtifacts' },
]

/** Artifacts and Docker. */
function isElsewhere({ service }: Cell): boolean {
  return service === 'artifacts' || service === 'docker'
}

/** Whether a cell is wrong in a known way. */
export function isKnown({ cell, verdict }: Pick<Judged, 'cell' | 'verdict'>): boolean {
  return KNOWN.some(({ wrong, cells }) => wrong === verdict?.wrong && (cells?.(cell) ?? true))
}
