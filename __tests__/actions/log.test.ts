import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { jobLog, resumeCommands } from '../../src/actions/log.ts'
import { runCommand } from '../../src/process/command.ts'

let printed = ''

beforeEach(() => {
  printed = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text)
    return true
  })
})
afterEach(() => {
  jest.restoreAllMocks()
})

/** The output, without masking commands. */
function shown(): string {
  return printed.replace(/^::add-mask::.*\n/gm, '')
}

function masks(): readonly string[] {
  return [...printed.matchAll(/^::add-mask::(.*)$/gm)].flatMap(([, value]) => value ?? [])
}

/** The token that switches commands on again. */
function stopToken(): string {
  return /::stop-commands::(\S+)\n/.exec(printed)?.[1] ?? ''
}

test('a secret is masked at once', () => {
  jobLog.mask('hunter2-hunter2')
  expect(masks()).toContain('hunter2-hunter2')
})

test('a secret is masked once, however often it comes up', () => {
  jobLog.mask('twice-and-again')
  jobLog.mask('twice-and-again')
  expect(masks().filter((mask) => mask === 'twice-and-again')).toHaveLength(1)
})

describe('a secret is masked in each form that it may be printed in', () => {
  const secret = 'p&ss w"rd/ü?>~'
  const forms = [
    ['plain', secret],
    ['in a URL', 'p%26ss%20w%22rd%2F%C3%BC%3F%3E~'],
    ['in a form', 'p%26ss+w%22rd%2F%C3%BC%3F%3E%7E'],
    ['in JSON', 'p&ss w\\"rd/ü?>~'],
    ['in base64', Buffer.from(secret).toString('base64')],
    ['in base64 for URLs', Buffer.from(secret).toString('base64url')],
  ] as const

  test.each(forms)('%s', (_, form) => {
    jobLog.mask(secret)
    jobLog.info(`before ${form} after`)
    expect(shown()).toMatch(/^before \*\*\*(?:=*) after\n$/)
  })

  test('and the runner gets to know them all', async () => {
    // A value of its own: what is masked already is not masked again.
    const other = `another ${secret}`
    jobLog.mask(other)
    for (const form of [other, encodeURIComponent(other), Buffer.from(other).toString('base64url')])
      expect(masks()).toContain(form.replaceAll('%', '%25'))
    expect(masks()).toContain(Buffer.from(other).toString('base64').replace(/=+$/, ''))
  })
})

test('a word that is too short for a secret is not masked: it would garble the log and outputs', () => {
  for (const word of ['e', 'sha256', 'hunter2', '']) jobLog.mask(word)
  jobLog.info('sha256:e0')
  expect(printed).toBe('sha256:e0\n')
})

test('a secret that is part of another one leaves nothing of that one behind', () => {
  jobLog.mask('the-inner-secret')
  jobLog.mask('around-the-inner-secret-around')
  jobLog.info('around-the-inner-secret-around')
  expect(shown()).toBe('***\n')
})

test.each(['info', 'notice', 'warning', 'debug', 'error'] as const)('%s prints no secret', (level) => {
  jobLog.mask('hunter4-hunter4')
  jobLog[level]('it is hunter4-hunter4')
  expect(shown()).toContain('it is ***')
  expect(shown()).not.toContain('hunter4')
})

describe('while the runner takes no commands', () => {
  test('a secret that comes up is masked when it does again', async () => {
    await jobLog.groupToolOutput('Build', async () => {
      jobLog.mask('hunter5-hunter5')
      jobLog.info('from Nix')
    })
    const after = printed.split(`from Nix\n::${stopToken()}::\n`)[1]
    expect(after).toMatch(/^::add-mask::hunter5-hunter5\n/)
    expect(masks().filter((mask) => mask === 'hunter5-hunter5')).toHaveLength(1)
    jobLog.mask('hunter6-hunter6')
    expect(masks()).toContain('hunter6-hunter6')
  })

  test('a secret that comes up is not printed, though the runner masks nothing: by this action or by a program', async () => {
    await jobLog.groupToolOutput('Build', async () => {
      jobLog.mask('hunter7-hunter7')
      jobLog.info('said hunter7-hunter7')
      const script = 'echo "echoed hunter7-$0"; echo "echoed hunter7-$0" >&2'
      await runCommand('sh', ['-c', script, 'hunter7'], { trust: 'no-logins', shown: true })
    })
    expect(printed.match(/echoed \*\*\*\n/g)).toHaveLength(2)
    expect(shown()).not.toContain('hunter7-hunter7')
  })

  test('the token that lets it take them again begins a line, though a program’s output ends within one', async () => {
    await jobLog.groupToolOutput('Build', async () => {
      await runCommand('sh', ['-c', 'printf "::error::out"; printf "::error::err" >&2'], {
        trust: 'no-logins',
        shown: true,
      })
    })
    expect(printed.split('\n')).toEqual(expect.arrayContaining(['::error::out', '::error::err', `::${stopToken()}::`]))
  })

  test('it takes them again after a failure, and when the step is cancelled in the middle, once', async () => {
    await expect(jobLog.groupToolOutput('Build', () => Promise.reject(new Error('broken')))).rejects.toThrow('broken')
    expect(printed).toContain(`\n::${stopToken()}::\n`)
    printed = ''
    await jobLog.groupToolOutput('Build', async () => resumeCommands())
    expect(printed.split(`::${stopToken()}::\n`)).toHaveLength(2)
  })
})

test('what is printed is no command to the runner', () => {
  for (const text of ['::add-mask::e', ' ::error::x', 'a\n::set-output name=x::y', '##[error]x']) jobLog.info(text)
  expect(printed).not.toMatch(/^\s*::|##\[/m)
})
