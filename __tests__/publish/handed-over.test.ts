import { beforeEach, describe, expect, test } from '@jest/globals'
import { artifactName } from '../../src/record/artifact-name.ts'
import type { ArtifactService } from '../support/artifact-service.ts'
import {
  mergeWith,
  openArtifactService,
  openRegistry,
  platformsOf,
  push,
  records,
  refusalOf,
  rewrite,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedIndex } from '../support/seed.ts'

let registry: TestRegistry
let service: ArtifactService

beforeEach(async () => {
  registry = await openRegistry()
  service = await openArtifactService()
})

const nameOf = (system: string, place?: number) => artifactName({ image: `${registry.host}/app`, system }, place)
const RUN = { id: '1234567890', attempt: 1 }
const ofThisRun = (record: string) => rewrite(record, { run: RUN })

/** Uploads an artifact like Docker's documentation: an empty file for each digest, with the digest as its name. */
function leave(name: string, ...digests: readonly string[]): Promise<void> {
  return service.put(name, Object.fromEntries(digests.map((digest) => [digest.replace('sha256:', ''), ''])))
}

describe('digests in artifacts of other build actions', () => {
  test('are published from one artifact per digest, as in Docker’s documentation', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    await leave('digests-linux-amd64', amd64.image.digest)
    await leave('digests-linux-arm64', arm64.image.digest)
    await mergeWith(registry, { 'artifact-pattern': 'digests-*', tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('are published from one artifact with all digests', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    await leave('digests', amd64.image.digest, arm64.image.digest)
    await mergeWith(registry, { 'artifact-pattern': 'digests', tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('are published together with records of this action’s builds in artifacts', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    await leave('digests-linux-amd64', amd64.image.digest)
    await service.put(nameOf('aarch64-linux'), { 'digest.json': ofThisRun(arm64.record) })
    await mergeWith(registry, { 'artifact-pattern': 'digests-*', tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('are published together with records in `digests`, without records in artifacts', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    await leave('digests-linux-amd64', amd64.image.digest)
    await service.put('image-digest-app', { 'digest.json': 'not read' })
    await mergeWith(registry, { digests: arm64.record, 'artifact-pattern': 'digests-*', tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('are not published if the artifact’s name does not match the pattern', async () => {
    const [amd64] = await push(registry, 'app', ['x86_64-linux'])
    await leave('digests-app-1', amd64.image.digest)
    await leave('old-digests-app-1', `sha256:${'0'.repeat(64)}`)
    await leave('digests.app-1', `sha256:${'1'.repeat(64)}`)
    await mergeWith(registry, { 'artifact-pattern': 'digests-app-*', tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })

  test('are not published without a pattern', async () => {
    const [amd64] = await push(registry, 'app', ['x86_64-linux'])
    await leave('digests-1', amd64.image.digest)
    expect(await refusalOf(registry, { tags: 'latest' })).toContain('found no digests')
  })
})

describe('artifacts of other build actions are refused', () => {
  test.each<[string, Readonly<Record<string, string>>, string]>([
    ['if a file name is not a digest', { 'coverage.xml': '<x/>' }, 'but contains coverage.xml\n'],
    ['if they contain no file', {}, 'but contains nothing\n'],
    ['if a digest is truncated', { abc: '' }, 'but contains abc\n'],
    ['if a file name contains a workflow command', { 'x\n::warning::x': '' }, 'but contains x ::warning::x\n'],
  ])('%s, and the error names the content', async (_, files, detail) => {
    await service.put('digests-1', files)
    const refusal = await refusalOf(registry, { 'artifact-pattern': 'digests-*' })
    expect(refusal).toContain('the artifact digests-1 must contain files named after digests, ')
    expect(refusal).toContain(detail)
    expect(refusal).toContain('Make sure that `artifact-pattern` matches no other artifacts.')
  })

  test('if the registry does not have the image', async () => {
    await leave('digests-1', `sha256:${'0'.repeat(64)}`)
    expect(await refusalOf(registry, { 'artifact-pattern': 'digests-*' })).toContain('is not in the registry')
  })
})

describe('bare digests in `digests`', () => {
  test('are accepted with and without `sha256:`', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    const digests = `${amd64.image.digest}\n${arm64.image.digest.replace('sha256:', '')}`
    await mergeWith(registry, { digests, tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('are one image if they are equal', async () => {
    const [{ image }] = await push(registry, 'app', ['x86_64-linux'])
    await mergeWith(registry, { digests: `${image.digest}\n${image.digest.slice(7)}`, tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })

  test('are one image with a record of the same digest', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const [{ image }] = images
    await mergeWith(registry, { digests: `${records(images)}\n${image.digest}`, tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('have the variant in a record of the same digest if the image names none', async () => {
    const [{ image, record }] = await push(registry, 'app', ['armv6l-linux'], { withoutVariant: true })
    await mergeWith(registry, { digests: `${image.digest}\n${record}`, tags: 'latest' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/arm/v6'])
  })

  test('of an image and of an index with only that image are one image, which keeps its attestations', async () => {
    const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'])
    const around = seedIndex(registry, 'app', [entry, await seedAttestation(registry, 'app', image)])
    for (const [tag, digests] of Object.entries({ one: [around, image.digest], two: [image.digest, around] })) {
      await mergeWith(registry, { digests: digests.join('\n'), tags: tag })
      expect(platformsOf(registry, tag)).toEqual(['linux/amd64', 'unknown/unknown'])
    }
  })
})

test('in a re-run without digests, the error says that those of earlier attempts may have expired', async () => {
  const refusal = await refusalOf(registry, { tags: 'latest' }, { runAttempt: 3 })
  expect(refusal).toContain('found no digests')
  expect(refusal).toMatch(/This is a re-run \(attempt 3\)\. .*`retention-days`.*re-run all jobs\.$/)
  expect(await refusalOf(registry, { tags: 'latest' })).not.toContain('re-run')
})

test('a failure is reported after all other work has ended', async () => {
  const guarded = await openRegistry({ auth: { kind: 'basic', user: 'octocat', password: 'secret' } })
  const names = Array.from({ length: 40 }, (_, at) => `digests-${at}`)
  for (const name of names) await leave(name, `sha256:${'0'.repeat(64)}`)
  const refusal = await refusalOf(guarded, { 'artifact-pattern': 'digests-*', tags: 'latest' })
  expect(refusal).toContain(`${guarded.host} `)
  expect(service.calls.filter(({ method }) => method === 'GetBlob')).toHaveLength(names.length)
})

describe('variants of one image', () => {
  async function leaveRecord(
    variant: string | undefined,
    place: number,
    index: number,
    system: string,
    content: string,
  ) {
    const job = { id: 'build', total: 4, index }
    const record = { run: RUN, job, storePath: `/nix/store/${content}`, ...(variant && { variant }) }
    const [pushed] = await push(registry, 'app', [system], { content, record })
    const name = artifactName({ image: `${registry.host}/app`, system, variant }, place)
    await service.put(name, { 'digest.json': pushed.record })
    return pushed
  }

  test('are published separately, each by one merge', async () => {
    for (const [at, variant] of ['debug', 'stable'].entries())
      for (const [index, system] of TWO_SYSTEMS.entries())
        await leaveRecord(variant, 1, at * 2 + index, system, variant)
    for (const variant of ['debug', 'stable']) {
      const { outputs } = await mergeWith(registry, { variant, tags: variant })
      const own = await push(registry, 'app', TWO_SYSTEMS, { content: variant })
      for (const { image } of own) expect(outputs.platforms).toContain(image.digest)
      expect(registry.tags('app').get(variant)).toBe(outputs.digest)
    }
  })

  test('without names are refused with an error that says how to name them', async () => {
    await leaveRecord(undefined, 1, 0, 'x86_64-linux', 'debug')
    await leaveRecord(undefined, 2, 1, 'x86_64-linux', 'stable')
    const refusal = await refusalOf(registry, { tags: 'latest' })
    expect(refusal).toContain(
      `There are 2 images of ${registry.host}/app for x86_64-linux, but an index can have only one`,
    )
    expect(refusal).toContain('give each its own name in the build and the merge:\n  variant: debug\n')
    expect(writesTo(registry)).toEqual([])
  })

  test('without names are published from the records in `digests` if all jobs have handed over a digest', async () => {
    const picked = [await leaveRecord(undefined, 1, 0, 'x86_64-linux', 'debug')]
    picked.push(await leaveRecord(undefined, 1, 1, 'aarch64-linux', 'debug'))
    await leaveRecord(undefined, 2, 2, 'x86_64-linux', 'stable')
    const inputs = { digests: records(picked), tags: 'latest' }
    expect(await refusalOf(registry, inputs)).toContain('Only 3 of the 4 jobs of "build" have handed over a digest')
    await leaveRecord(undefined, 2, 3, 'aarch64-linux', 'stable')
    await mergeWith(registry, inputs)
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('with a different name than the merge’s cause an error that states both names', async () => {
    await leaveRecord('debug', 1, 0, 'x86_64-linux', 'debug')
    const refusal = await refusalOf(registry, { variant: 'stable', tags: 'latest' })
    expect(refusal).toContain(`has handed over a digest for ${registry.host}/app (variant stable)\n`)
    expect(refusal).toContain(`found digests for ${registry.host}/app (variant debug)\n`)
    expect(refusal).toContain('Set the same `variant` in the build and the merge of an image.')
  })

  test('from different attempts of two jobs are never mixed', async () => {
    const [first] = await push(registry, 'app', ['x86_64-linux'], { content: 'debug', record: { run: RUN } })
    const later = { run: { ...RUN, attempt: 2 }, storePath: '/nix/store/stable', revision: '1'.repeat(40) }
    const [second] = await push(registry, 'app', ['x86_64-linux'], { content: 'stable', record: later })
    await service.put(nameOf('x86_64-linux'), { 'digest.json': first.record })
    await service.put(nameOf('x86_64-linux', 2), { 'digest.json': second.record })
    expect(await refusalOf(registry, { tags: 'latest' }, { runAttempt: 2 })).toContain('There are 2 images of')
  })
})

test('records of earlier attempts that are still in artifacts are replaced by later ones', async () => {
  const [stale] = await push(registry, 'app', ['x86_64-linux'], { content: 'stale' })
  const [fresh] = await push(registry, 'app', ['x86_64-linux'])
  const later = rewrite(fresh.record, { run: { ...RUN, attempt: 2 } })
  await service.put(nameOf('x86_64-linux'), { 'digest.json': later })
  await service.put(nameOf('x86_64-linux', 2), { 'digest.json': ofThisRun(stale.record) })
  const { outputs } = await mergeWith(registry, { tags: 'latest' }, { runAttempt: 2 })
  expect(outputs.platforms).toContain(fresh.image.digest)
})

describe('a record in an artifact is refused', () => {
  const HELP =
    'It was not written by a build of this run. Rename other artifacts of the workflow whose names begin with image-digest-'

  test.each<[string, Readonly<Record<string, unknown>>, string]>([
    ['of a later attempt', { run: { ...RUN, attempt: 999 } }, 'it is of attempt 999, but this is attempt 2'],
    ['of another run', { run: { id: '7\n::x', attempt: 1 } }, 'it is of run 7 ::x, but this is run 1234567890'],
    [
      'of another image',
      { image: 'ghcr.io/owner/app' },
      'it is of ghcr.io/owner/app for x86_64-linux, which belongs in ',
    ],
    [
      'of another system',
      { system: 'i686-linux', platform: { os: 'linux', architecture: '386' } },
      '/app for i686-linux, which belongs in ',
    ],
  ])('if it is %s, and nothing is published', async (_, fields, detail) => {
    const [{ record }, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    const [stale] = await push(registry, 'app', ['x86_64-linux'], { content: 'stale' })
    await service.put(nameOf('x86_64-linux'), { 'digest.json': ofThisRun(record) })
    await service.put(nameOf('aarch64-linux'), { 'digest.json': ofThisRun(arm64.record) })
    await service.put(nameOf('x86_64-linux', 2), { 'digest.json': rewrite(ofThisRun(stale.record), fields) })
    const refusal = await refusalOf(registry, { tags: 'latest' }, { runAttempt: 2 })
    expect(refusal).toContain(`The digest record in the artifact ${nameOf('x86_64-linux', 2)} does not belong there\n`)
    expect(refusal).toContain(detail)
    expect(refusal).toContain(HELP)
    expect(writesTo(registry)).toEqual([])
  })

  test('if the artifact’s name contains a workflow command, which the error does not repeat', async () => {
    const [{ record }] = await push(registry, 'app', ['x86_64-linux'])
    await service.put('image-digest-##[error]x', { 'digest.json': ofThisRun(record) })
    const refusal = await refusalOf(registry, { tags: 'latest' })
    expect(refusal).toContain('in the artifact image-digest-# [error]x does not belong there')
  })

  test('if it is a bare digest, which does not name its run', async () => {
    const [{ image }] = await push(registry, 'app', ['x86_64-linux'])
    await service.put(nameOf('x86_64-linux'), { 'digest.json': image.digest })
    const refusal = await refusalOf(registry, { tags: 'latest' })
    expect(refusal).toContain(`The digest record in the artifact ${nameOf('x86_64-linux')} is not valid`)
  })
})

test('records in `digests` may come from another run', async () => {
  const images = await push(registry, 'app', TWO_SYSTEMS, { record: { run: { id: '7', attempt: 999 } } })
  await mergeWith(registry, { digests: records(images), tags: 'latest' })
  expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
})
