import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { MergeError } from '../../src/errors.ts'
import { createHttp, type Http } from '../../src/http/client.ts'
import { OCI_INDEX } from '../../src/oci/manifest.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { moveTags } from '../../src/publish/move-tags.ts'
import { findOvertaken } from '../../src/publish/publish-tags.ts'
import { createRegistry } from '../../src/registry/client.ts'
import type { Registry, StoredManifest } from '../../src/registry/registry.ts'
import type { TagMove } from '../../src/registry/tags.ts'
import { type Fault, type FaultOf, startRegistry, type TestRegistry } from '../support/registry.ts'

const TAGS = ['v1.2.3', 'v1.2', 'v1', 'latest']
const old = indexOf('old')
const fresh = indexOf('fresh')

let server: TestRegistry
let http: Http
let registry: Registry

beforeEach(async () => {
  server = await startRegistry()
  const ignore = (): void => undefined
  const log = { info: ignore, warning: ignore, debug: ignore }
  http = createHttp({ log, userAgent: 'test', env: {}, wait: async () => undefined })
  registry = createRegistry({ http, credentials: async () => undefined, onSecret: ignore })
  for (const path of ['app', 'api']) {
    server.seedManifest(path, old.bytes, OCI_INDEX)
    server.seedManifest(path, fresh.bytes, OCI_INDEX)
  }
})

afterEach(async () => {
  await http.close()
  await server.close()
})

function indexOf(title: string, revision = 'abc'): StoredManifest {
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [],
      annotations: { title, 'org.opencontainers.image.revision': revision },
    }),
  )
  return { bytes, digest: digestOf(bytes), mediaType: OCI_INDEX }
}

function movesOf(tags: readonly string[], path = 'app'): readonly TagMove[] {
  const before = (tag: string) => [old, fresh].find(({ digest }) => digest === server.tags(path).get(tag))
  return tags.map((tag) => ({ tag: { repository: { host: server.host, path }, tag }, before: before(tag) }))
}

function pointTo({ digest }: StoredManifest, tags: readonly string[], path = 'app'): void {
  for (const tag of tags) server.seedTag(path, tag, digest)
}

/** The tags that were written, in order, including failed attempts. */
function written(): readonly string[] {
  return server.requests.flatMap(({ method, reference }) =>
    method === 'PUT' && reference !== undefined ? [reference] : [],
  )
}

function all(tags: readonly string[], { digest }: StoredManifest): ReadonlyMap<string, string> {
  return new Map(tags.map((tag) => [tag, digest]))
}

/** Refuses the first request to write this tag. `more` decides about all other requests. */
function refuse(tag: string, more: FaultOf = () => undefined): void {
  const body = JSON.stringify({ errors: [{ code: 'DENIED', message: 'this tag is immutable' }] })
  let refused = false
  server.setFault((request) => {
    if (request.method !== 'PUT' || request.reference !== tag || refused) return more(request)
    refused = true
    return { kind: 'status', status: 403, body }
  })
}

describe('tags move', () => {
  test('in three groups: new ones, existing ones, and `latest`', async () => {
    const tags = ['latest', 'v1', 'v1.2', 'edge', 'v1.2.3']
    pointTo(old, ['latest', 'v1', 'edge'])
    await moveTags(registry, movesOf(tags), fresh)
    expect(server.tags('app')).toEqual(all(tags, fresh))
    const [first, second, last] = [written().slice(0, 2), written().slice(2, 4), written().slice(4)]
    expect([first.toSorted(), second.toSorted(), last]).toEqual([['v1.2', 'v1.2.3'], ['edge', 'v1'], ['latest']])
  })

  test('in order: existing ones only after all new ones are written', async () => {
    pointTo(old, ['v1', 'latest'])
    refuse('v1.2')
    await expect(moveTags(registry, movesOf(['latest', 'v1', 'v1.2']), fresh)).rejects.toThrow(MergeError)
    expect(written()).toEqual(['v1.2'])
  })

  test('in order: `latest` only after all existing ones are written', async () => {
    pointTo(old, ['v1', 'latest'])
    refuse('v1')
    await expect(moveTags(registry, movesOf(['latest', 'v1']), fresh)).rejects.toThrow(MergeError)
    expect(written()).not.toContain('latest')
  })

  test('in several repositories', async () => {
    await moveTags(registry, [...movesOf(['v1']), ...movesOf(['v1'], 'api')], fresh)
    expect([server.tags('app'), server.tags('api')]).toEqual([all(['v1'], fresh), all(['v1'], fresh)])
  })

  test.each(TAGS)('even if the answer to writing %s is lost', async (tag) => {
    pointTo(old, TAGS)
    server.setFault(({ method, reference }) => (method === 'PUT' && reference === tag ? { kind: 'lose' } : undefined))
    await moveTags(registry, movesOf(TAGS), fresh)
    expect(server.tags('app')).toEqual(all(TAGS, fresh))
  })

  test('without changing other tags', async () => {
    pointTo(old, ['v0'])
    await moveTags(registry, movesOf(['v1']), fresh)
    expect(server.tags('app').get('v0')).toBe(old.digest)
  })
})

