import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  COMMIT,
  indexAt,
  type MergeCall,
  mergeWith,
  namesIn,
  ORIGIN,
  openRegistry,
  platformsOf,
  push,
  pushIndex,
  REVISION,
  records,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedIndex } from '../support/seed.ts'

const NEXT = '9'.repeat(40)

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

/** The tags that were written. */
function taggings(): readonly string[] {
  return writesTo(registry).flatMap((write) => /^PUT .*\/manifests\/(?!sha256:)(.*)/.exec(write)?.[1] ?? [])
}

const annotated = (annotations: readonly string[]): MergeCall => ({
  env: { DOCKER_METADATA_OUTPUT_JSON: JSON.stringify({ annotations }) },
})

describe('if only the commit has changed,', () => {
  test('the existing index is the result, and this commit’s tag points to it', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const first = await mergeWith(registry, { digests: records(images), tags: 'latest,{sha}' })
    const { outputs, summary } = await mergeWith(
      registry,
      { digests: records(images), tags: 'latest,{sha}' },
      { sha: NEXT },
    )
    expect(outputs).toEqual({
      ...first.outputs,
      tags: `${registry.host}/app:latest\n${registry.host}/app:9999999`,
      changed: 'false',
    })
    expect(summary).toMatch(/^### Unchanged\n/)
    expect(summary).toContain('| `latest` | unchanged |')
    expect(summary).toContain('| `9999999` | new |')
    expect(new Set(registry.tags('app').values())).toEqual(new Set([first.outputs.digest]))
    expect([...taggings()].sort()).toEqual(['0123456', '9999999', 'latest'])
    expect(indexAt(registry, 'latest').annotations).toEqual(ORIGIN)
  })

  test('the existing index is the result even if the creation time differs as well', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const created = (when: string): MergeCall => annotated([`index:org.opencontainers.image.created=${when}`])
    const { outputs } = await mergeWith(registry, { digests: records(images) }, created('2026-01-01T00:00:00Z'))
    const second = await mergeWith(registry, { digests: records(images) }, { ...created('2026-01-02'), sha: NEXT })
    expect(second.outputs).toMatchObject({ digest: outputs.digest, changed: 'false' })
  })

  test('a tag that points to another index moves to the existing one, which counts as a change', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const { outputs } = await mergeWith(registry, { digests: records(images), tags: 'latest' })
    pushIndex(registry, images, 'v1')
    const second = await mergeWith(registry, { digests: records(images), tags: 'latest,v1' }, { sha: NEXT })
    expect(second.outputs).toMatchObject({ digest: outputs.digest, changed: 'true' })
    expect(registry.tags('app').get('v1')).toBe(outputs.digest)
    expect(taggings()).toEqual(['latest', 'v1'])
  })

  test('the existing index is also published under a name that does not have it', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    await push(registry, 'mirror', TWO_SYSTEMS)
    const { outputs } = await mergeWith(registry, { digests: records(images), tags: 'latest' })
    const image = namesIn(registry, 'app', 'mirror')
    await mergeWith(registry, { image, digests: records(images), tags: 'latest' }, { sha: NEXT })
    expect(registry.tags('mirror').get('latest')).toBe(outputs.digest)
    expect(platformsOf(registry, 'latest', 'mirror')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('`republish` publishes a new index that names this commit', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const first = await mergeWith(registry, { digests: records(images), tags: 'latest' })
    const second = await mergeWith(
      registry,
      { digests: records(images), tags: 'latest', republish: 'true' },
      { sha: NEXT },
    )
    expect(second.outputs.digest).not.toBe(first.outputs.digest)
    expect(second.outputs.changed).toBe('true')
    expect(registry.tags('app').get('latest')).toBe(second.outputs.digest)
    expect(indexAt(registry, 'latest').annotations).toEqual({ ...ORIGIN, [REVISION]: NEXT })
  })
})

describe('a new index is published if', () => {
  test('an image has changed', async () => {
    const [amd64] = await push(registry, 'app', TWO_SYSTEMS)
    const first = await mergeWith(registry, {
      digests: records(await push(registry, 'app', TWO_SYSTEMS)),
      tags: 'latest',
    })
    const [, arm64] = await push(registry, 'app', TWO_SYSTEMS, { content: 'changed' })
    const second = await mergeWith(registry, { digests: records([amd64, arm64]), tags: 'latest' }, { sha: NEXT })
    expect(second.outputs).toMatchObject({ changed: 'true', digest: registry.tags('app').get('latest') })
    expect(second.outputs.digest).not.toBe(first.outputs.digest)
  })

  test('a platform was added', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    await mergeWith(registry, { digests: amd64.record, tags: 'latest' })
    const { outputs, summary } = await mergeWith(registry, { digests: records([amd64, arm64]), tags: 'latest' })
    expect(outputs.changed).toBe('true')
    expect(summary).toContain(', + linux/arm64 |')
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test.each([
    ['has changed', 'index:org.opencontainers.image.title=One', 'index:org.opencontainers.image.title=Two'],
    ['was removed', 'index:org.opencontainers.image.title=One', 'index:org.opencontainers.image.created=2026'],
    [
      'of one platform has changed',
      'manifest-descriptor[linux/arm64]:org.example.speed=slow',
      'manifest-descriptor[linux/arm64]:org.example.speed=fast',
    ],
  ])('an annotation %s', async (_, before, after) => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const first = await mergeWith(registry, { digests: records(images) }, annotated([before]))
    const second = await mergeWith(registry, { digests: records(images) }, annotated([after]))
    expect(second.outputs.digest).not.toBe(first.outputs.digest)
    expect(second.outputs.changed).toBe('true')
    expect(registry.tags('app').get('latest')).toBe(second.outputs.digest)
  })

  test('an attestation was added', async () => {
    const [{ image, entry, record }] = await push(registry, 'app', ['x86_64-linux'])
    await mergeWith(registry, { digests: record, tags: 'latest' })
    const attested = seedIndex(registry, 'app', [entry, await seedAttestation(registry, 'app', image)])
    const { outputs } = await mergeWith(registry, { digests: attested, tags: 'latest' })
    expect(outputs.changed).toBe('true')
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'unknown/unknown'])
  })

  test('the tag points to a single image', async () => {
    const [{ image, record }] = await push(registry, 'app', ['x86_64-linux'])
    registry.seedTag('app', 'latest', image.digest)
    const { outputs } = await mergeWith(registry, { digests: record, tags: 'latest' })
    expect(outputs.changed).toBe('true')
    expect(indexAt(registry, 'latest').annotations?.[REVISION]).toBe(COMMIT)
  })
})
