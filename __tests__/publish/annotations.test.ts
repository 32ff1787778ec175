import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  indexAt,
  mergeWith,
  ORIGIN,
  openRegistry,
  type Pushed,
  platformsOf,
  push,
  REVISION,
  records,
  SOURCE,
  said,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'

const TITLE = 'org.opencontainers.image.title'
const DESCRIPTION = 'org.opencontainers.image.description'

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

type Labels = Readonly<Record<string, string>>

/** Pushes images for two systems with these labels. */
async function labelled(amd64: Labels, arm64: Labels = amd64): Promise<readonly Pushed[]> {
  const [one] = await push(registry, 'app', ['x86_64-linux'], { labels: amd64 })
  const [other] = await push(registry, 'app', ['aarch64-linux'], { labels: arm64 })
  return [one, other]
}

async function annotationsOf(pushed: readonly Pushed[], annotations = ''): Promise<unknown> {
  await mergeWith(registry, { digests: records(pushed), tags: 'latest', annotations })
  return indexAt(registry, 'latest').annotations
}

describe('labels', () => {
  test('that OCI defines become annotations of the index, others do not', async () => {
    const images = await labelled({ [TITLE]: 'App', [DESCRIPTION]: 'An app', 'org.example.team': 'us' })
    expect(await annotationsOf(images)).toEqual({ ...ORIGIN, [TITLE]: 'App', [DESCRIPTION]: 'An app' })
    expect(said).toEqual([])
  })

  test('are overridden by annotations and by the commit and source of the run', async () => {
    const labels = { [TITLE]: 'By label', [DESCRIPTION]: 'By label', [REVISION]: 'by label', [SOURCE]: 'by label' }
    expect(await annotationsOf(await labelled(labels), `index:${TITLE}=By annotation`)).toEqual({
      ...ORIGIN,
      [TITLE]: 'By annotation',
      [DESCRIPTION]: 'By label',
    })
  })

  test('that differ between images are skipped with a warning for each', async () => {
    const images = await labelled({ [TITLE]: 'App', [DESCRIPTION]: 'Fast' }, { [TITLE]: 'App', [DESCRIPTION]: 'Slow' })
    expect(await annotationsOf(images)).toEqual({ ...ORIGIN, [TITLE]: 'App' })
    expect(said).toEqual([
      expect.stringContaining(
        `warning: Not adding the label ${DESCRIPTION} to the index: its value differs between the images`,
      ),
    ])
  })

  test('that differ between images cause no warning if an annotation replaces them', async () => {
    const images = await labelled({ [DESCRIPTION]: 'Fast' }, { [DESCRIPTION]: 'Slow' })
    expect(await annotationsOf(images, `${DESCRIPTION}=App`)).toEqual({ ...ORIGIN, [DESCRIPTION]: 'App' })
    expect(said).toEqual([])
  })

  test('that only some images have become annotations as well', async () => {
    expect(await annotationsOf(await labelled({ [TITLE]: 'App' }, {}))).toEqual({ ...ORIGIN, [TITLE]: 'App' })
  })

  test('named like properties of every object are harmless', async () => {
    const labels = Object.fromEntries(['__proto__', 'constructor', 'toString'].map((key) => [key, 'x']))
    expect(await annotationsOf(await labelled({ ...labels, [TITLE]: 'App' }))).toEqual({ ...ORIGIN, [TITLE]: 'App' })
  })

  test('with several lines are reported on one line', async () => {
    const key = 'org.opencontainers.image.x\n::error::not by this action'
    await annotationsOf(await labelled({ [key]: 'Fast' }, { [key]: 'Slow' }))
    expect(said).toHaveLength(1)
    expect(said[0]).not.toContain('\n')
  })
})

test('annotations named like properties of every object are published like others', async () => {
  const annotations = 'index:__proto__=one\nindex:constructor=two\nmanifest-descriptor:__proto__=three'
  await mergeWith(registry, { digests: records(await labelled({})), tags: 'latest', annotations })
  const index = JSON.parse(String(registry.manifest('app', 'latest')?.bytes))
  expect(Object.entries(index.annotations)).toEqual(
    expect.arrayContaining([
      ['__proto__', 'one'],
      ['constructor', 'two'],
    ]),
  )
  expect(Object.entries(index.manifests[0].annotations)).toEqual([['__proto__', 'three']])
  expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
})
