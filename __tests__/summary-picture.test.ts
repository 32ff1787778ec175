import { readFile } from 'node:fs/promises'
import { describe, expect, test } from '@jest/globals'
import { LONG_NAMES, pictured, sampleSummaries } from '../scripts/summary/samples.ts'

test('the picture in docs/images shows what the code writes; if not, run: npm run summary-picture', async () => {
  const source = await readFile(new URL('../docs/images/summary.md', import.meta.url), 'utf8')
  expect(source).toBe(pictured().join('\n'))
})

/** The width of the content of a run's page on GitHub, in pixels. */
const PAGE = 1012
/** Of a column, and of a character: rounded up. */
const CELL_PADDING = 28
const CHARACTER = 9

/** Returns the width in pixels of the longest part of a cell that a browser does not break. */
function leastWidth(cell: string): number {
  const parts = cell.replaceAll(/<code>|<\/code>|[`\\]/g, '').split(/<wbr>|<br>|\s/)
  return CELL_PADDING + CHARACTER * Math.max(...parts.map(({ length }) => length))
}

/** Returns the least width of each table of a summary. */
function tableWidths(markdown: string): readonly number[] {
  const tables = markdown.match(/(^\| .* \|\n)(^\|[-|]+\|\n)(^\| .* \|\n)+/gm) ?? []
  return tables.map((text) => {
    const rows = text
      .split('\n')
      .flatMap((line) => (line.startsWith('| ') ? [line.slice(2, -2).split(/ (?<!\\)\| /)] : []))
    const columns = rows[0]?.map((_, at) => Math.max(...rows.map((row) => leastWidth(row[at] ?? '')))) ?? []
    return columns.reduce((sum, width) => sum + width, 0)
  })
}

describe.each([
  ['short', sampleSummaries()],
  ['the longest possible', sampleSummaries(LONG_NAMES)],
])('with %s names, GitHub cuts nothing off the summary of', (_, samples) => {
  test.each(Object.entries(samples))('%s', (_name, markdown) => {
    expect(tableWidths(markdown).filter((width) => width > PAGE)).toEqual([])
  })

  test('a failure, whose output may have long lines', () => {
    const [, output = ''] = samples.failure?.split('```\n') ?? []
    expect(output).toContain('error: builder for')
    expect(output.split('\n').filter(({ length }) => length > 115)).toEqual([])
  })
})

test('all summaries have one level of headings', () => {
  for (const markdown of Object.values(sampleSummaries()))
    expect(markdown.match(/^#+ /gm)).toEqual(markdown.match(/^### /gm))
})
