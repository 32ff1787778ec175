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
  { wrong: 'fails' },
  { wrong: 'slow' },
  { wrong: 'unclear' },
  { wrong: 'hang', cells: ({ service, fault }) => service === 'artifacts' || /nothing|no answer|frozen/.test(fault) },
  { wrong: 'false success', cells: ({ kind }) => /^(GET compare|PUT manifest by tag|ListArtifacts)$/.test(kind) },
  { wrong: 'tags', cells: ({ scenario, kind }) => scenario === 'build' && /(GET token|manifest by tag)$/.test(kind) },
]

/** Whether a cell is wrong in a known way. */
export function isKnown({ cell, verdict }: Pick<Judged, 'cell' | 'verdict'>): boolean {
  return KNOWN.some(({ wrong, cells }) => wrong === verdict?.wrong && (cells?.(cell) ?? true))
}
