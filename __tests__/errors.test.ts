import { describe, expect, test } from '@jest/globals'
import { Failure, messageOf } from '../src/errors.ts'

describe('the message of a failure', () => {
  test('is what failed, the other side’s words set in, and what to do', () => {
    const { message } = new Failure({
      what: 'Nix could not build x',
      words: 'error: a\n\n  b\n',
      help: 'Try y.\nOr z.',
    })
    expect(message).toBe('Nix could not build x\n  error: a\n\n    b\nTry y.\nOr z.')
  })

  test.each([
    ['nothing but what failed', {}, 'x failed'],
    ['no words', { words: undefined, help: 'Do y.' }, 'x failed\nDo y.'],
    ['empty words', { words: '', help: 'Do y.' }, 'x failed\nDo y.'],
    ['no help', { words: 'no' }, 'x failed\n  no'],
  ])('with %s has no empty lines', (_, parts, message) => {
    expect(new Failure({ what: 'x failed', ...parts }).message).toBe(message)
  })

  test('keeps its cause', () => {
    const cause = new Error('deep down')
    expect(new Failure({ what: 'x', cause }).cause).toBe(cause)
  })
})

describe('the text of anything that was thrown', () => {
  test.each([
    ['an error', new Error('no'), 'no'],
    ['a text', 'no', 'no'],
    ['nothing', undefined, 'undefined'],
    [
      'the addresses that Node has tried',
      new AggregateError([new Error('::1 refused'), new Error('127.0.0.1 refused')]),
      '::1 refused; 127.0.0.1 refused',
    ],
    ['errors with a message of their own', new AggregateError([new Error('a')], 'both failed'), 'both failed'],
  ])('%s', (_, thrown, text) => {
    expect(messageOf(thrown)).toBe(text)
  })
})

describe('a failure with names or an answer of any length', () => {
  test('still says what to do, and is short enough for the log', () => {
    const long = 'n'.repeat(1_000_000)
    const { message, parts } = new Failure({
      what: `${long} failed`,
      words: `${long}\n`.repeat(16),
      help: `Do y. ${long}`,
    })
    expect(message.length).toBeLessThan(64 * 1024)
    expect(message).toMatch(/^n+…\n {2}n+…\nDo y\. n+…$/)
    expect(parts.words?.length).toBeLessThan(64 * 1024)
  })
})
