import { beforeEach, describe, expect, test } from '@jest/globals'
import { openRegistry, push, pushOld, records } from '../support/merging.ts'
import type { FaultOf, SeenRequest, TestRegistry } from '../support/registry.ts'
import { type ActionRun, runAction } from '../support/runner.ts'

// Runs dist/index.js as a process that receives the signals of a cancelled step. The stand-in for the runner kills a
// process that keeps running for ten seconds; the exit code is then 137.

const TAGS = ['v1', 'v2', 'latest']

let registry: TestRegistry
let inputs: Readonly<Record<string, string>>
let old: string

beforeEach(async () => {
  registry = await openRegistry()
  old = await pushOld(registry, TAGS)
  const digests = records(await push(registry, 'app', ['x86_64-linux', 'aarch64-linux']))
  inputs = { mode: 'merge', image: `${registry.host}/app`, digests, tags: TAGS.join(',') }
})

const tags = () => Object.fromEntries(registry.tags('app'))
const allAt = (digest: string) => Object.fromEntries(TAGS.map((tag) => [tag, digest]))
const isPut = ({ method, reference }: SeenRequest, tag: string) => method === 'PUT' && reference === tag

/** Merges, and cancels the step at the first request of this kind. All requests of this kind get the given answer. */
async function cancelAt(
  kind: (request: SeenRequest) => boolean,
  answer: FaultOf,
  cancelBy: 'SIGINT' | 'SIGTERM' = 'SIGINT',
): Promise<ActionRun> {
  const cancel = new AbortController()
  registry.setFault((request) => {
    if (!kind(request)) return undefined
    cancel.abort()
    return answer(request)
  })
  const run = await runAction({ inputs, signal: cancel.signal, ...(cancelBy === 'SIGTERM' && { cancelBy }) })
  expect(cancel.signal.aborted).toBe(true)
  expect(run).toMatchObject({ exitCode: cancelBy === 'SIGINT' ? 130 : 143, tempLeft: [] })
  return run
}

const errorsOf = ({ errors }: ActionRun) => errors.join('\n')
/** Answers after the step has received the signal. */
const hold: FaultOf = () => ({ kind: 'hold', until: new Promise((resolve) => setTimeout(resolve, 500)) })

describe.each(['SIGINT', 'SIGTERM'] as const)('a merge that receives %s', (signal) => {
  test('before a tag moves says so and ends', async () => {
    const isBlob = ({ route, method }: SeenRequest) => route === 'blob' && method === 'HEAD'
    const run = await cancelAt(isBlob, () => ({ kind: 'hang' }), signal)
    expect(run.errors).toEqual([])
    expect(run.log).toContain('Cancelled: no tag has moved')
    expect(tags()).toEqual(allAt(old))
  })

  test('while it writes tags stops and restores the tags', async () => {
    let first = true
    const isFirst = (request: SeenRequest) => isPut(request, 'v2') && first
    const once: FaultOf = (request) => {
      first = false
      return hold(request)
    }
    const run = await cancelAt(isFirst, once, signal)
    expect(errorsOf(run)).toContain('The step was cancelled before all tags had moved\nAll tags are as they were.\n')
    expect(tags()).toEqual(allAt(old))
  })

  test('between two waves of tags restores the first wave', async () => {
    const isBetween = ({ method, reference }: SeenRequest) =>
      method === 'HEAD' && reference === 'latest' && registry.tags('app').get('v1') !== old
    const run = await cancelAt(isBetween, hold, signal)
    expect(errorsOf(run)).toContain('All tags are as they were.\n')
    expect(tags()).toEqual(allAt(old))
  })

  test('while the last tag is written finishes', async () => {
    const run = await cancelAt((request) => isPut(request, 'latest'), hold, signal)
    const now = registry.tags('app').get('latest') ?? ''
    expect(tags()).toEqual(allAt(now))
    expect(now).not.toBe(old)
    expect(run.errors).toEqual([])
    expect(run.log).toContain('Cancelled: all tags have moved')
    for (const tag of TAGS) expect(run.log).toContain(`${registry.host}/app:${tag}: moved`)
  })

  test('while it waits to retry a write stops retrying and restores the tags', async () => {
    let first = true
    const run = await cancelAt(
      (request) => isPut(request, 'latest'),
      () => {
        if (!first) return undefined
        first = false
        return { kind: 'status', status: 503, headers: { 'retry-after': '30' } }
      },
      signal,
    )
    expect(errorsOf(run)).toContain('All tags are as they were.\n')
    expect(tags()).toEqual(allAt(old))
  })

  test('while writes are unanswered says which tags may still move', async () => {
    const run = await cancelAt(
      (request) => isPut(request, 'v1'),
      () => ({ kind: 'hang' }),
      signal,
    )
    expect(errorsOf(run)).toContain(`/app:v1: points to ${old}, but may still move to sha256:`)
    expect(tags()).toEqual(allAt(old))
  })

  test('while the registry has stopped answering ends in time', async () => {
    let silent = false
    const run = await cancelAt(
      (request) => {
        silent ||= isPut(request, 'v1')
        return silent
      },
      () => ({ kind: 'hang' }),
      signal,
    )
    expect(errorsOf(run)).toMatch(/\/app:v1: .*(in time|unknown)/)
    expect(errorsOf(run)).toMatch(/\/app:v2: .*(in time|unknown)/)
  })
})
