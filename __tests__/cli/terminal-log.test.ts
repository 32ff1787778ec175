import { Writable } from 'node:stream'
import { stripVTControlCharacters } from 'node:util'
import { beforeEach, expect, test } from '@jest/globals'
import { createTerminalLog } from '../../src/cli/terminal-log.ts'

let written = ''
beforeEach(() => {
  written = ''
})

function streamOf(hasColors: boolean): Writable & { readonly hasColors: () => boolean } {
  const stream = new Writable({
    write(chunk, _encoding, done) {
      written += String(chunk)
      done()
    },
  })
  return Object.assign(stream, { hasColors: () => hasColors })
}

function logTo(hasColors: boolean, { verbose = false, phases = [] as string[] } = {}) {
  const reword = (message: string) => message.replace('input', 'option')
  return createTerminalLog({ stream: streamOf(hasColors), verbose, reword, onPhase: (title) => phases.push(title) })
}

test('messages are plain lines with a label, in the words of the command line', async () => {
  const log = logTo(false)
  log.info('pushed')
  log.notice('the input is ignored')
  log.warning('careful')
  log.error('failed\n  the reason\nWhat to do')
  log.debug('details')
  const result = await log.groupToolOutput('Build app', async () => {
    log.toolLine('[command]/usr/bin/nix build')
    log.toolLine('\u001b[31mred\u001b[0m')
    return 7
  })
  expect(result).toBe(7)
  expect(written).toBe(
    [
      'pushed',
      'note: the option is ignored',
      'warning: careful',
      'error: failed',
      '  the reason',
      'What to do',
      'Build app',
      '$ /usr/bin/nix build',
      'red',
      '',
    ].join('\n'),
  )
})

test('a terminal with colours shows labels in colour', () => {
  logTo(true).error('failed')
  expect(stripVTControlCharacters(written)).toBe('error: failed\n')
  expect(written).toContain('\u001b[31merror:')
})

test('details are shown if they are asked for', () => {
  logTo(false, { verbose: true }).debug('details')
  expect(written).toBe('details\n')
})

test('secrets never appear', () => {
  const log = logTo(false)
  log.mask('a-secret-password')
  log.info('with a-secret-password')
  expect(written).toBe('with ***\n')
})

test('each phase is announced, and its end, even if it fails', async () => {
  const phases: string[] = []
  const log = logTo(false, { phases })
  await log.group('Collect', async () => undefined)
  await expect(log.group('Build', () => Promise.reject(new Error('no')))).rejects.toThrow('no')
  expect(phases).toEqual(['Collect', '', 'Build', ''])
})
