import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  type AtLeastOne,
  lines,
  mergeWith,
  namesIn,
  openRegistry,
  type Pushed,
  push,
  records,
  refusalOf,
  said,
  shortCode,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { FaultOf, SeenRequest, TestRegistry } from '../support/registry.ts'
import { OCI_INDEX, seedIndex } from '../support/seed.ts'

const TAGS = ['v1', 'v2', 'latest']

let registry: TestRegistry
let images: AtLeastOne<Pushed>
/** The digest of the existing tags. */
let old: string
/** The digest of an index that another run has pushed. */
let foreign: string

beforeEach(async () => {
  registry = await openRegistry()
  images = await push(registry, 'app', TWO_SYSTEMS)
  const [amd64] = await push(registry, 'app', ['x86_64-linux'], { content: 'old' })
  const [other] = await push(registry, 'app', ['x86_64-linux'], { content: 'of another run' })
  old = seedIndex(registry, 'app', [amd64.entry])
  foreign = seedIndex(registry, 'app', [other.entry])
  for (const tag of TAGS) registry.seedTag('app', tag, old)
})

const inputs = (tags: readonly string[] = TAGS) => ({ digests: records(images), tags: tags.join(',') })

/** Reports whether a request refers to the new index by its digest. */
function isNewIndex({ method, route, reference = '' }: SeenRequest, verb: string): boolean {
  const known = [old, foreign, ...images.map(({ image }) => image.digest)]
  return method === verb && route === 'manifest' && reference.startsWith('sha256:') && !known.includes(reference)
}

describe('a merge', () => {
  test('writes the index by digest, reads it back, and then writes new tags, existing tags and `latest`', async () => {
    const { outputs } = await mergeWith(registry, inputs(['latest', 'new', 'v1']))
    const at = registry.requests.filter(
      (request) => request.method === 'PUT' || (request.method === 'GET' && request.reference === outputs.digest),
    )
    expect(at.map(({ method, reference }) => `${method} ${reference}`)).toEqual([
      `PUT ${outputs.digest}`,
      `GET ${outputs.digest}`,
      'PUT new',
      'PUT v1',
      'PUT latest',
    ])
  })

  test('requests an index again that the registry has accepted but does not return yet', async () => {
    let looks = 0
    registry.setFault((request) =>
      isNewIndex(request, 'GET') && ++looks < 4 ? { kind: 'status', status: 404 } : undefined,
    )
    const { outputs } = await mergeWith(registry, inputs())
    expect(looks).toBe(4)
    expect([...registry.tags('app').values()]).toEqual(TAGS.map(() => outputs.digest))
  })

  test('writes nothing before all images are checked', async () => {
    await mergeWith(registry, inputs())
    const looked = registry.requests.map(({ method, path }) => `${method} ${path}`)
    const last = looked.findLastIndex((line) => line.startsWith('HEAD ') && line.includes('/blobs/'))
    expect(looked.findIndex((line) => line.startsWith('PUT '))).toBeGreaterThan(last)
  })
})

describe('no tag has moved', () => {
  test('if the registry accepts the index but does not return it', async () => {
    registry.setFault((request) => (isNewIndex(request, 'GET') ? { kind: 'status', status: 404 } : undefined))
    const refusal = await refusalOf(registry, inputs())
    expect(refusal).toMatch(/accepted the index 127\.0\.0\.1:\d+\/app@sha256:[0-9a-f]{64} but does not return it\n/)
    expect(refusal).toContain('No tag has moved.')
  })

  test('if the registry returns different bytes for the index', async () => {
    registry.setFault((request) => (isNewIndex(request, 'GET') ? { kind: 'corrupt' } : undefined))
    expect(await refusalOf(registry, inputs())).toContain('its digest should be')
  })

  test.each(TAGS)('if %s is refused: the error names it, and a re-run publishes all tags', async (tag) => {
    const body = JSON.stringify({ errors: [{ code: 'DENIED', message: 'tag is protected' }] })
    registry.setFault(({ method, reference }) =>
      method === 'PUT' && reference === tag ? { kind: 'status', status: 403, body } : undefined,
    )
    const refusal = await refusalOf(registry, inputs())
    expect(refusal).toContain(`Can't move the tag ${registry.host}/app:${tag} to sha256:`)
    expect(refusal).toContain('DENIED: tag is protected')
    expect(refusal).toContain('All tags are as they were.')
    registry.setFault(undefined)
    const { outputs } = await mergeWith(registry, inputs())
    expect([...registry.tags('app').values()]).toEqual(TAGS.map(() => outputs.digest))
  })
})

