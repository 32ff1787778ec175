import { afterEach, expect, jest, test } from '@jest/globals'
import { run } from '../src/run.ts'
import { openRegistry, push, records } from './support/merging.ts'
import { type PreparedRunner, prepareRunner } from './support/runner.ts'

const environment = { ...process.env }
let runner: PreparedRunner
let said = ''

afterEach(async () => {
  jest.restoreAllMocks()
  process.env = { ...environment }
  await runner.close()
})

/** Merges one image. Writing to /dev/full fails as on a full disk. */
async function merge(files: Readonly<Record<string, string>>): Promise<number> {
  const registry = await openRegistry()
  const digests = records(await push(registry, 'app', ['x86_64-linux']))
  const inputs = { mode: 'merge', image: `${registry.host}/app`, digests, tags: 'v1' }
  runner = await prepareRunner({ inputs })
  process.env = { ...runner.env, ...files }
  said = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += String(text)
    return true
  })
  return run(process.env)
}

test('a summary that can’t be written is a warning, for the image is published', async () => {
  expect(await merge({ GITHUB_STEP_SUMMARY: '/dev/full' })).toBe(0)
  expect(said).toMatch(
    /::warning::Can't write the summary of this step to \/dev\/full: the disk is full%0A.*ENOSPC.*The step has succeeded all the same/,
  )
})

test('outputs that can’t be written fail the step, with the file and what to do', async () => {
  expect(await merge({ GITHUB_OUTPUT: '/dev/full' })).toBe(1)
  expect(said).toMatch(
    /::error::Can't write the outputs of this step to \/dev\/full: the disk is full%0A.*ENOSPC.*Then re-run this job/,
  )
  expect(said).not.toContain('defect')
})
