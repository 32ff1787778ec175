import { EventEmitter } from 'node:events'
import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals'
import { formatProgressBar, startProgressBar } from '../../src/cli/progress-bar.ts'
import { currentProgress, startMeter } from '../../src/progress.ts'

const environment = { ...process.env }
beforeEach(() => {
  // The spinner shows nothing in CI.
  delete process.env.CI
  process.env.TERM = 'xterm'
})
afterEach(() => {
  process.env = { ...environment }
  jest.useRealTimers()
})

test('the bar shows how much is done', () => {
  const progress = { work: 'Push', unit: 'layers', done: 3, total: 12 }
  expect(formatProgressBar(progress, 'ignored', 5.4, 80)).toBe('Push ██████░░░░░░░░░░░░░░░░░░ 3 of 12 layers · 5 s')
  expect(formatProgressBar({ ...progress, done: 12 }, '', 125, 80)).toBe(
    `Push ${'█'.repeat(24)} 12 of 12 layers · 2 min 5 s`,
  )
  expect(formatProgressBar(undefined, 'Build app', 5, 80)).toBe('Build app · 5 s')
  expect(formatProgressBar(undefined, '', 5, 80)).toBe('5 s')
})

test('the bar fits into the terminal', () => {
  expect(formatProgressBar(undefined, 'a long title', 5, 6)).toBe('a long')
})

test('the work that is counted last is shown until it ends', () => {
  const nix = startMeter('Nix', 'builds')
  expect(currentProgress()).toBeUndefined()
  nix.update(1, 3)
  const push = startMeter('Push', 'layers')
  expect(currentProgress()).toEqual({ work: 'Nix', unit: 'builds', done: 1, total: 3 })
  push.update(0, 2)
  expect(currentProgress()).toMatchObject({ work: 'Push', total: 2 })
  push.end()
  push.update(1, 2)
  expect(currentProgress()).toMatchObject({ work: 'Nix' })
  nix.end()
  expect(currentProgress()).toBeUndefined()
})

/** A terminal that records what is written to it. */
function openTerminal(isTTY: boolean) {
  const stream = new PassThrough()
  const cursor = { cursorTo: () => true, moveCursor: () => true, clearLine: () => true }
  return Object.assign(stream, { isTTY, columns: 60, ...cursor }) as unknown as NodeJS.WriteStream & PassThrough
}

test('a terminal shows the bar while work goes on, and the cursor again at the end', () => {
  jest.useFakeTimers()
  const terminal = openTerminal(true)
  const bar = startProgressBar(terminal)
  bar?.setPhase('Build app')
  const meter = startMeter('Push', 'layers')
  meter.update(1, 2)
  jest.advanceTimersByTime(1000)
  meter.end()
  bar?.stop()
  const written = String(terminal.read())
  expect(written).toContain('Build app · 0 s')
  expect(written).toMatch(/Push █{12}░{12} 1 of 2 layers · 1 s/)
  expect(written.endsWith('\u001b[?25h')).toBe(true)
})

test('a process that ends with the bar shows the cursor again', () => {
  const terminal = openTerminal(true)
  const exits = new EventEmitter()
  const bar = startProgressBar(terminal, exits)
  exits.emit('exit')
  expect(String(terminal.read()).endsWith('\u001b[?25h')).toBe(true)
  bar?.stop()
  expect(terminal.read()).toBeNull()
  expect(exits.listenerCount('exit')).toBe(0)
})

test('CI gets no bar, even with a terminal', () => {
  process.env.CI = 'true'
  const terminal = openTerminal(true)
  expect(startProgressBar(terminal)).toBeUndefined()
  expect(terminal.read()).toBeNull()
})

test('a file gets no bar', () => {
  const file = openTerminal(false)
  expect(startProgressBar(file)).toBeUndefined()
  expect(file.read()).toBeNull()
})