test.each(TAGS)('a tag counts as moved even if every answer to writing it is lost: %s', async (tag) => {
  pointTo(old, TAGS)
  server.setFault(({ method, reference }) => (method === 'PUT' && reference === tag ? { kind: 'lose' } : undefined))
  await moveTags(registry, movesOf(TAGS), fresh)
  expect(server.tags('app')).toEqual(all(TAGS, fresh))
})

describe('a failure leaves every tag unchanged,', () => {
  test.each(TAGS)('no matter which one can’t be written: %s', async (tag) => {
    pointTo(old, TAGS)
    refuse(tag)
    const moving = moveTags(registry, movesOf(TAGS), fresh)
    await expect(moving).rejects.toBeInstanceOf(MergeError)
    await expect(moving).rejects.toThrow(`Can't move the tag ${server.host}/app:${tag} to ${fresh.digest}\n`)
    await expect(moving).rejects.toThrow('DENIED: this tag is immutable')
    await expect(moving).rejects.toThrow('All tags are as they were.\n')
    await expect(moving).rejects.toThrow('Fix the cause, and run this job again.')
    expect(server.tags('app')).toEqual(all(TAGS, old))
  })

  test('including one whose answer was lost, if a later one can’t be written', async () => {
    pointTo(old, TAGS)
    const refusal = { kind: 'status', status: 403, body: '{"errors":[{"code":"DENIED","message":"no"}]}' } as const
    server.setFault(({ method, reference }) => {
      if (method === 'PUT' && reference === 'v1' && !written().includes('latest')) return { kind: 'lose' }
      return method === 'PUT' && reference === 'latest' ? refusal : undefined
    })
    await expect(moveTags(registry, movesOf(TAGS), fresh)).rejects.toThrow('All tags are as they were.\n')
    expect(server.tags('app')).toEqual(all(TAGS, old))
  })

  test('also in other repositories', async () => {
    pointTo(old, ['v1'])
    pointTo(old, ['v2'], 'api')
    refuse('v2')
    await expect(moveTags(registry, [...movesOf(['v1']), ...movesOf(['v2'], 'api')], fresh)).rejects.toThrow(
      'All tags are as they were.',
    )
    expect([server.tags('app'), server.tags('api')]).toEqual([all(['v1'], old), all(['v2'], old)])
  })

  test('except one that another run has moved during the failure', async () => {
    const foreign = indexOf('foreign')
    server.seedManifest('app', foreign.bytes, OCI_INDEX)
    pointTo(old, TAGS)
    refuse('latest', ({ reference, method }) => {
      if (method === 'HEAD' && reference === 'v1' && written().includes('latest')) pointTo(foreign, ['v1'])
      return undefined
    })
    await expect(moveTags(registry, movesOf(TAGS), fresh)).rejects.toThrow(
      `All tags are as they were, except these:\n  ${server.host}/app:v1: points to ${foreign.digest}: another run moved it\n`,
    )
    expect(server.tags('app')).toEqual(new Map([...all(TAGS, old), ['v1', foreign.digest]]))
  })
})

describe('another run that moves the same tags to the same index at the same time', () => {
  test.each(TAGS)('may write %s first, which the registry then refuses to write again', async (tag) => {
    pointTo(old, TAGS)
    const moves = movesOf(TAGS)
    server.setFault(({ method, reference }) => {
      if (method !== 'PUT' || reference !== tag) return undefined
      pointTo(fresh, [tag])
      return { kind: 'status', status: 409, body: '{"errors":[{"code":"DENIED","message":"this tag is immutable"}]}' }
    })
    await moveTags(registry, moves, fresh)
    expect(server.tags('app')).toEqual(all(TAGS, fresh))
  })

  test('keeps its tags if this run can’t write a later one, and the error names the tags that have moved', async () => {
    pointTo(old, ['v1.2', 'v1', 'latest'])
    const moves = movesOf(TAGS)
    server.setFault(({ method, reference }) => {
      if (method !== 'PUT') return undefined
      if (reference === 'v1.2.3') pointTo(fresh, ['v1.2.3'])
      return reference === 'v1.2.3' || reference === 'latest' ? { kind: 'status', status: 403, body: '{}' } : undefined
    })
    const moving = moveTags(registry, moves, fresh)
    await expect(moving).rejects.toThrow(`Can't move the tag ${server.host}/app:latest`)
    for (const tag of ['v1.2.3', 'v1.2', 'v1'])
      await expect(moving).rejects.toThrow(
        `\n  ${server.host}/app:${tag}: points to ${fresh.digest}, and another run moves it there too\n`,
      )
    await expect(moving).rejects.toThrow('All tags are as they were, except these:\n')
    expect(server.tags('app')).toEqual(new Map([...all(TAGS, fresh), ['latest', old.digest]]))
  })
})

