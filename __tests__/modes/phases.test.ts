import { expect, test } from '@jest/globals'
import { measurePhases, startPhases, totalTime } from '../../src/modes/phases.ts'

test('a phase ends when the next one begins, and the last one at the end', () => {
  const times = measurePhases(
    [
      { phase: 'check access', at: 1000 },
      { phase: 'evaluate', at: 1300 },
    ],
    7300,
  )
  expect(times).toEqual([
    { phase: 'check access', time: 300 },
    { phase: 'evaluate', time: 6000 },
  ])
  expect(totalTime(times)).toBe(6300)
  expect(measurePhases([], 7300)).toEqual([])
})

test('a phase that is entered again has one time, in the place of the first', () => {
  let now = 0
  const phases = startPhases(() => now)
  phases.enter('read and push')
  now = 5
  phases.enter('test')
  now = 7
  phases.enter('read and push')
  now = 10
  expect(phases.times()).toEqual([
    { phase: 'read and push', time: 8 },
    { phase: 'test', time: 2 },
  ])
})