describe('a tag that another run changes during this run is read and planned again:', () => {
  /** Calls `work` when the index is written. */
  const meanwhile =
    (work: () => void): FaultOf =>
    (request) => {
      if (isNewIndex(request, 'PUT')) work()
      return undefined
    }

  test.each(TAGS)('%s', async (tag) => {
    registry.setFault(meanwhile(() => registry.seedTag('app', tag, foreign)))
    const { outputs, summary } = await mergeWith(registry, inputs())
    expect([...registry.tags('app').values()]).toEqual(TAGS.map(() => outputs.digest))
    expect(summary).toContain(`| \`${tag}\` | moved from ${shortCode(foreign)}`)
    const conflict = `${registry.host}/app:${tag} was updated by another run while this job was running: it pointed to ${old}, and now points to ${foreign}.`
    expect(lines.filter((line) => line.includes('another run'))).toEqual([`${conflict} Reading the tags again`])
    expect(said).toEqual([])
  })

  test('a tag that did not exist before', async () => {
    registry.setFault(meanwhile(() => registry.seedTag('app', 'new', foreign)))
    const { summary } = await mergeWith(registry, inputs([...TAGS, 'new']))
    expect(summary).toContain(`| \`new\` | moved from ${shortCode(foreign)}`)
    expect(lines.join('\n')).toContain(`it did not exist, and now points to ${foreign}. Reading the tags again`)
  })

  test('a tag that no longer exists', async () => {
    registry.setFault(({ method, reference, path }) => {
      if (method === 'PUT' && path.includes('/mirror/manifests/sha256:')) deleted = true
      return deleted &&
        reference === 'v2' &&
        method !== 'PUT' &&
        !writesTo(registry).some((line) => line.endsWith('/v2'))
        ? { kind: 'status', status: 404 }
        : undefined
    })
    let deleted = false
    const image = namesIn(registry, 'app', 'mirror')
    const { outputs } = await mergeWith(registry, { ...inputs(), image })
    expect(registry.tags('app').get('v2')).toBe(outputs.digest)
    expect(lines.join('\n')).toContain(`it pointed to ${old}, and now does not exist. Reading the tags again`)
  })

  test('a tag that already pointed to the result', async () => {
    const { outputs } = await mergeWith(registry, inputs(['v1']))
    const image = namesIn(registry, 'app', 'mirror')
    registry.setFault(({ method, path }) => {
      if (method === 'PUT' && path.includes('/mirror/manifests/sha256:')) registry.seedTag('app', 'v1', foreign)
      return undefined
    })
    await mergeWith(registry, { ...inputs(['v1']), image })
    expect(registry.tags('app').get('v1')).toBe(outputs.digest)
    expect([...registry.tags('mirror')]).toEqual([['v1', outputs.digest]])
  })
})

describe('a tag that another run moves after this one', () => {
  /** Moves tags after this run has written the last one. */
  const overtake = (tags: readonly string[]): void => {
    let isWritten = false
    registry.setFault(({ method, reference }) => {
      if (method === 'PUT' && reference === 'latest') isWritten = true
      if (method === 'HEAD' && isWritten && tags.includes(reference ?? '')) {
        for (const tag of tags) registry.seedTag('app', tag, foreign)
      }
      return undefined
    })
  }

  test('is named in a warning and is not in the output', async () => {
    overtake(['v1'])
    const { outputs, summary } = await mergeWith(registry, inputs())
    expect(said).toEqual([
      expect.stringMatching(
        /^warning: \S+\/app:v1 was updated by another run after this run had pointed it to sha256:/,
      ),
    ])
    expect(said[0]).toContain(`it now points to ${foreign}`)
    expect(outputs).toMatchObject({ changed: 'true', tags: `${registry.host}/app:v2\n${registry.host}/app:latest` })
    expect(summary).toContain(`| \`v1\` | moved to ${shortCode(foreign)} by another run |`)
  })

  test('is not a change: the output `changed` is false if no other tag has moved', async () => {
    overtake(TAGS)
    const { outputs } = await mergeWith(registry, inputs())
    expect(outputs).toMatchObject({ changed: 'false', tags: '' })
  })
})