describe('another run that moves a tag to another index', () => {
  const foreign = indexOf('foreign', 'def')

  beforeEach(() => {
    server.seedManifest('app', foreign.bytes, OCI_INDEX)
    pointTo(old, TAGS)
  })

  /** Simulates another run that moves a tag after this run has written the tag `after`. */
  function moveAfter(after: string, tag: string): void {
    server.setFault(({ method, reference }) => {
      if (method === 'HEAD' && written().includes(after) && reference === tag) pointTo(foreign, [tag])
      return undefined
    })
  }

  test('after the first wave is detected before the next one, and the tags of the first are restored', async () => {
    moveAfter('v1', 'latest')
    const moving = moveTags(registry, movesOf(TAGS), fresh)
    await expect(moving).rejects.toThrow(
      `${server.host}/app:latest was updated by another run while this job was running\n`,
    )
    await expect(moving).rejects.toThrow(`and now points to ${foreign.digest}\nAll other tags are as they were.\n`)
    expect(server.tags('app')).toEqual(new Map([...all(TAGS, old), ['latest', foreign.digest]]))
  })

  test('after this run has moved it is detected at the end', async () => {
    const moves = movesOf(TAGS)
    await moveTags(registry, moves, fresh)
    pointTo(foreign, ['v1'])
    const warnings: string[] = []
    const ignore = (): void => undefined
    const log = { info: ignore, debug: ignore, warning: (text: string) => void warnings.push(text) }
    expect(await findOvertaken(registry, moves, fresh, log)).toEqual([
      { tag: moves.find(({ tag: { tag } }) => tag === 'v1')?.tag, now: foreign.digest },
    ])
    expect(warnings).toEqual([expect.stringContaining(`${server.host}/app:v1 was updated by another run`)])
    expect(warnings[0]).toContain(`points to ${foreign.digest} (commit def)`)
  })
})

describe('an implausible answer about a tag', () => {
  const once = (fault: Fault): FaultOf => {
    let left = true
    return ({ method, reference }) => {
      if (method !== 'HEAD' || reference !== 'v1' || !left) return undefined
      left = false
      return fault
    }
  }

  test.each<[string, Fault]>([
    ['with 404', { kind: 'status', status: 404 }],
    [
      'with another digest',
      { kind: 'status', status: 200, headers: { 'docker-content-digest': `sha256:${'0'.repeat(64)}` } },
    ],
  ])('%s is checked before the tag counts as moved by another run', async (_, fault) => {
    pointTo(old, TAGS)
    server.setFault(once(fault))
    await moveTags(registry, movesOf(TAGS), fresh)
    expect(server.tags('app')).toEqual(all(TAGS, fresh))
  })

  test('with 404 for some seconds does not fail the merge', async () => {
    pointTo(old, TAGS)
    let looks = 0
    server.setFault(({ method, reference }) => {
      if ((method !== 'HEAD' && method !== 'GET') || reference !== 'v1') return undefined
      return ++looks < 4 ? { kind: 'status', status: 404 } : undefined
    })
    await moveTags(registry, movesOf(TAGS), fresh)
    expect(server.tags('app')).toEqual(all(TAGS, fresh))
  })
})

describe('after a failure, the error names', () => {
  test('a new tag if the registry can’t delete tags', async () => {
    pointTo(old, ['v1.2', 'v1', 'latest'])
    refuse('v1')
    const moving = moveTags(registry, movesOf(TAGS), fresh)
    await expect(moving).rejects.toThrow(
      `All tags are as they were, except these:\n  ${server.host}/app:v1.2.3: is new and points to ${fresh.digest}; ${server.host} can't delete tags\n`,
    )
    expect(server.tags('app')).toEqual(new Map([...all(TAGS, old), ['v1.2.3', fresh.digest]]))
  })

  test('no new tag that the registry has deleted', async () => {
    refuse('v1', ({ method }) => (method === 'DELETE' ? { kind: 'status', status: 202 } : undefined))
    await expect(moveTags(registry, movesOf(TAGS), fresh)).rejects.toThrow('All tags are as they were.\n')
    const deleted = server.requests.flatMap(({ method, reference }) => (method === 'DELETE' ? [reference] : []))
    expect(deleted.toSorted()).toEqual(['v1.2', 'v1.2.3'])
  })

  test('tags that the registry refuses to restore, each with the registry’s message', async () => {
    pointTo(old, TAGS)
    refuse('latest', ({ method, reference }) =>
      method === 'PUT' && reference === 'v1.2' && written().includes('latest')
        ? { kind: 'status', status: 403, body: '{"errors":[{"code":"DENIED","message":"no way back"}]}' }
        : undefined,
    )
    const moving = moveTags(registry, movesOf(TAGS), fresh)
    await expect(moving).rejects.toThrow(/except these:\n {2}\S+\/app:v1\.2: (?:.|\n)*no way back/)
    expect(server.tags('app')).toEqual(new Map([...all(TAGS, old), ['v1.2', fresh.digest]]))
  })
})
