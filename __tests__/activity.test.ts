import { afterEach, beforeEach, expect, jest, test } from '@jest/globals'
import { reportSilence, startActivity } from '../src/activity.ts'

let said: string[]
let stop: () => void

beforeEach(() => {
  jest.useFakeTimers()
  said = []
  stop = reportSilence((message) => void said.push(message))
})

afterEach(() => {
  stop()
  jest.useRealTimers()
})

test('what makes no progress for a minute is reported, and once a minute', () => {
  const activity = startActivity('ghcr.io to read ghcr.io/owner/app:latest')
  jest.advanceTimersByTime(59_000)
  expect(said).toEqual([])
  jest.advanceTimersByTime(66_000)
  expect(said).toEqual([
    'Still waiting for ghcr.io to read ghcr.io/owner/app:latest: no progress for 60 s',
    'Still waiting for ghcr.io to read ghcr.io/owner/app:latest: no progress for 120 s',
  ])
  activity.end()
  jest.advanceTimersByTime(600_000)
  expect(said).toHaveLength(2)
})

test('what makes progress is not reported', () => {
  const activity = startActivity('docker push')
  for (let minute = 0; minute < 5; minute++) {
    jest.advanceTimersByTime(50_000)
    activity.progress()
  }
  expect(said).toEqual([])
  jest.advanceTimersByTime(65_000)
  expect(said).toEqual(['Still waiting for docker push: no progress for 60 s'])
  activity.end()
})

test('of several activities each is reported by itself', () => {
  const slow = startActivity('one')
  const quick = startActivity('two')
  quick.end()
  const other = startActivity('three')
  jest.advanceTimersByTime(65_000)
  expect(said.map((line) => line.split(':')[0])).toEqual(['Still waiting for one', 'Still waiting for three'])
  slow.end()
  other.end()
})

test('nothing is reported after the end', () => {
  const activity = startActivity('one')
  stop()
  jest.advanceTimersByTime(600_000)
  expect(said).toEqual([])
  activity.end()
})
