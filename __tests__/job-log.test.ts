import { afterEach, beforeEach, expect, jest, test } from '@jest/globals'
import { jobLog } from '../src/job-log.ts'

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

test('a secret is masked at once', () => {
  jobLog.mask('hunter2-hunter2')
  expect(printed).toContain('::add-mask::hunter2-hunter2\n')
})

test('a secret that comes up while the runner takes no commands is masked when it does again', async () => {
  await jobLog.foreignGroup('Build', async () => {
    jobLog.mask('hunter2-hunter2')
    jobLog.info('from Nix')
  })
  const [, stop = ''] = /::stop-commands::(\S+)\n/.exec(printed) ?? []
  expect(printed).toContain(`from Nix\n::${stop}::\n::add-mask::hunter2-hunter2\n`)
  expect(printed.match(/::add-mask::hunter2-hunter2\n/g)).toHaveLength(1)
  jobLog.mask('hunter3-hunter3')
  expect(printed).toContain('::add-mask::hunter3-hunter3\n')
})
