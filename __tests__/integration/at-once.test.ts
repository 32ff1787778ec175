import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'
import { type ActionRun, passed } from '../support/runner.ts'

// Runs equal steps at once on one machine, like jobs that share a self-hosted runner: one Nix store, one registry, one
// artifact service, one workflow run.

const AT_ONCE = 10

let registry: TestRegistry
let lab: Lab
beforeEach(async () => {
  registry = await startRegistry()
  lab = await startLab({ startRegistry: async () => registry })
  // Nix 2.8 can't be started several times at once for a store that does not exist yet.
  await promisify(execFile)('nix-store', ['--init'], { env: { ...process.env, ...lab.nix } })
})
afterEach(() => lab.close())

async function tenTimes(run: () => Promise<ActionRun>): Promise<readonly ActionRun[]> {
  return (await Promise.all(Array.from({ length: AT_ONCE }, run))).map(passed)
}

function tags(): Readonly<Record<string, string>> {
  return Object.fromEntries(registry.tags('owner/hello'))
}

function digestsOf(steps: readonly ActionRun[]): ReadonlySet<string | undefined> {
  return new Set(steps.map(({ outputs }) => outputs.digest))
}

test.each(['containerImage', 'streamedImage'])(
  'ten concurrent builds of one system all push the same %s, and hand over the same record',
  async (attribute) => {
    const steps = await tenTimes(() => lab.build('x86_64-linux', { jobTotal: 1, inputs: { attribute } }))
    const [digest, ...others] = digestsOf(steps)
    expect(others).toEqual([])
    expect(tags()).toEqual({ '0123456-x86_64-linux': digest })
    const records = (await lab.artifacts.artifacts()).flatMap(({ files }) => [...files.values()].map(String))
    expect(new Set(records)).toEqual(new Set([`${steps[0]?.outputs.record}\n`]))
    passed(await lab.merge())
    expect(tags()).toMatchObject({ latest: expect.any(String) })
  },
  120_000,
)

test('ten equal concurrent merges all point the tags to the same index', async () => {
  const build = async (inputs: Readonly<Record<string, string>> = {}) => {
    for (const system of ['x86_64-linux', 'aarch64-linux']) passed(await lab.build(system, { inputs }))
  }
  await build()
  const [first, ...others] = digestsOf(await tenTimes(() => lab.merge()))
  expect(others).toEqual([])
  expect(tags()).toMatchObject({ latest: first, '0123456': first })
}, 120_000)

test('ten equal concurrent merges all move tags that point to another index', async () => {
  // Two runs, with records passed as text, because the artifacts here belong to a single run.
  const env = { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' }
  for (const [runId, attribute, sha] of [
    ['1', 'layeredImage', '1'.repeat(40)],
    ['2', 'containerImage', '2'.repeat(40)],
  ] as const) {
    const builds: string[] = []
    for (const system of ['x86_64-linux', 'aarch64-linux']) {
      const { outputs } = passed(await lab.build(system, { runId, sha, env, inputs: { attribute } }))
      builds.push(outputs.record ?? '')
    }
    const inputs = { digests: builds.join('\n') }
    const [digest, ...others] = digestsOf(await tenTimes(() => lab.merge({ runId, sha, env, inputs })))
    expect(others).toEqual([])
    expect(tags()).toMatchObject({ latest: digest, [sha.slice(0, 7)]: digest })
  }
}, 120_000)
