import { afterEach, beforeEach, expect, jest, test } from '@jest/globals'
import { reportSilence, startActivity, withProgress } from '../src/log.ts'

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

test('an activity without progress is reported every 30 seconds', () => {
  const activity = startActivity('ghcr.io to read ghcr.io/owner/app:latest')
  jest.advanceTimersByTime(29_000)
  expect(logged).toEqual([])
  jest.advanceTimersByTime(36_000)
  expect(logged).toEqual([
    'Still waiting for ghcr.io to read ghcr.io/owner/app:latest: no progress for 30 s',
    'Still waiting for ghcr.io to read ghcr.io/owner/app:latest: no progress for 60 s',
  ])
  activity.end()
  jest.advanceTimersByTime(600_000)
  expect(logged).toHaveLength(2)
})

test('an activity with progress is not reported', () => {
  const activity = startActivity('docker push')
  for (let times = 0; times < 5; times++) {
    jest.advanceTimersByTime(25_000)
    activity.progress()
  }
  expect(logged).toEqual([])
  jest.advanceTimersByTime(35_000)
  expect(logged).toEqual(['Still waiting for docker push: no progress for 30 s'])
  activity.end()
})

test('each of several activities is reported', () => {
  const slow = startActivity('one')
  const quick = startActivity('two')
  quick.end()
  const other = startActivity('three')
  jest.advanceTimersByTime(35_000)
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

test('long work is reported every 30 seconds, with what has been done, until it ends', async () => {
  const work = Promise.withResolvers<string>()
  let done = 0
  const info = (message: string) => void logged.push(message)
  const working = withProgress(
    { info },
    'pushing layers',
    () => work.promise,
    () => `${done} layers done`,
  )
  jest.advanceTimersByTime(29_000)
  expect(logged).toEqual([])
  done = 3
  jest.advanceTimersByTime(1000)
  done = 8
  jest.advanceTimersByTime(30_000)
  expect(logged).toEqual([
    'Still pushing layers after 30 s: 3 layers done',
    'Still pushing layers after 60 s: 8 layers done',
  ])
  work.resolve('result')
  expect(await working).toBe('result')
  jest.advanceTimersByTime(600_000)
  expect(logged).toHaveLength(2)
})

test('the reports of long work end when it fails', async () => {
  const info = (message: string) => void logged.push(message)
  await expect(withProgress({ info }, 'reading', () => Promise.reject(new Error('broken')))).rejects.toThrow('broken')
  jest.advanceTimersByTime(600_000)
  expect(logged).toEqual([])
})
