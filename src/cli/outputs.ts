import type { Result } from '../modes/mode.ts'

/** Outputs that the log or the folder of records has in a readable form. */
const ELSEWHERE: ReadonlySet<string> = new Set(['name', 'record', 'changes', 'differences'])

/** Formats the outputs of a mode for the standard output: a name and a value per line, with lists on several lines. */
export function formatOutputs(outputs: Result['outputs']): string {
  const shown = Object.entries(outputs).filter(([name, value]) => !ELSEWHERE.has(name) && value !== '')
  const width = Math.max(0, ...shown.map(([name]) => name.length)) + 2
  return shown.map(([name, value]) => `${formatLines(name, value, width)}\n`).join('')
}

/** Formats the outputs of a mode as one JSON object. */
export function formatJson(outputs: Result['outputs']): string {
  const values = Object.entries(outputs).map(([name, value]) => [name, readOutput(name, value)])
  return `${JSON.stringify(Object.fromEntries(values), undefined, 2)}\n`
}

function formatLines(name: string, value: string, width: number): string {
  const rows = JSON_OUTPUTS.has(name) ? formatRows(JSON.parse(value)) : value.split('\n')
  return rows.map((row, at) => `${(at === 0 ? name : '').padEnd(width)}${row}`).join('\n')
}

/** Outputs that are JSON. */
const JSON_OUTPUTS: ReadonlySet<string> = new Set(['platforms', 'changes', 'matrix', 'differences'])
/** Outputs that are lists, one item per line. */
const LIST_OUTPUTS: ReadonlySet<string> = new Set(['tags', 'skipped-tags', 'record'])
const NUMBER_OUTPUTS: ReadonlySet<string> = new Set(['pushed-bytes', 'reused-layers'])

function readOutput(name: string, value: string): unknown {
  if (name === 'record') return value.split('\n').map((line) => JSON.parse(line))
  if (JSON_OUTPUTS.has(name) && value !== '') return JSON.parse(value)
  if (LIST_OUTPUTS.has(name)) return value.split('\n').filter((line) => line !== '')
  if (NUMBER_OUTPUTS.has(name)) return Number(value)
  return /^(true|false)$/.test(value) ? value === 'true' : value
}

/** Formats objects as the rows of a table. */
function formatRows(value: unknown): readonly string[] {
  const items = isMatrix(value) ? value.include : Array.isArray(value) ? value : [value]
  const rows = items.map((item) =>
    Object.entries(item as object).map(([key, one]) => (one === true ? key : String(one))),
  )
  const widths = rows.reduce<readonly number[]>(
    (most, row) => row.map((cell, at) => Math.max(cell.length, most[at] ?? 0)),
    [],
  )
  return rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

function isMatrix(value: unknown): value is { readonly include: readonly unknown[] } {
  return typeof value === 'object' && value !== null && 'include' in value && Array.isArray(value.include)
}
