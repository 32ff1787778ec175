import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { allCells, type Cell, type Requests } from './cells.ts'
import type { Verdict } from './judge.ts'
import type { Order, Report } from './worker.ts'

export interface MatrixCall {
  readonly registries: 'stand-in' | 'distribution'
  readonly processes: number
  /** Selects the cells to run. */
  readonly choose: (cells: readonly Cell[]) => readonly Cell[]
  readonly onJudged?: (judged: Judged, count: number, all: number) => void
}

export interface Judged {
  readonly cell: Cell
  /** Undefined if the cell passes. */
  readonly verdict: Verdict | undefined
  readonly hit: boolean
  readonly log: string
  /** In virtual time. */
  readonly milliseconds: number
}

/** Runs cells of the matrix in several processes. */
export async function runMatrix({ registries, processes, choose, onJudged }: MatrixCall): Promise<readonly Judged[]> {
  const workers = await Promise.all(Array.from({ length: processes }, () => startWorker(registries)))
  try {
    const [first] = workers
    if (first === undefined) return []
    const counted = await first.ask({ kind: 'count' })
    if (counted.kind !== 'requests') throw new Error('the worker sent an unexpected answer')
    const cells = choose(allCells(counted.requests as readonly Requests[]))
    const waiting = [...cells]
    const judged: Judged[] = []
    const work = async (at: number): Promise<void> => {
      for (let cell = waiting.shift(); cell !== undefined; cell = waiting.shift()) {
        const worker = workers[at] as Worker
        const report = await worker.ask({ kind: 'cell', cell })
        if (report.kind !== 'judged') throw new Error('the worker sent an unexpected answer')
        judged.push(report)
        onJudged?.(report, judged.length, cells.length)
        // Pending work of this process would affect the next cell.
        if (report.verdict?.wrong === 'hang' || report.verdict?.wrong === 'defect') {
          await worker.close()
          workers[at] = await startWorker(registries)
        }
      }
    }
    await Promise.all(workers.map((_, at) => work(at)))
    return judged
  } finally {
    await Promise.all(workers.map((worker) => worker.close()))
  }
}

interface Worker {
  ask(order: Order): Promise<Report>
  close(): Promise<void>
}

async function startWorker(registries: MatrixCall['registries']): Promise<Worker> {
  const path = fileURLToPath(new URL('worker.ts', import.meta.url))
  const options = ['--disable-warning=ExperimentalWarning']
  const child = fork(path, [registries], { execArgv: options, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] })
  let said = ''
  child.stdout?.on('data', (text) => {
    said += text
  })
  child.stderr?.on('data', (text) => {
    said += text
  })
  const exited = new Promise<void>((resolve) => void child.once('exit', () => resolve()))
  const failed = exited.then(() => Promise.reject(new Error(`A worker ended:\n${said}`)))
  failed.catch(() => undefined)
  await Promise.race([nextMessage(child), failed])
  return {
    ask: (order) => {
      child.send(order)
      return Promise.race([nextMessage(child), failed]) as Promise<Report>
    },
    close: async () => {
      if (child.connected) child.disconnect()
      await exited
    },
  }
}

function nextMessage(child: ChildProcess): Promise<unknown> {
  return new Promise((resolve) => void child.once('message', resolve))
}
