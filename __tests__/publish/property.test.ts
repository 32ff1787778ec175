import { beforeEach, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { ActionError } from '../../src/errors.ts'
import { indexAt, mergeWith, ORIGIN, openRegistry, type Pushed, push, pushIndex, rewrite } from '../support/merging.ts'
import { makeRecord } from '../support/record.ts'
import type { TestRegistry } from '../support/registry.ts'
import { OCI_INDEX, type SeededEntry } from '../support/seed.ts'

const SYSTEMS = ['aarch64-linux', 'armv7l-linux', 'x86_64-linux'] as const
type System = (typeof SYSTEMS)[number]

/** The outcome of a system's job. */
interface Job {
  /** Whether it has handed over a valid record, no record or an invalid one. */
  readonly record: 'right' | 'missing' | 'stale' | 'malformed' | 'wrong architecture' | 'wrong size'
  /** Other records of the system, which must not change the result. */
  readonly extra: readonly ('the same again' | 'an earlier attempt' | 'another image')[]
  /** Whether another job has also pushed an image for the system. */
  readonly rival: boolean
}

interface Run {
  /** One job per system, in the order of SYSTEMS. */
  readonly jobs: readonly [Job, Job, Job]
  /** The number of jobs in the records: the right one, one too many, or none. */
  readonly total: 'right' | 'wrong' | 'unknown'
  /** The systems of the tag before the merge. */
  readonly before: readonly System[]
  readonly order: number
}

const job = fc.record<Job>({
  record: fc.oneof(
    { weight: 24, arbitrary: fc.constant('right' as const) },
    { weight: 4, arbitrary: fc.constant('missing' as const) },
    { weight: 2, arbitrary: fc.constantFrom('stale', 'malformed', 'wrong architecture', 'wrong size') },
  ),
  extra: fc.subarray(['the same again', 'an earlier attempt', 'another image'] as const),
  rival: fc.oneof({ weight: 20, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
})

const run = fc.record<Run>({
  jobs: fc.tuple(job, job, job),
  total: fc.oneof(
    { weight: 6, arbitrary: fc.constant('right' as const) },
    { weight: 5, arbitrary: fc.constant('unknown' as const) },
    { weight: 1, arbitrary: fc.constant('wrong' as const) },
  ),
  before: fc.oneof(fc.subarray([...SYSTEMS], { maxLength: 1 }), fc.subarray([...SYSTEMS])),
  order: fc.nat(),
})

let registry: TestRegistry
let count: number
beforeEach(async () => {
  registry = await openRegistry()
  count = 0
})

/** Decides whether the records can be published, independently of the action's code. */
function isRight({ jobs, total, before }: Run): boolean {
  const built = SYSTEMS.filter((_, at) => jobs[at]?.record === 'right')
  const wrong = jobs.some(
    ({ record, rival }) => !['right', 'missing'].includes(record) || (record === 'right' && rival),
  )
  const complete = total === 'unknown' || (total === 'right' && built.length === SYSTEMS.length)
  return built.length > 0 && !wrong && complete && before.every((system) => built.includes(system))
}

/** Pushes the image of a job. Returns it with the records that the job hands over. */
async function leave({ record, extra, rival }: Job, system: System, repository: string, matrix: object) {
  const fields = { job: { id: 'build', ...matrix }, run: { id: '1', attempt: 2 } }
  const [image] = await push(registry, repository, [system], { record: fields })
  const [early] = await push(registry, repository, [system], { content: 'early', record: { ...fields, run: EARLY } })
  const [second] = await push(registry, repository, [system], { content: 'rival', record: fields })
  const name = `${registry.host}/${repository}-api`
  const api = rewrite(second.record, { image: name, job: { id: 'build-api', total: 1 } })
  const own = record === 'missing' ? [] : [asLeft(image, record)]
  const again = extra.includes('the same again') ? own : []
  const earlier = extra.includes('an earlier attempt') && record !== 'missing' ? [early.record] : []
  const foreign = extra.includes('another image') ? [api] : []
  return {
    image,
    texts: [...own, ...again, ...earlier, ...foreign, ...(rival && record === 'right' ? [second.record] : [])],
  }
}

const EARLY = { id: '1', attempt: 1 }

function asLeft({ record, image }: Pushed, as: Exclude<Job['record'], 'missing'>): string {
  switch (as) {
    case 'right':
      return record
    case 'stale':
      return rewrite(record, { digest: `sha256:${'0'.repeat(64)}` })
    case 'malformed':
      return record.slice(0, -1)
    case 'wrong architecture':
      return rewrite(record, { system: 'riscv64-linux', platform: { os: 'linux', architecture: 'riscv64' } })
    case 'wrong size':
      return rewrite(record, { size: image.size + 1 })
  }
}

/** Rotates a list by this many items. */
function rotated<Item>(items: readonly Item[], by: number): readonly Item[] {
  const at = items.length === 0 ? 0 : by % items.length
  return [...items.slice(at), ...items.slice(0, at)]
}

test('a merge publishes either exactly the right index or nothing, for any set of records', async () => {
  const reached = { published: 0, refused: 0 }
  await fc.assert(
    fc.asyncProperty(run, async (one) => {
      const repository = `app-${count++}`
      const total = { right: { total: SYSTEMS.length }, wrong: { total: SYSTEMS.length + 1 }, unknown: {} }[one.total]
      const left = await Promise.all(
        SYSTEMS.map((system, at) => leave(one.jobs[at] ?? one.jobs[0], system, repository, total)),
      )
      const old = await push(registry, repository, one.before, { content: 'old' })
      if (one.before.length > 0) pushIndex(registry, old, 'latest', repository)
      const before = Object.fromEntries(registry.tags(repository))

      const digests = rotated(
        left.flatMap(({ texts }) => texts),
        one.order,
      ).join('\n')
      const image = `${registry.host}/${repository}`
      const outcome = await mergeWith(registry, { image, digests: digests || NOTHING, tags: 'latest,v1' }).catch(
        (error: unknown) => error,
      )
      const tags = Object.fromEntries(registry.tags(repository))
      if (!isRight(one)) {
        reached.refused++
        expect(outcome).toBeInstanceOf(ActionError)
        expect(tags).toEqual(before)
        return
      }
      reached.published++
      const entries = left.flatMap(({ image: { entry } }, at) => (one.jobs[at]?.record === 'right' ? [entry] : []))
      expect(Object.keys(tags).sort()).toEqual(['latest', 'v1'])
      expect(tags.latest).toBe(tags.v1)
      expect(outcome).toMatchObject({ outputs: { digest: tags.v1 } })
      const { manifests, ...rest } = indexAt(registry, 'v1', repository)
      expect(rest).toEqual({ schemaVersion: 2, mediaType: OCI_INDEX, annotations: ORIGIN })
      expect([...manifests].sort(byDigest)).toEqual([...entries].sort(byDigest))
    }),
    { numRuns: 150 },
  )
  expect(Math.min(reached.published, reached.refused)).toBeGreaterThan(25)
}, 60_000)

/** A record of another image. Without any line, the action would look for artifacts. */
const NOTHING = JSON.stringify(makeRecord({ image: '127.0.0.1:1/other', job: { id: 'other' } }))

function byDigest(one: SeededEntry, other: SeededEntry): number {
  return one.digest < other.digest ? -1 : 1
}
