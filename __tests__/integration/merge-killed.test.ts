import { beforeEach, expect, test } from '@jest/globals'
import { openRegistry, platformsOf, push, records } from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { runAction } from '../support/runner.ts'

// dist/index.js as a process, which is killed as when its machine goes away.

const SYSTEMS = ['x86_64-linux', 'aarch64-linux']
const TAGS = ['new', 'v1', 'latest']
/** As many processes as small machines have processors. */
const AT_ONCE = 2

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

interface Scene {
  readonly repository: string
  readonly inputs: Readonly<Record<string, string>>
  /** What the tags that are there point to. */
  readonly old: string
}

/** Images to merge, in a repository of their own, and tags of which the first is new. */
async function prepare(repository: string): Promise<Scene> {
  const images = await push(registry, repository, SYSTEMS)
  const [{ image }] = await push(registry, repository, ['x86_64-linux'], { content: 'old' })
  for (const tag of TAGS.slice(1)) registry.seedTag(repository, tag, image.digest)
  const inputs = {
    mode: 'merge',
    image: `${registry.host}/${repository}`,
    digests: records(images),
    tags: TAGS.join(','),
  }
  return { repository, inputs, old: image.digest }
}

/** Merges, and kills the process at that request, which has no effect. Returns whether it ended before. */
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

/** By repository: whether its next request comes to nothing. */
const faults = new Map<string, () => boolean>()

/** Of a merge that is killed at that request, and run again. Returns whether it had ended before. */
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

test('a merge that is killed at any request leaves each tag where it was or at the whole index, and a re-run finishes', async () => {
  registry.setFault(({ repository = '' }) => (faults.get(repository)?.() ? { kind: 'hang' } : undefined))
  let last = 0
  for (let finished = false; !finished; last += AT_ONCE) {
    const runs = Array.from({ length: AT_ONCE }, (_, at) => killAndRepeat(last + at))
    finished = (await Promise.all(runs)).includes(true)
  }
  expect(last).toBeGreaterThan(15)
}, 120_000)
