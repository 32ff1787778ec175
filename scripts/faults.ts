// Runs the fault matrix: each request of the action fails in each way, once or always.
//
//   npm run test:faults                             all cells
//   npm run test:faults -- --only "PUT blob"        only cells with this in their names; a single one prints its log
//   npm run test:faults -- --cells 500 --seed 7     a sample
//   npm run test:faults -- --registry distribution  with Docker Distribution
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { type Cell, formatCell, sample } from '../__tests__/faults/cells.ts'
import { type Judged, runMatrix } from '../__tests__/faults/run.ts'

/** The share of cells that may fail. */
const TOLERATED = 0.002

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    cells: { type: 'string' },
    seed: { type: 'string', default: new Date().toISOString().slice(0, 10) },
    registry: { type: 'string', default: 'stand-in' },
  },
})

const judged = await runMatrix({
  registries: values.registry === 'distribution' ? 'distribution' : 'stand-in',
  processes: availableParallelism() + 1,
  choose,
  onJudged: (one, count, all) => {
    if (one.verdict !== undefined) console.log(describe(one))
    if (count % 500 === 0) console.log(`${count} of ${all} cells`)
  },
})
const [only] = judged
if (only !== undefined && judged.length === 1) console.log(only.log)
const wrong = judged.filter(({ verdict }) => verdict !== undefined)
for (const [kind, ones] of Map.groupBy(wrong, ({ verdict }) => verdict?.wrong)) console.log(`${kind}: ${ones.length}`)
console.log(`${judged.length} cells: ${judged.length - wrong.length} passed, ${wrong.length} failed`)
process.exitCode = wrong.length > judged.length * TOLERATED ? 1 : 0

function choose(cells: readonly Cell[]): readonly Cell[] {
  const chosen = cells.filter((cell) => formatCell(cell).includes(values.only))
  if (values.cells === undefined) return chosen
  console.log(`The seed is ${values.seed}`)
  return sample(chosen, Number(values.cells), values.seed)
}

function describe({ cell, verdict }: Judged): string {
  return `${verdict?.wrong}: ${formatCell(cell)}\n  ${verdict?.why.replaceAll('\n', '\n  ')}`
}