test.each(['manifest', 'blob'] as const)(
  'a %s that a build has just pushed is requested again if it is not visible yet',
  async (route) => {
    const looks = new Map<string, number>()
    registry.setFault((request) => {
      if (request.route !== route || !/^(GET|HEAD)$/.test(request.method)) return undefined
      if (!images.some(({ image }) => image.digest === request.reference) && route === 'manifest') return undefined
      const count = (looks.get(request.path) ?? 0) + 1
      looks.set(request.path, count)
      return count <= 3 ? { kind: 'status', status: 404 } : undefined
    })
    const { outputs } = await mergeWith(registry, inputs())
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
  },
)

test('a tag that is briefly not visible is not treated as new', async () => {
  let looks = 0
  registry.setFault(({ method, reference }) =>
    method === 'GET' && reference === 'latest' && looks++ === 0 ? { kind: 'status', status: 404 } : undefined,
  )
  const { outputs, summary } = await mergeWith(registry, inputs())
  expect(registry.tags('app').get('latest')).toBe(outputs.digest)
  expect(summary).toContain(`| \`latest\` | moved from ${shortCode(old)}`)
})

test('a tag whose manifest the registry does not return stops the merge', async () => {
  registry.setFault(({ method, reference }) =>
    method === 'GET' && reference === 'latest' ? { kind: 'status', status: 404 } : undefined,
  )
  expect(await refusalOf(registry, inputs())).toMatch(
    /latest points to sha256:\w+, but does not return it\nRun the job again/,
  )
})

describe('the same merge in another job of a matrix', () => {
  /** Returns the digest of the index that both publish. */
  const expected = async (): Promise<string> =>
    (await mergeWith(registry, { ...inputs(['probe']) })).outputs.digest ?? ''

  test.each([...TAGS, 'new'])('may point %s to the same index before this job writes it', async (tag) => {
    const index = await expected()
    const before = writesTo(registry).length
    registry.setFault(({ method, reference, path }) => {
      if (method === 'PUT' && reference === index && path.includes('/app/')) registry.seedTag('app', tag, index)
      return undefined
    })
    const { outputs } = await mergeWith(registry, { ...inputs([...TAGS, 'new']) })
    expect(outputs.digest).toBe(index)
    const tags = [...TAGS, 'new']
    expect(tags.map((one) => registry.tags('app').get(one))).toEqual(tags.map(() => index))
    // It may be immutable.
    expect(writesTo(registry).slice(before)).not.toContain(`PUT /v2/app/manifests/${tag}`)
  })

  test('keeps the tags that it has moved or is about to move if this one fails', async () => {
    const index = await expected()
    registry.setFault(({ method, reference }) => {
      if (method === 'PUT' && reference === index) registry.seedTag('app', 'v1', index)
      return method === 'PUT' && reference === 'latest' ? { kind: 'status', status: 403, body: '{}' } : undefined
    })
    const merging = mergeWith(registry, inputs())
    await expect(merging).rejects.toThrow(/Can't move the tag .*\/app:latest to/)
    for (const tag of ['v1', 'v2'])
      await expect(merging).rejects.toThrow(`/app:${tag}: points to ${index}, and another run moves it there too\n`)
    expect(Object.fromEntries(registry.tags('app'))).toMatchObject({ v1: index, v2: index, latest: old })
  })
})

test('a tag that already points to the result is not written, even if others are', async () => {
  const { outputs } = await mergeWith(registry, inputs(['v1']))
  const before = writesTo(registry).length
  await mergeWith(registry, inputs(['v1', 'v2']))
  expect(writesTo(registry).slice(before)).toEqual([expect.stringContaining('PUT /v2/app/manifests/v2')])
  expect(registry.manifest('app', 'v2')).toMatchObject({ digest: outputs.digest, mediaType: OCI_INDEX })
})
