import { afterEach, beforeEach, expect, jest, test } from '@jest/globals'
import { reportSilence, startActivity } from '../src/log.ts'

let logged: string[]
let stop: () => void

beforeEach(() => {
  jest.useFakeTimers()
  logged = []
  stop = reportSilence((message) => void logged.push(message))
})

afterEach(() => {
  stop()
  jest.useRealTimers()
})

test('an activity without progress is reported every minute', () => {
  const activity = startActivity('ghcr.io to read ghcr.io/owner/app:latest')
  jest.advanceTimersByTime(59_000)
  expect(logged).toEqual([])
  jest.advanceTimersByTime(66_000)
  expect(logged).toEqual([
    'Still waiting for ghcr.io to read ghcr.io/owner/app:latest: no progress for 60 s',
    'Still waiting for ghcr.io to read ghcr.io/owner/app:latest: no progress for 120 s',
  ])
  activity.end()
  jest.advanceTimersByTime(600_000)
  expect(logged).toHaveLength(2)
})

test('an activity with progress is not reported', () => {
  const activity = startActivity('docker push')
  for (let minute = 0; minute < 5; minute++) {
    jest.advanceTimersByTime(50_000)
    activity.progress()
  }
  expect(logged).toEqual([])
  jest.advanceTimersByTime(65_000)
  expect(logged).toEqual(['Still waiting for docker push: no progress for 60 s'])
  activity.end()
})

test('each of several activities is reported', () => {
  const slow = startActivity('one')
  const quick = startActivity('two')
  quick.end()
  const other = startActivity('three')
  jest.advanceTimersByTime(65_000)
  expect(logged.map((line) => line.split(':')[0])).toEqual(['Still waiting for one', 'Still waiting for three'])
  slow.end()
  other.end()
})

test('nothing is reported after the reports are stopped', () => {
  const activity = startActivity('one')
  stop()
  jest.advanceTimersByTime(600_000)
  expect(logged).toEqual([])
  activity.end()
})
