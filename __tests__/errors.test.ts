import { describe, expect, test } from '@jest/globals'
import { ActionError, messageOf } from '../src/errors.ts'

describe('the message of a failure', () => {
  test('is what failed, the other side’s words set in, and what to do', () => {
    const { message } = new ActionError({
      message: 'Nix could not build x',
      detail: 'error: a\n\n  b\n',
      hint: 'Try y.\nOr z.',
    })
    expect(message).toBe('Nix could not build x\n  error: a\n\n    b\nTry y.\nOr z.')
  })

  test.each([
    ['nothing but what failed', {}, 'x failed'],
    ['no words', { detail: undefined, hint: 'Do y.' }, 'x failed\nDo y.'],
    ['empty words', { detail: '', hint: 'Do y.' }, 'x failed\nDo y.'],
    ['no help', { detail: 'no' }, 'x failed\n  no'],
  ])('with %s has no empty lines', (_, parts, message) => {
    expect(new ActionError({ message: 'x failed', ...parts }).message).toBe(message)
  })

  test('keeps its cause', () => {
    const cause = new Error('deep down')
    expect(new ActionError({ message: 'x', cause }).cause).toBe(cause)
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
    const { message, parts } = new ActionError({
      message: `${long} failed`,
      detail: `${long}\n`.repeat(16),
      hint: `Do y. ${long}`,
    })
    expect(message.length).toBeLessThan(64 * 1024)
    expect(message).toMatch(/^n+…\n {2}n+…\nDo y\. n+…$/)
    expect(parts.detail?.length).toBeLessThan(64 * 1024)
  })
})
