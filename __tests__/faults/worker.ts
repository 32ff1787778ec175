import type { Cell, Requests } from './cells.ts'
import { judge, type Verdict } from './judge.ts'
import { openLab, type Play } from './lab.ts'
import { SCENARIOS, type Service } from './scenarios.ts'

// Runs cells one after another in a process, by order of the parent process.

/** A message from the parent process. */
export type Order = { readonly kind: 'count' } | { readonly kind: 'cell'; readonly cell: Cell }

/** The answer to an order. */
export type Report =
  | { readonly kind: 'requests'; readonly requests: readonly Requests[] }
  | {
      readonly kind: 'judged'
      readonly cell: Cell
      readonly verdict: Verdict | undefined
      /** Whether the action sent the request that gets the fault. */
      readonly hit: boolean
      readonly log: string
      readonly milliseconds: number
    }

const lab = await openLab(process.argv[2] === 'distribution' ? 'distribution' : 'stand-in')
const clean = new Map<string, Play>()

process.on('message', (order: Order) => {
  obey(order).then(
    (report) => process.send?.(report),
    (error: unknown) => {
      process.stderr.write(`${(error as Error).stack}\n`)
      process.exit(1)
    },
  )
})
process.on('disconnect', () => void lab.close().finally(() => process.exit(0)))
process.send?.({ kind: 'ready' })

async function obey(order: Order): Promise<Report> {
  if (order.kind === 'count') return { kind: 'requests', requests: await countRequests() }
  const { cell } = order
  const scenario = SCENARIOS.find(({ name }) => name === cell.scenario)
  if (scenario === undefined) throw new Error(`There is no scenario ${cell.scenario}`)
  const expected = await cleanPlay(cell.scenario)
  const play = await lab.play(scenario, cell)
  const { log, milliseconds, hits } = play
  return { kind: 'judged', cell, verdict: judge(cell, play, expected, scenario), hit: hits > 0, log, milliseconds }
}

async function countRequests(): Promise<readonly Requests[]> {
  const all: Requests[] = []
  for (const { name, breaks } of SCENARIOS) {
    const { counts } = await cleanPlay(name)
    const listed = breaks.flatMap((service: Service) =>
      [...(counts[service] ?? [])].map(([kind, count]) => [service, kind, count] as const),
    )
    all.push({ scenario: name, counts: listed })
  }
  return all
}

async function cleanPlay(name: string): Promise<Play> {
  const known = clean.get(name)
  if (known !== undefined) return known
  const scenario = SCENARIOS.find((one) => one.name === name)
  if (scenario === undefined) throw new Error(`There is no scenario ${name}`)
  const play = await lab.play(scenario)
  if (play.exitCode !== 0)
    throw new Error(`"${name}" fails without a fault: ${play.hang ?? play.crash ?? ''}\n${play.log}`)
  clean.set(name, play)
  return play
}
