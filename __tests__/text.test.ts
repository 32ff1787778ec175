import { describe, expect, test } from '@jest/globals'
import { sanitize, withoutEscapes, withoutHidden } from '../src/text.ts'

const ESC = '\u001b'

describe('escape sequences are left out:', () => {
  test.each([
    ['colours', `${ESC}[31;1mred${ESC}[0m`, 'red'],
    ['moves of the cursor', `a${ESC}[2K${ESC}[1Gb`, 'ab'],
    ['in one character', '\u009b31mred', 'red'],
    ['a title, ended by BEL', `${ESC}]0;title\u0007text`, 'text'],
    ['a link, ended by ST', `${ESC}]8;;https://example.org${ESC}\\text${ESC}]8;;${ESC}\\`, 'text'],
    ['a device control string', `${ESC}Pq#0${ESC}\\text`, 'text'],
    ['a title that does not end, up to the line’s end', `${ESC}]0;title\ntext`, '\ntext'],
    ['a character set', `${ESC}(Btext`, 'text'],
    ['one cut short', `text${ESC}[3`, 'text'],
    ['no more than an escape', `text${ESC}`, 'text'],
  ])('%s', (_, text, rest) => {
    expect(withoutEscapes(text)).toBe(rest)
  })

  // With expressions that look for an end from each beginning, each of these takes minutes.
  test.each([`${ESC}]`, `${ESC}P`, `${ESC}[`, ESC, '\u009b', `${ESC}[0`, `${ESC}]0;x${ESC}`])(
    'a million times %j in a row',
    (sequence) => {
      expect(withoutEscapes(sequence.repeat(1_000_000)).length).toBeLessThan(1_000_001)
    },
  )
})

test('characters that are not seen are left out, and those that are stay', () => {
  const hidden =
    '\u0000\u0008\r\u007f\u0085\u00ad\u061c\u200b\u200d\u200e\u202a\u202e\u2060\u2066\u2069\u2028\u2029\ufeff'
  expect(withoutHidden(`a${hidden}b\tc\nd \u{e0041}é名🙂\u3164`)).toBe('ab\tc\nd é名🙂')
})

describe('in the job’s log', () => {
  test.each([
    ['a command', '::error::x', ': :error::x'],
    ['a command on a later line', 'a\n  ::set-env::x', 'a\n  : :set-env::x'],
    ['a command behind a hidden character', '\u200b::error::x', ': :error::x'],
    ['a command behind an escape sequence', `${ESC}[0m::error::x`, ': :error::x'],
    ['a command behind a carriage return', 'a\r\n\r::error::x', 'a\n: :error::x'],
    ['an old command', 'a ##[add-mask]x', 'a # [add-mask]x'],
    ['an old command with a hidden character in it', '#\u200b#[group]x', '# [group]x'],
  ])('%s is none', (_, text, shown) => {
    expect(sanitize(text)).toBe(shown)
  })

  test('neither a line nor a text is endless', () => {
    expect(sanitize('x'.repeat(1_000_000))).toBe(`${'x'.repeat(2000)}…`)
    const many = sanitize('line\n'.repeat(1_000_000))
    expect(many.length).toBeLessThan(70_000)
    expect(many).toMatch(/\n…$|…$/)
  })
})

// A tag of Unicode's is not seen, and takes two code units.
const [HIGH = '', LOW = ''] = '\u{e0041}'.split('')

test.each(['\r', '\u200b', '\u001b[0m', '\u009b0m'])(
  'no hidden character is made of two halves around %j',
  (between) => {
    expect(sanitize(`a${HIGH}${between}${LOW}b`)).toBe('ab')
  },
)

test('characters of two halves stay', () => {
  expect(withoutHidden('a\u{1f600}b')).toBe('a\u{1f600}b')
})
