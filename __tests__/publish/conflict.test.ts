import { beforeEach, describe, expect, test } from '@jest/globals'
import type { GitHost } from '../support/git-host.ts'
import {
  COMMIT,
  EARLIER,
  indexAt,
  LATER,
  lines,
  mergeWith,
  namesIn,
  openGitHost,
  openRegistry,
  push,
  pushCommit,
  REVISION,
  records,
  refusalOf,
  said,
  TOKEN,
  UNKNOWN,
  writesTo,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'

// Concurrent runs, of the same commit or of other commits, that move the same tags.

let registry: TestRegistry
let host: GitHost

beforeEach(async () => {
  registry = await openRegistry()
  host = await openGitHost()
})

/** Pushes an index like another run of a commit, whose indexes have a different annotation. Returns its digest. */
function indexOf(commit: string, systems = ['x86_64-linux'], title = ''): Promise<string> {
  return pushCommit(registry, commit, { systems, annotations: { title } })
}

/** Simulates another run that moves a tag, once, when this run writes a reference (`index`: the index by its digest). */
function moveAt(written: string, tag: string, digest: string): void {
  let moved = false
  registry.setFault(({ method, reference = '' }) => {
    const isWrite = method === 'PUT' && (reference === written || (written === 'index' && reference.includes(':')))
    if (isWrite && !moved) registry.seedTag('app', tag, digest)
    moved ||= isWrite
    return undefined
  })
}

async function inputsFor(tags: string): Promise<Readonly<Record<string, string>>> {
  return { digests: records(await push(registry, 'app', ['x86_64-linux'])), tags, token: TOKEN }
}

const call = () => ({ env: { GITHUB_API_URL: host.api } })
const mergeOnto = async (tags: string) => mergeWith(registry, await inputsFor(tags), call())
const written = (tag: string) => writesTo(registry).filter((line) => line.endsWith(`/manifests/${tag}`))
const replans = () => lines.filter((line) => line.endsWith('Reading the tags again'))

describe('a tag that another run moves during this run', () => {
  test.each(['index', 'v1'])(
    'to a later commit, while this run writes %s, stays there, and the other tags move',
    async (at) => {
      registry.seedTag('app', 'latest', await indexOf(EARLIER))
      const later = await indexOf(LATER)
      moveAt(at, 'latest', later)
      const { outputs } = await mergeOnto('v1,latest')
      expect(Object.fromEntries(registry.tags('app'))).toEqual({ v1: outputs.digest, latest: later })
      expect(outputs).toMatchObject({ tags: `${registry.host}/app:v1`, 'skipped-tags': `${registry.host}/app:latest` })
      expect(said).toEqual([expect.stringContaining(`Not moving ${registry.host}/app:latest`)])
      expect(written('v1')).toHaveLength(1)
    },
  )

  test('to another index of the same commit moves to this run’s index without a message', async () => {
    moveAt('index', 'sha-0123456', await indexOf(COMMIT))
    const { outputs } = await mergeOnto('1.2.3,sha-0123456')
    expect([...registry.tags('app').values()]).toEqual([outputs.digest, outputs.digest])
    expect(outputs.tags).toBe(`${registry.host}/app:1.2.3\n${registry.host}/app:sha-0123456`)
    expect(said).toEqual([])
    expect(replans()).toHaveLength(1)
  })

  test('to an index with more platforms stops the merge, which restores its tags', async () => {
    const old = await indexOf(EARLIER)
    for (const tag of ['v1', 'latest']) registry.seedTag('app', tag, old)
    const whole = await indexOf(COMMIT, ['x86_64-linux', 'aarch64-linux'])
    const inputs = await inputsFor('v1,latest')
    moveAt('v1', 'latest', whole)
    const refusal = await mergeWith(registry, inputs, call()).catch(String)
    expect(refusal).toContain(`${registry.host}/app:latest would lose linux/arm64\n`)
    expect(refusal).toContain('All other tags are as they were.\nCheck whether the build of that platform failed')
    expect(refusal).not.toContain('No tag has moved')
    expect(Object.fromEntries(registry.tags('app'))).toEqual({ v1: old, latest: whole })
  })

  test('stays with the other run if this run had already moved it', async () => {
    registry.seedTag('app', 'latest', await indexOf(EARLIER))
    const [same, later] = [await indexOf(COMMIT), await indexOf(LATER)]
    registry.setFault(({ method, reference }) => {
      if (method === 'HEAD' && reference === 'latest' && written('sha-0123456').length > 0) {
        registry.seedTag('app', 'sha-0123456', same)
        registry.seedTag('app', 'latest', later)
      }
      return undefined
    })
    const { outputs } = await mergeOnto('v1,sha-0123456,latest')
    expect(written('sha-0123456')).toHaveLength(1)
    expect(Object.fromEntries(registry.tags('app'))).toEqual({
      v1: outputs.digest,
      'sha-0123456': same,
      latest: later,
    })
    expect(outputs.tags).toBe(`${registry.host}/app:v1`)
    expect(said).toEqual([expect.stringContaining('app:latest: it points to commit')])
    expect(lines).toContain(
      `${registry.host}/app:sha-0123456 points to ${same}, which another run of the same commit has published since`,
    )
  })

  test('does not cause repeated warnings about other tags', async () => {
    registry.seedTag('app', 'edge', await indexOf(UNKNOWN))
    registry.seedTag('app', 'v1', await indexOf(EARLIER))
    moveAt('index', 'v1', await indexOf(COMMIT))
    await mergeOnto('edge,v1')
    expect(replans()).toHaveLength(1)
    expect(said).toEqual([expect.stringContaining(`Moving ${registry.host}/app:edge from commit ${UNKNOWN}`)])
  })

  test('fails the merge if it has moved again after three new plans', async () => {
    registry.seedTag('app', 'latest', await indexOf(EARLIER))
    const foreign: string[] = []
    for (const title of ['1', '2', '3', '4', '5']) foreign.push(await indexOf(EARLIER, ['x86_64-linux'], title))
    const inputs = await inputsFor('v1,latest')
    registry.setFault(({ method, reference }) => {
      const next = method === 'HEAD' && reference === 'latest' ? foreign.shift() : undefined
      if (next !== undefined) registry.seedTag('app', 'latest', next)
      return undefined
    })
    const refusal = await mergeWith(registry, inputs, call()).catch(String)
    expect(refusal).toContain(`${registry.host}/app:latest was updated by another run while this job was running\n`)
    expect(refusal).toContain('No tag has moved.\nRun this job again once the other runs have ended.')
    expect(refusal).toContain('add to the merge job:\n  concurrency:\n    group: image-merge\n    queue: max')
    expect(replans()).toHaveLength(3)
    expect(registry.tags('app').has('v1')).toBe(false)
  })
})

test('two concurrent runs of one commit both publish their own tags and the shared tag', async () => {
  const digests = records(await push(registry, 'app', ['x86_64-linux']))
  const run = (tags: string, version: string) =>
    mergeWith(registry, {
      digests,
      tags,
      token: TOKEN,
      annotations: `index:org.opencontainers.image.version=${version}`,
    })
  const [branch, tag] = await Promise.all([run('main,latest,sha-0123456', 'main'), run('1.2.3,sha-0123456', '1.2.3')])
  const tags = Object.fromEntries(registry.tags('app'))
  expect(tags).toMatchObject({
    main: branch.outputs.digest,
    latest: branch.outputs.digest,
    '1.2.3': tag.outputs.digest,
  })
  expect([branch.outputs.digest, tag.outputs.digest]).toContain(tags['sha-0123456'])
  expect(indexAt(registry, 'sha-0123456').annotations).toMatchObject({ [REVISION]: COMMIT })
  expect(said).toEqual([])
})

describe('a registry that supports If-Match', () => {
  beforeEach(async () => {
    registry = await openRegistry({ preconditions: true })
  })

  test('prevents this run from overwriting a tag that a run of a later commit has just moved', async () => {
    registry.seedTag('app', 'latest', await indexOf(EARLIER))
    const later = await indexOf(LATER)
    moveAt('latest', 'latest', later)
    const { outputs } = await mergeOnto('v1,latest')
    expect(Object.fromEntries(registry.tags('app'))).toEqual({ v1: outputs.digest, latest: later })
    expect(outputs['skipped-tags']).toBe(`${registry.host}/app:latest`)
    expect(replans()).toHaveLength(1)
  })

  test('receives the digest that this run has read as the condition for moving a tag', async () => {
    registry.seedTag('app', 'latest', await indexOf(EARLIER))
    const { outputs } = await mergeOnto('v1,latest')
    expect([...registry.tags('app').values()]).toEqual([outputs.digest, outputs.digest])
    expect(registry.requests.filter(({ headers }) => headers['if-match']).map(({ reference }) => reference)).toEqual([
      'latest',
    ])
  })

  test('receives the request again without a condition if it refuses it with 412 for another reason', async () => {
    const old = await indexOf(EARLIER)
    registry.seedTag('app', 'latest', old)
    registry.setFault(({ method, headers }) =>
      method === 'PUT' && headers['if-match'] ? { kind: 'status', status: 412, body: '{}' } : undefined,
    )
    const { outputs } = await mergeOnto('latest')
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    registry.setFault(({ method, reference }) =>
      method === 'PUT' && reference === 'latest'
        ? { kind: 'status', status: 412, body: '{"errors":[{"code":"DENIED","message":"not signed"}]}' }
        : undefined,
    )
    registry.seedTag('app', 'latest', old)
    expect(await refusalOf(registry, await inputsFor('latest'), call())).toContain('DENIED: not signed')
  })

  test.each(['W/"abc"', undefined, 'abc'])('receives no condition if its ETag is %s', async (etag) => {
    registry.seedTag('app', 'latest', await indexOf(EARLIER))
    registry.setFault(({ reference }) => (reference === 'latest' ? { kind: 'headers', headers: { etag } } : undefined))
    await mergeOnto('latest')
    expect(registry.requests.filter(({ headers }) => headers['if-match'])).toEqual([])
  })
})

describe('a registry that returns old values for some time after a write', () => {
  /** Answers this many requests for a tag after it was written as if it had not been written. */
  function lag(tag: string, before: string | undefined, looks: number): void {
    let left = looks
    let digest: string | undefined
    registry.setFault(({ method, reference }) => {
      if (reference !== tag || written(tag).length === 0 || method === 'PUT') return undefined
      digest ??= registry.tags('app').get(tag)
      const isOld = left-- > 0
      if (isOld && before === undefined) return { kind: 'status', status: 404 }
      registry.seedTag('app', tag, isOld ? (before ?? '') : (digest ?? ''))
      return undefined
    })
  }

  test.each([
    ['a new tag', 'new', 4],
    ['a tag that has moved', 'latest', 4],
  ])('receives more requests for %s until it returns the new value', async (_, tag, looks) => {
    const old = await indexOf(EARLIER)
    registry.seedTag('app', 'latest', old)
    lag(tag, registry.tags('app').get(tag), looks)
    const { outputs } = await mergeOnto('new,latest')
    expect(said).toEqual([])
    expect(outputs.tags).toBe(`${registry.host}/app:new\n${registry.host}/app:latest`)
  })

  test.each([
    ['a new tag', 'new', 'does not return it yet'],
    ['a tag that has moved', 'latest', 'still returns sha256:'],
  ])('causes a warning about %s, which does not blame another run', async (_, tag, state) => {
    registry.seedTag('app', 'latest', await indexOf(EARLIER))
    lag(tag, registry.tags('app').get(tag), 1000)
    const { outputs } = await mergeOnto('new,latest')
    expect(said).toEqual([expect.stringContaining(`${registry.host}/app:${tag} was pointed to ${outputs.digest}, but`)])
    expect(said[0]).toContain(state)
    expect(outputs.tags).toContain(`/app:${tag}`)
  })

  test('restores a tag even if it still returns the old value for it', async () => {
    const old = await indexOf(EARLIER)
    for (const tag of ['v1', 'latest']) registry.seedTag('app', tag, old)
    const inputs = await inputsFor('v1,latest')
    registry.setFault(({ method, reference }) => {
      if (method === 'PUT' && reference === 'latest') return { kind: 'status', status: 403, body: '{}' }
      const isLook = method === 'HEAD' && reference === 'v1' && written('latest').length > 0
      return isLook ? { kind: 'headers', headers: { 'docker-content-digest': old } } : undefined
    })
    expect(await refusalOf(registry, inputs, call())).toContain('All tags are as they were.')
    expect(written('v1')).toHaveLength(2)
  })

  test('receives more requests for a bare digest, which may belong to any of several images', async () => {
    const [{ image }] = await push(registry, 'mirror', ['x86_64-linux'])
    let looks = 0
    registry.setFault(({ path, method }) => {
      if (!path.includes(`/mirror/manifests/${image.digest}`) || method === 'PUT') return undefined
      return ++looks <= 3 ? { kind: 'status', status: 404 } : undefined
    })
    const both = namesIn(registry, 'app', 'mirror')
    const { outputs } = await mergeWith(registry, { image: both, digests: image.digest, tags: 'v1' })
    expect([registry.tags('app').get('v1'), registry.tags('mirror').get('v1')]).toEqual([
      outputs.digest,
      outputs.digest,
    ])
  })
})
