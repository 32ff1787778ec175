import { beforeEach, expect, test } from '@jest/globals'
import { openRegistry, platformsOf, push, pushOld, records } from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { runAction } from '../support/runner.ts'

// Kills dist/index.js, as when its machine disappears.

const SYSTEMS = ['x86_64-linux', 'aarch64-linux']
const TAGS = ['new', 'v1', 'latest']
/** The number of parallel processes, suitable for small machines. */
const AT_ONCE = 2

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

interface Scene {
  readonly repository: string
  readonly inputs: Readonly<Record<string, string>>
  /** The digests that the existing tags point to. */
  readonly old: string
}

/** Images to merge in a separate repository, and tags, of which the first is new. */
async function prepare(repository: string): Promise<Scene> {
  const images = await push(registry, repository, SYSTEMS)
  const old = await pushOld(registry, TAGS.slice(1), repository)
  const inputs = {
    mode: 'merge',
    image: `${registry.host}/${repository}`,
    digests: records(images),
    tags: TAGS.join(','),
  }
  return { repository, inputs, old }
}

/** Merges, and kills the process at the given request, which has no effect. Returns whether it ended before that. */
async function mergeUntil(last: number, { inputs, repository }: Scene): Promise<boolean> {
  const kill = new AbortController()
  let asked = 0
  faults.set(repository, () => {
    if (++asked > last) kill.abort()
    return kill.signal.aborted
  })
  const { exitCode } = await runAction({ inputs, kill: kill.signal })
  faults.delete(repository)
  expect(exitCode).toBe(kill.signal.aborted ? 137 : 0)
  return !kill.signal.aborted
}

/** By repository: whether its next request has no effect. */
const faults = new Map<string, () => boolean>()

/** Kills a merge at the given request, and runs it again. Returns whether the first run ended before that. */
async function killAndRepeat(last: number): Promise<boolean> {
  const scene = await prepare(`app-${last}`)
  const { repository, inputs, old } = scene
  const finished = await mergeUntil(last, scene)
  const left = Object.fromEntries(registry.tags(repository))
  const { exitCode, outputs } = await runAction({ inputs })
  const index = outputs.digest ?? ''
  expect({ exitCode, tags: Object.fromEntries(registry.tags(repository)) }).toEqual({
    exitCode: 0,
    tags: Object.fromEntries(TAGS.map((tag) => [tag, index])),
  })
  expect(platformsOf(registry, 'latest', repository)).toEqual(['linux/amd64', 'linux/arm64'])
  for (const tag of TAGS) expect([old, index, ...(tag === 'new' ? [undefined] : [])]).toContain(left[tag])
  return finished
}

test('a merge that is killed at any request leaves each tag unchanged or at the complete index, and a re-run finishes', async () => {
  registry.setFault(({ repository = '' }) => (faults.get(repository)?.() ? { kind: 'hang' } : undefined))
  let last = 0
  for (let finished = false; !finished; last += AT_ONCE) {
    const runs = Array.from({ length: AT_ONCE }, (_, at) => killAndRepeat(last + at))
    finished = (await Promise.all(runs)).includes(true)
  }
  expect(last).toBeGreaterThan(15)
}, 120_000)
