import { describe, expect, test } from '@jest/globals'
import { ActionError, messageOf } from '../src/errors.ts'

describe('the message of an error', () => {
  test('has the message, the indented detail and the hint', () => {
    const { message } = new ActionError({
      message: 'Nix could not build x',
      detail: 'error: a\n\n  b\n',
      hint: 'Try y.\nOr z.',
    })
    expect(message).toBe('Nix could not build x\n  error: a\n\n    b\nTry y.\nOr z.')
  })

  test.each([
    ['only a message', {}, 'x failed'],
    ['no detail', { detail: undefined, hint: 'Do y.' }, 'x failed\nDo y.'],
    ['an empty detail', { detail: '', hint: 'Do y.' }, 'x failed\nDo y.'],
    ['no hint', { detail: 'no' }, 'x failed\n  no'],
  ])('with %s has no empty lines', (_, parts, message) => {
    expect(new ActionError({ message: 'x failed', ...parts }).message).toBe(message)
  })

  test('keeps its cause', () => {
    const cause = new Error('deep down')
    expect(new ActionError({ message: 'x', cause }).cause).toBe(cause)
  })
})

describe('messageOf returns the message of', () => {
  test.each([
    ['an error', new Error('no'), 'no'],
    ['a string', 'no', 'no'],
    ['undefined', undefined, 'undefined'],
    [
      'an AggregateError of Node, which has no message',
      new AggregateError([new Error('::1 refused'), new Error('127.0.0.1 refused')]),
      '::1 refused; 127.0.0.1 refused',
    ],
    ['an AggregateError with a message', new AggregateError([new Error('a')], 'both failed'), 'both failed'],
  ])('%s', (_, thrown, text) => {
    expect(messageOf(thrown)).toBe(text)
  })
})

describe('an error with very long parts', () => {
  test('keeps its hint, and is short enough for the log', () => {
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
