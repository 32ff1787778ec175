import { expect, test } from '@jest/globals'
import { allCells, printCell, sample } from './cells.ts'
import { isKnown } from './known.ts'
import { type Judged, runMatrix } from './run.ts'

/** Another sample each day. */
const SEED = process.env.FAULT_SEED || new Date().toISOString().slice(0, 10)
const CELLS = Number(process.env.FAULT_CELLS || 200)

test('a request that fails in any way fails no run if the fault passes, and corrupts nothing if it lasts', async () => {
  const judged = await runMatrix({
    registries: 'stand-in',
    processes: 2,
    choose: (cells) => sample(cells, CELLS, SEED),
  })
  const wrong = judged.filter(({ verdict }) => verdict !== undefined)
  process.stdout.write(
    `Faults, with the seed ${SEED}: ${judged.length} cells, ${judged.length - wrong.length} right, ${wrong.length} wrong\n`,
  )
  expect(wrong.filter((one) => !isKnown(one)).map(describeWrong)).toEqual([])
  expect(judged).toHaveLength(CELLS)
}, 180_000)

/** With the command that runs it again. */
function describeWrong({ cell, verdict }: Judged): string {
  return `${verdict?.wrong}: ${verdict?.why}\nnpm run test:faults -- --only "${printCell(cell)}"`
}

test('the same seed draws the same cells, and another seed other ones', () => {
  const cells = allCells([{ scenario: 'merge', counts: [['registry', 'GET manifest by tag', 3]] }])
  const names = (seed: string) => sample(cells, 20, seed).map(printCell)
  expect(names('2026-01-01')).toEqual(names('2026-01-01'))
  expect(names('2026-01-02')).not.toEqual(names('2026-01-01'))
  expect(new Set(names('2026-01-01')).size).toBe(20)
})
