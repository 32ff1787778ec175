import { describe, expect, test } from '@jest/globals'
import { breakLines, code, codeBlock, codeCell, escapeMarkdown, foldLines, formatText, table } from '../src/markdown.ts'

describe('inline code', () => {
  test('contains anything but backticks and line breaks, which would end it', () => {
    expect(code('a`b``c\n# d')).toBe('`abc # d`')
    expect(code('``')).toBe('')
  })

  test('in a cell, can be broken if it is longer than a digest', () => {
    expect(codeCell(`sha256:${'1'.repeat(64)}`)).toBe(`\`sha256:${'1'.repeat(64)}\``)
    const part = 'a'.repeat(36)
    expect(codeCell(`${part}${part}_b<c>|`)).toBe(`<code>${part}<wbr>${part}<wbr>\\_b&lt;c&gt;\\|</code>`)
  })
})

test.each([
  ['HTML', '<img src=x onerror="alert(1)"> &amp;', '&lt;img src=x onerror="alert(1)"&gt; &amp;amp;'],
  ['formatting', '*a* _b_ ~c~ `d`', '\\*a\\* \\_b\\_ \\~c\\~ \\`d\\`'],
  ['an image', '![a](b)', '\\!\\[a\\](b)'],
  ['a heading', '# a', '\\# a'],
  ['a table', '| a | b |', '\\| a \\| b \\|'],
  ['a list', '- a', '\\- a'],
  ['a numbered list', '1. a', '1\\. a'],
  ['an underlined heading', 'a\n===', 'a\n\\==='],
  ['a link', 'https://example.com www.example.com', 'https&#58;//example.com www&#46;example.com'],
  ['a formula', '$a$', '\\$a\\$'],
])('escaped text is not %s', (_, text, expected) => {
  expect(escapeMarkdown(text)).toBe(expected)
})

test('text keeps inline code, and its indented lines become code blocks', () => {
  expect(formatText('Set `packages: write` for <b>:\n  permissions:\n    packages: write\nOr *not*.').join('\n')).toBe(
    [
      'Set `packages: write` for &lt;b&gt;:',
      '',
      '```',
      'permissions:',
      '  packages: write',
      '```',
      '',
      'Or \\*not\\*.',
      '',
    ].join('\n'),
  )
  expect(formatText('')).toEqual([])
})

describe('a code block', () => {
  test('ends only after its text', () => {
    expect(codeBlock('a\n```\n````b', 'sh')).toEqual(['`````sh', 'a', '```', '````b', '`````', ''])
  })

  test('keeps long lines, which may be commands', () => {
    expect(codeBlock('x'.repeat(300))).toContain('x'.repeat(300))
  })
})

test('broken lines are not cut off', () => {
  const lines = breakLines(`error: ${'a few words '.repeat(30)}\n${'x'.repeat(300)}\n  short`).split('\n')
  expect(lines.every(({ length }) => length <= 115)).toBe(true)
  expect(lines.join(' ')).toContain(`error: ${'a few words '.repeat(30).trim()}`)
  expect(lines.filter((line) => /^x+$/.test(line)).map(({ length }) => length)).toEqual([115, 115, 70])
  expect(lines.at(-1)).toBe('  short')
})

test('a table keeps its columns, whatever its cells contain', () => {
  expect(table(['a', 'b'], [['x|y', 'already \\| escaped']])).toEqual([
    '| a | b |',
    '|---|---|',
    '| x\\|y | already \\| escaped |',
    '',
  ])
  expect(table(['a'], [])).toEqual([])
})

test('folded lines are Markdown', () => {
  expect(foldLines('Details', ['- a', ''])).toEqual([
    '<details><summary>Details</summary>',
    '',
    '- a',
    '',
    '</details>',
    '',
  ])
})
