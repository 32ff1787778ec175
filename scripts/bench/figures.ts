import { type Measured, median } from './measure.ts'

/** The measurements of one run of one tool. */
export interface Run extends Measured {
  /** Uploaded bytes, if known. */
  readonly bytes?: number
  readonly requests?: number
}

export interface Figures {
  readonly seconds: number
  readonly cpuSeconds?: number
  readonly memoryMB?: number
  readonly pushedMB?: number
  readonly requests?: number
}

export interface Row {
  readonly name: string
  readonly own: Figures
  readonly other?: Figures & { readonly tool: string }
  /** This action's time divided by the other tool's, or another figure if `unit` is seconds. */
  readonly ratio: number
  readonly bound: number
  readonly unit: '×' | 's'
  /** This action's uploaded bytes divided by the other tool's. */
  readonly bytesRatio?: number
}

/** Returns the medians of runs. */
export function figures(all: readonly Run[]): Figures {
  const of = (read: (one: Run) => number | undefined) => {
    const known = all.map(read).filter((value) => value !== undefined)
    return known.length > 0 ? median(known) : undefined
  }
  const [cpuSeconds, memory, bytes, requests] = [
    of((one) => one.cpuSeconds),
    of((one) => one.memory),
    of((one) => one.bytes),
    of((one) => one.requests),
  ]
  return {
    seconds: median(all.map(({ seconds }) => seconds)),
    ...(cpuSeconds !== undefined && { cpuSeconds }),
    ...(memory !== undefined && { memoryMB: memory / 1e6 }),
    ...(bytes !== undefined && { pushedMB: bytes / 1e6 }),
    ...(requests !== undefined && { requests }),
  }
}

export function compare(
  name: string,
  bound: number,
  tool: string,
  [own, other]: readonly [readonly Run[], readonly Run[]],
): Row {
  const [ours, theirs] = [figures(own), figures(other)]
  // The median of the ratios of adjacent runs, which are affected by the same load.
  const ratio = median(own.map((one, at) => one.seconds / (other[at]?.seconds ?? Number.NaN)))
  const bytesRatio = ours.pushedMB && theirs.pushedMB ? ours.pushedMB / theirs.pushedMB : undefined
  return { name, own: ours, other: { tool, ...theirs }, ratio, bound, unit: '×', ...(bytesRatio && { bytesRatio }) }
}

/** Compares how many more seconds this action takes. */
export function compareTime(
  name: string,
  bound: number,
  tool: string,
  [own, other]: readonly [readonly Run[], readonly Run[]],
): Row {
  const [ours, theirs] = [figures(own), figures(other)]
  const ratio = ours.seconds - theirs.seconds
  return { name, own: ours, other: { tool, ...theirs }, ratio, bound, unit: 's' }
}

/** Formats rows as a Markdown table. */
export function table(rows: readonly Row[]): string {
  const head = [
    'case',
    'this action',
    'pushed',
    'CPU',
    'memory',
    'compared with',
    'its time',
    'it pushed',
    'result',
    'limit',
    'met',
  ]
  const lines = rows.map(({ name, own, other, ratio, bound, unit }) => [
    name,
    `${own.seconds.toFixed(2)} s`,
    formatTraffic(own),
    formatFigure(own.cpuSeconds, 's'),
    formatFigure(own.memoryMB, 'MB'),
    other?.tool ?? '',
    other ? `${other.seconds.toFixed(2)} s` : '',
    other ? formatTraffic(other) : '',
    `${ratio.toFixed(2)} ${unit}`,
    `${bound} ${unit}`,
    ratio <= bound ? 'yes' : 'no',
  ])
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function formatTraffic({ pushedMB, requests }: Figures): string {
  const parts = [formatFigure(pushedMB, 'MB'), requests === undefined ? '' : `${requests} requests`]
  return parts.filter((part) => part !== '').join(', ')
}

function formatFigure(value: number | undefined, unit: string): string {
  return value === undefined ? '' : `${value.toFixed(1)} ${unit}`
}
