import { afterEach, expect, jest, test } from '@jest/globals'
import { run } from '../src/run.ts'
import { openRegistry, push, records } from './support/merging.ts'
import type { FaultOf } from './support/registry.ts'
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
async function merge(
  files: Readonly<Record<string, string>>,
  { name = 'app', fault }: { readonly name?: string; readonly fault?: FaultOf } = {},
): Promise<number> {
  const registry = await openRegistry()
  const digests = records(await push(registry, 'app', ['x86_64-linux']))
  await push(registry, 'app', ['aarch64-linux']).then(([{ image }]) => registry.seedTag('app', 'v0', image.digest))
  registry.setFault(fault)
  const inputs = {
    mode: 'merge',
    image: `${registry.host}/${name}`,
    digests,
    tags: 'v0,v1',
    'allow-missing-platforms': 'true',
  }
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
    /::warning::Can't write the summary of this step to \/dev\/full: the disk is full%0A.*ENOSPC.*The step has succeeded/,
  )
})

test('outputs that can’t be written fail the step, with the file and what to do', async () => {
  expect(await merge({ GITHUB_OUTPUT: '/dev/full' })).toBe(1)
  expect(said).toMatch(
    /::error::Can't write the outputs of this step to \/dev\/full: the disk is full%0A.*ENOSPC.*Then re-run this job/,
  )
  expect(said).not.toContain('defect')
})

test('a name in upper case gets a line in the log, and no annotation', async () => {
  expect(await merge({}, { name: 'App' })).toBe(0)
  expect(said).toMatch(/^Using "[^"]*\/app" for "[^"]*\/App": image names are lowercase$/m)
  expect(said).not.toMatch(/::notice::.*lower case/)
})

test('an immutable tag fails the step with what to do in a merge', async () => {
  const body = '{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}'
  const fault: FaultOf = ({ method, reference }) =>
    method === 'PUT' && reference === 'v0' ? { kind: 'status', status: 400, body } : undefined
  expect(await merge({}, { fault })).toBe(1)
  expect(said).toMatch(
    /::error::Can't move the tag .*app:v0 to .* exists and points to sha256:.*TAG_INVALID: the tag is immutable.*Remove this tag from `tags`/,
  )
  expect(said).not.toContain('tag: ""')
})
