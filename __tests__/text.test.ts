import { describe, expect, test } from '@jest/globals'
import { sanitize, withoutEscapes, withoutHidden } from '../src/text.ts'

const ESC = '\u001b'

describe('removes escape sequences:', () => {
  test.each([
    ['colours', `${ESC}[31;1mred${ESC}[0m`, 'red'],
    ['cursor movements', `a${ESC}[2K${ESC}[1Gb`, 'ab'],
    ['a control sequence that starts with one character', '\u009b31mred', 'red'],
    ['a title that ends with BEL', `${ESC}]0;title\u0007text`, 'text'],
    ['a link that ends with ST', `${ESC}]8;;https://example.org${ESC}\\text${ESC}]8;;${ESC}\\`, 'text'],
    ['a device control string', `${ESC}Pq#0${ESC}\\text`, 'text'],
    ['an unterminated title, up to the end of the line', `${ESC}]0;title\ntext`, '\ntext'],
    ['a character set', `${ESC}(Btext`, 'text'],
    ['an incomplete sequence', `text${ESC}[3`, 'text'],
    ['a single escape character', `text${ESC}`, 'text'],
  ])('%s', (_, text, rest) => {
    expect(withoutEscapes(text)).toBe(rest)
  })

  // With a regular expression of quadratic time, each of these takes minutes.
  test.each([`${ESC}]`, `${ESC}P`, `${ESC}[`, ESC, '\u009b', `${ESC}[0`, `${ESC}]0;x${ESC}`])(
    '%j, a million times in a row',
    (sequence) => {
      expect(withoutEscapes(sequence.repeat(1_000_000)).length).toBeLessThan(1_000_001)
    },
  )
})

test('removes invisible characters and keeps all others', () => {
  const hidden =
    '\u0000\u0008\r\u007f\u0085\u00ad\u061c\u200b\u200d\u200e\u202a\u202e\u2060\u2066\u2069\u2028\u2029\ufeff'
  expect(withoutHidden(`a${hidden}b\tc\nd \u{e0041}é名🙂\u3164`)).toBe('ab\tc\nd é名🙂')
})

describe('text for the job’s log', () => {
  test.each([
    ['a workflow command', '::error::x', ': :error::x'],
    ['a workflow command on a later line', 'a\n  ::set-env::x', 'a\n  : :set-env::x'],
    ['a workflow command after an invisible character', '\u200b::error::x', ': :error::x'],
    ['a workflow command after an escape sequence', `${ESC}[0m::error::x`, ': :error::x'],
    ['a workflow command after a carriage return', 'a\r\n\r::error::x', 'a\n: :error::x'],
    ['a command of old runners', 'a ##[add-mask]x', 'a # [add-mask]x'],
    ['a command of old runners with an invisible character in it', '#\u200b#[group]x', '# [group]x'],
  ])('does not have %s', (_, text, shown) => {
    expect(sanitize(text)).toBe(shown)
  })

  test('is limited in the length of each line and in total', () => {
    expect(sanitize('x'.repeat(1_000_000))).toBe(`${'x'.repeat(2000)}…`)
    const many = sanitize('line\n'.repeat(1_000_000))
    expect(many.length).toBeLessThan(70_000)
    expect(many).toMatch(/\n…$|…$/)
  })
})

// Unicode tags are invisible, and take two code units.
const [HIGH = '', LOW = ''] = '\u{e0041}'.split('')

test.each(['\r', '\u200b', '\u001b[0m', '\u009b0m'])(
  'removes an invisible character whose surrogates are separated by %j',
  (between) => {
    expect(sanitize(`a${HIGH}${between}${LOW}b`)).toBe('ab')
  },
)

test('keeps characters that take two code units', () => {
  expect(withoutHidden('a\u{1f600}b')).toBe('a\u{1f600}b')
})
