import { expect, test } from '@jest/globals'
import { allCells, formatCell, sample } from './cells.ts'
import { type Judged, runMatrix } from './run.ts'

/** Each day has a different sample. */
const SEED = process.env.FAULT_SEED || new Date().toISOString().slice(0, 10)
const CELLS = Number(process.env.FAULT_CELLS || 100)

test('a run survives any temporary fault of a request, and corrupts nothing if the fault lasts', async () => {
  const judged = await runMatrix({
    registries: 'stand-in',
    processes: 2,
    choose: (cells) => sample(cells, CELLS, SEED),
  })
  const wrong = judged.filter(({ verdict }) => verdict !== undefined)
  process.stdout.write(
    `Faults, with the seed ${SEED}: ${judged.length} cells, ${judged.length - wrong.length} passed, ${wrong.length} failed\n`,
  )
  const harmful = wrong.filter(({ verdict }) => !HARMLESS.has(verdict?.wrong ?? ''))
  expect(harmful.map(describeWrong)).toEqual([])
  // A few cells of the complete matrix fail, and a sample may contain some of them.
  expect(wrong.length > CELLS / 100 ? wrong.map(describeWrong) : []).toEqual([])
  expect(judged).toHaveLength(CELLS)
}, 180_000)

/** Failures without lasting damage: an unnecessary, late or unclear error. */
const HARMLESS: ReadonlySet<string> = new Set(['fails', 'slow', 'unclear'])

/** Formats a failure with the command that repeats it. */
function describeWrong({ cell, verdict }: Judged): string {
  return `${verdict?.wrong}: ${verdict?.why}\nnpm run test:faults -- --only "${formatCell(cell)}"`
}

test('the same seed draws the same cells, and a different seed draws different ones', () => {
  const cells = allCells([{ scenario: 'merge', counts: [['registry', 'GET manifest by tag', 3]] }])
  const names = (seed: string) => sample(cells, 20, seed).map(formatCell)
  expect(names('2026-01-01')).toEqual(names('2026-01-01'))
  expect(names('2026-01-02')).not.toEqual(names('2026-01-01'))
  expect(new Set(names('2026-01-01')).size).toBe(20)
})
