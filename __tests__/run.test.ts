import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, jest, test } from '@jest/globals'
import { jobLog } from '../src/actions/log.ts'
import { run } from '../src/run.ts'
import { openRegistry, push, records } from './support/merging.ts'
import type { FaultOf, TestRegistry } from './support/registry.ts'
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
  {
    name = 'app',
    fault,
    summary = 'true',
    registry: given,
  }: { readonly name?: string; readonly fault?: FaultOf; summary?: string; readonly registry?: TestRegistry } = {},
): Promise<number> {
  const registry = given ?? (await openRegistry())
  const digests = records(await push(registry, 'app', ['x86_64-linux']))
  await push(registry, 'app', ['aarch64-linux']).then(([{ image }]) => registry.seedTag('app', 'v0', image.digest))
  registry.setFault(fault)
  const inputs = {
    mode: 'merge',
    image: `${registry.host}/${name}`,
    digests,
    tags: 'v0,v1',
    summary,
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

function readSummary(): Promise<string> {
  return readFile(runner.env.GITHUB_STEP_SUMMARY ?? '', 'utf8')
}

test('a summary that can’t be written is a warning, for the image is published', async () => {
  expect(await merge({ GITHUB_STEP_SUMMARY: '/dev/full' })).toBe(0)
  expect(said).toMatch(
    /::warning::Can't write the summary of this step to \/dev\/full: the disk is full%0A.*ENOSPC.*The step has succeeded/,
  )
})

test.each([
  ['true', '### Published'],
  ['false', ''],
])('with summary: %s, the summary begins with %j', async (summary, expected) => {
  expect(await merge({}, { summary })).toBe(0)
  expect((await readSummary()).split('\n')[0]).toBe(expected)
})

const REFUSED: FaultOf = ({ method, reference }) =>
  method === 'PUT' && reference === 'v0'
    ? { kind: 'status', status: 400, body: '{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}' }
    : undefined

test('the summary of a failed step says what failed, what to do, and which tags were pushed', async () => {
  expect(await merge({}, { fault: REFUSED })).toBe(1)
  const summary = await readSummary()
  expect(summary).toMatch(/^### Merge failed: `127\.0\.0\.1:\d+\/app`\n\nCan't move the tag .*app:v0 to sha256:/)
  expect(summary).toMatch(/\n```\n(.*\n)*.*the tag is immutable\n(.*\n)*```\n/)
  expect(summary).toContain('All tags are as they were, except these:')
  expect(summary).toContain('Remove this tag from `tags`')
  expect(summary).toMatch(
    /\*\*Pushed before the failure: `\S+\/app:v1`\. The registry has not confirmed the push of: `\S+\/app:v0`\.\*\*/,
  )
})

test('the summary of a step that fails before it pushes says that nothing was pushed', async () => {
  const missing: FaultOf = ({ method, route }) =>
    method === 'GET' && route === 'manifest' ? { kind: 'status', status: 403 } : undefined
  expect(await merge({}, { fault: missing })).toBe(1)
  expect(await readSummary()).toContain('\n**Nothing was pushed.**\n')
})

test.each([
  [
    'true',
    '### Merge failed\n\nThe input `push` is "maybe"; it must be `true` or `false`\n\n**Nothing was pushed.**\n',
  ],
  ['false', ''],
])('with summary: %s, the summary of invalid inputs is %j', async (summary, expected) => {
  expect(await merge({ INPUT_PUSH: 'maybe' }, { summary })).toBe(1)
  expect(await readSummary()).toBe(expected)
})

test('with summary: false, a failed step has none', async () => {
  expect(await merge({}, { fault: REFUSED, summary: 'false' })).toBe(1)
  expect(await readSummary()).toBe('')
})

test('a secret in an error is not in the summary, also if Markdown would escape it', async () => {
  jobLog.mask('hidden_*secret*')
  expect(await merge({ INPUT_PUSH: 'hidden_*secret*' }, {})).toBe(1)
  expect(await readSummary()).toContain('The input `push` is "\\*\\*\\*"')
})

test('the first line of the log names the versions of the action and of Node', async () => {
  expect(await merge({}, {})).toBe(0)
  const { version } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8'))
  expect(said.replace(/^::add-mask::.*\n/gm, '').split('\n')[0]).toBe(
    `nix-image-action ${version}, Node ${process.versions.node}`,
  )
})

test('the log of a merge says what was verified', async () => {
  expect(await merge({}, {})).toBe(0)
  expect(said).toMatch(/^Verified linux\/amd64: manifest, config and 1 layer exist in 127\.0\.0\.1:\d+\/app$/m)
})

test('outputs that can’t be written fail the step, with the file and what to do', async () => {
  expect(await merge({ GITHUB_OUTPUT: '/dev/full' })).toBe(1)
  expect(said).toMatch(
    /::error::Can't write the outputs of this step to \/dev\/full: the disk is full%0A.*ENOSPC.*Then re-run this job/,
  )
  expect(said).not.toContain('defect')
})

test('the published index is declared to the runner, but not under a name that another step has declared', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'artifacts-'))
  const [file, list] = [join(folder, 'artifacts'), join(folder, 'list')]
  await writeFile(file, 'earlier\n')
  expect(await merge({ GITHUB_ARTIFACTS: file, GITHUB_ARTIFACTS_LIST: list })).toBe(0)
  const [, line = '', ...more] = (await readFile(file, 'utf8')).split('\n')
  const { digest = '', name = '' } = await runner.readOutputs()
  expect([line, ...more]).toEqual([`oci://${name}:v0@${digest}`, ''])
  await runner.close()

  const other = `sha256:${'0'.repeat(64)}`
  const registry = await openRegistry()
  const declared = { version: 1, subjects: [{ name: `${registry.host}/app:v0`, digest: other, kind: 'oci' }] }
  await writeFile(list, JSON.stringify(declared))
  expect(await merge({ GITHUB_ARTIFACTS: file, GITHUB_ARTIFACTS_LIST: list }, { registry })).toBe(0)
  expect((await readFile(file, 'utf8')).split('\n')).toHaveLength(3)
  await rm(folder, { recursive: true })
})

test('an index that can’t be declared to the runner is a warning, for the image is published', async () => {
  expect(await merge({ GITHUB_ARTIFACTS: '/dev/full' })).toBe(0)
  expect(said).toMatch(/::warning::Can't declare the published image in \/dev\/full: .*The step has succeeded/)
})

test('a name in upper case gets a line in the log, and no annotation', async () => {
  expect(await merge({}, { name: 'App' })).toBe(0)
  expect(said).toMatch(/^Using "[^"]*\/app" for "[^"]*\/App": image names are lowercase$/m)
  expect(said).not.toMatch(/::notice::.*lower case/)
})

test('an immutable tag fails the step with what to do in a merge', async () => {
  expect(await merge({}, { fault: REFUSED })).toBe(1)
  expect(said).toMatch(
    /::error::Can't move the tag .*app:v0 to .* exists and points to sha256:.*TAG_INVALID: the tag is immutable.*Remove this tag from `tags`/,
  )
  expect(said).not.toContain('tag: ""')
})
