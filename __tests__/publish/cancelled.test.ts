import { beforeEach, describe, expect, test } from '@jest/globals'
import type { Cancellation } from '../../src/process/cancellation.ts'
import { openSigstore } from '../attest/attesting.ts'
import {
  lines,
  mergeWith,
  openRegistry,
  push,
  pushOld,
  records,
  said,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { FaultOf, SeenRequest, TestRegistry } from '../support/registry.ts'

// A step that is cancelled during a merge.

const TAGS = ['v1', 'v2', 'latest']

let registry: TestRegistry
let inputs: Readonly<Record<string, string>>
let old: string
let controller: AbortController
let unfinished: Promise<unknown>[]
let cancellation: Cancellation

beforeEach(async () => {
  registry = await openRegistry()
  old = await pushOld(registry, TAGS)
  inputs = { digests: records(await push(registry, 'app', TWO_SYSTEMS)), tags: TAGS.join(',') }
  controller = new AbortController()
  unfinished = []
  const deferExit = <Result>(work: Promise<Result>) => {
    unfinished.push(work)
    return work
  }
  cancellation = { signal: controller.signal, deferExit }
})

const isPut = ({ method, reference }: SeenRequest, tag: string) => method === 'PUT' && reference === tag
const tags = () => Object.fromEntries(registry.tags('app'))
const allAt = (digest: string) => Object.fromEntries(TAGS.map((tag) => [tag, digest]))
const written = (tag: string) => writesTo(registry).filter((line) => line.endsWith(`/manifests/${tag}`)).length

/** Cancels at the first request of this kind, which gets this fault. */
function cancelAt(kind: (request: SeenRequest) => boolean, fault: ReturnType<FaultOf> = undefined): void {
  registry.setFault((request) => {
    if (!kind(request) || controller.signal.aborted) return undefined
    controller.abort()
    return fault
  })
}

/** Merges, and returns the error's message. */
const failure = () => mergeWith(registry, inputs, { cancellation }).then(() => 'none', String)

describe('a merge that is cancelled before a tag moves', () => {
  test.each<[string, (request: SeenRequest) => boolean]>([
    ['an image is read', ({ method, route }) => method === 'GET' && route === 'manifest'],
    ['a layer is checked', ({ method, route }) => method === 'HEAD' && route === 'blob'],
    ['the index is written', ({ method, reference = '' }) => method === 'PUT' && reference.startsWith('sha256:')],
  ])('ends immediately while %s, even if the registry does not answer', async (_, kind) => {
    cancelAt(kind, { kind: 'hang' })
    expect(await failure()).toContain('The step was cancelled')
    expect(lines).toContain('Cancelled: no tag has moved')
    expect(said).toEqual([])
    expect(tags()).toEqual(allAt(old))
  })

  test('ends immediately while it signs provenance, even if Sigstore does not answer', async () => {
    const sigstore = await openSigstore()
    sigstore.setFault('fulcio', () => controller.abort())
    const merging = mergeWith(registry, { ...inputs, attest: 'true' }, { cancellation, sigstore })
    expect(await merging.then(() => 'none', String)).toContain('The step was cancelled')
    expect(lines).toContain('Cancelled: no tag has moved')
    expect(said).toEqual([])
    expect(tags()).toEqual(allAt(old))
    expect(writesTo(registry)).toEqual([expect.stringMatching(/^PUT .*\/manifests\/sha256:/)])
  })

  test('keeps the step waiting until it has ended', async () => {
    cancelAt(({ route }) => route === 'blob')
    await failure()
    expect(unfinished).toHaveLength(1)
  })

  test('moves no tag, even if it was about to', async () => {
    cancelAt(({ method, reference }) => method === 'HEAD' && reference === 'latest', { kind: 'hang' })
    await failure()
    expect(said).toEqual([expect.stringContaining('error: The step was cancelled before all tags had moved')])
    expect(said[0]).toContain('No tag has moved.')
    expect(TAGS.map(written)).toEqual([0, 0, 0])
  })
})

describe('a merge that is cancelled while it writes tags', () => {
  test('finishes pending writes, starts no others, and restores the tags', async () => {
    cancelAt((request) => isPut(request, 'v1'))
    const message = await failure()
    expect(message).toContain('The step was cancelled before all tags had moved\nAll tags are as they were.\n')
    expect(said).toEqual([`error: ${message.replace(/^\w+: /, '')}`])
    expect(tags()).toEqual(allAt(old))
    expect(TAGS.map(written)).toEqual([2, 2, 0])
  })

  test('restores the first wave of tags if it has not written the next one', async () => {
    cancelAt(({ method, reference }) => method === 'HEAD' && reference === 'latest' && written('v2') > 0)
    expect(await failure()).toContain('All tags are as they were.\n')
    expect(tags()).toEqual(allAt(old))
    expect(written('latest')).toBe(0)
  })

  test('succeeds if it was writing the last tag', async () => {
    cancelAt((request) => isPut(request, 'latest'))
    const { outputs } = await mergeWith(registry, inputs, { cancellation })
    expect(tags()).toEqual(allAt(outputs.digest ?? ''))
    expect(lines.join('\n')).toContain(`${registry.host}/app:latest: moved from sha256:`)
    expect(lines).toContain('Cancelled: all tags have moved')
  })

  test('names a new tag that remains because the registry can’t delete tags', async () => {
    cancelAt((request) => isPut(request, 'new'))
    inputs = { ...inputs, tags: `new,${inputs.tags}` }
    const message = await failure()
    expect(message).toContain('All tags are as they were, except these:\n')
    expect(message).toContain(`${registry.host}/app:new: is new and points to ${registry.tags('app').get('new')}`)
    expect(written('v1')).toBe(0)
  })

  test('does not wait for a write that the registry does not answer, and reports it', async () => {
    cancelAt((request) => isPut(request, 'v1'), { kind: 'hang' })
    const message = await failure()
    expect(message).toContain('All tags are as they were, except these:\n')
    expect(message).toMatch(
      new RegExp(
        `/app:v1: points to ${old}, but may still move to sha256:\\w+: the registry has not answered that write`,
      ),
    )
    expect(tags()).toEqual(allAt(old))
  })

  test('waits for a slow write and restores that tag', async () => {
    const released = Promise.withResolvers<void>()
    cancelAt((request) => isPut(request, 'v1'), { kind: 'hold', until: released.promise })
    const merging = failure()
    controller.signal.addEventListener('abort', () => setTimeout(released.resolve, 300))
    expect(await merging).toContain('All tags are as they were.\n')
    expect(tags()).toEqual(allAt(old))
  })

  test('names the tags that it could not restore in time', async () => {
    registry.setFault((request) => {
      if (isPut(request, 'v1') && written('v1') === 1) controller.abort()
      return isPut(request, 'v2') && written('v2') > 1 ? { kind: 'hang' } : undefined
    })
    const message = await failure()
    expect(message).toMatch(
      /except these:\n {2}\S+\/app:v2: may point to sha256:\w+: the registry did not answer in time/,
    )
    expect(tags()).toMatchObject({ v1: old, latest: old })
  })

  test('does not plan again after a conflict with another run', async () => {
    const [{ image }] = await push(registry, 'app', ['x86_64-linux'], { content: 'foreign' })
    let reads = 0
    registry.setFault(({ method, reference }) => {
      if (reference !== 'latest' || written('v1') === 0) return undefined
      registry.seedTag('app', 'latest', image.digest)
      // The first request confirms that the tag has moved. The second one belongs to the new plan.
      if (method !== 'GET' || ++reads < 2) return undefined
      controller.abort()
      return { kind: 'hang' }
    })
    expect(await failure()).toContain('The step was cancelled before all tags had moved\nAll ')
    expect(tags()).toEqual({ v1: old, v2: old, latest: image.digest })
  })
})
