import { beforeEach, describe, expect, test } from '@jest/globals'
import { DOCKER_MANIFEST } from '../../src/oci/manifest.ts'
import {
  type AtLeastOne,
  loseBlob,
  mergeWith,
  namesIn,
  openRegistry,
  type Pushed,
  platformsOf,
  push,
  pushIndex,
  recordOf,
  records,
  refusalOf,
  rewrite,
  said,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedImage, seedIndex } from '../support/seed.ts'

const THREE = [...TWO_SYSTEMS, 'armv7l-linux']

let registry: TestRegistry
let old: AtLeastOne<Pushed>

beforeEach(async () => {
  registry = await openRegistry()
  old = await push(registry, 'app', ['x86_64-linux'], { content: 'old' })
  registry.seedTag('app', 'latest', old[0].image.digest)
})

/** Returns the images as if jobs of a matrix had built them on a runner that numbers jobs. The first job has this number. */
function numbered(pushed: readonly Pushed[], total: number, first = 0): readonly Pushed[] {
  return pushed.map((one, at) => ({
    ...one,
    record: rewrite(one.record, { job: { id: 'build', total, index: first + at } }),
  }))
}

/** Returns the images as if jobs of a matrix had built them on a runner that does not number jobs. */
function counted(pushed: readonly Pushed[], total: number): readonly Pushed[] {
  return pushed.map((one) => ({ ...one, record: rewrite(one.record, { job: { id: 'build', total } }) }))
}

describe('a matrix with a job that has not handed over a digest is not published', () => {
  test('even if the runner does not number its jobs', async () => {
    const images = await push(registry, 'app', TWO_SYSTEMS)
    const refusal = await refusalOf(registry, { digests: records(counted(images, 3)) })
    expect(refusal).toContain('Only 2 of the 3 jobs of "build" have handed over a digest\n')
    expect(refusal).toContain(`found x86_64-linux of ${registry.host}/app, aarch64-linux of ${registry.host}/app\n`)
    expect(refusal).toContain('they failed, were skipped, pushed nothing, or built the same system twice.')
    expect(refusal).toContain('No tag has moved.')
    expect(refusal).not.toContain('re-run')
    expect(refusal).toContain('  systems: x86_64-linux,aarch64-linux')
    expect(writesTo(registry)).toEqual([])
  })

  test('even if each of the other jobs has handed over a record for each of several images', async () => {
    const [app] = await push(registry, 'app', TWO_SYSTEMS)
    const [mirror] = await push(registry, 'mirror', TWO_SYSTEMS)
    const image = namesIn(registry, 'app', 'mirror')
    for (const one of [numbered([app], 2), counted([app], 2)]) {
      const [{ record } = app] = one
      const digests = `${record}\n${rewrite(record, { image: `${registry.host}/mirror` })}`
      expect(await refusalOf(registry, { image, digests })).toContain('Only 1 of the 2 jobs of "build" has handed over')
    }
    expect(mirror.image).toEqual(app.image)
  })

  test('even if that job builds another image', async () => {
    const app = await push(registry, 'app', TWO_SYSTEMS)
    const [api] = await push(registry, 'api', ['x86_64-linux'])
    const digests = records([...numbered(app, 4), ...numbered([api], 4, 2)])
    const refusal = await refusalOf(registry, { digests })
    expect(refusal).toContain('Only 3 of the 4 jobs of "build"')
    expect(refusal).toContain(`x86_64-linux of ${registry.host}/api`)
  })

  test('even if a second call of the same workflow, for another image, has jobs with the same names', async () => {
    const [app] = numbered(await push(registry, 'app', TWO_SYSTEMS), 2)
    const api = numbered(await push(registry, 'api', TWO_SYSTEMS, { content: 'api' }), 2)
    const refusal = await refusalOf(registry, { digests: records([...(app ? [app] : []), ...api]) })
    expect(refusal).toContain('Only 1 of the 2 jobs of "build" has handed over a digest')
  })

  test('even if another matrix of the run is complete', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    const digests = [
      rewrite(amd64.record, { job: { id: 'fast', total: 1, index: 0 } }),
      rewrite(arm64.record, { job: { id: 'slow', total: 2, index: 0 } }),
    ]
    expect(await refusalOf(registry, { digests: digests.join('\n') })).toContain('Only 1 of the 2 jobs of "slow"')
  })

  test('in a re-run, with an error that says that records of earlier attempts may have expired', async () => {
    const digests = records(counted(await push(registry, 'app', TWO_SYSTEMS), 3))
    const refusal = await refusalOf(registry, { digests }, { runAttempt: 2 })
    expect(refusal).toContain('This is a re-run (attempt 2). ')
    expect(refusal).toMatch(/`retention-days` of the builds \(1 by default\).*re-run all jobs\.\n/)
    expect(refusal).toMatch(/\n {2}systems: x86_64-linux,aarch64-linux$/)
  })

  test('with an error that shows a job name with a workflow command on one line', async () => {
    const [{ record }] = await push(registry, 'app', ['x86_64-linux'])
    const digests = rewrite(record, { job: { id: 'x\n::warning::not by this action', total: 2 } })
    const refusal = await refusalOf(registry, { digests })
    expect(refusal).toContain('Only 1 of the 2 jobs of "x')
    expect(refusal).not.toMatch(/^\s*::/m)
  })

  test('even if there is a record of an earlier attempt of the same job', async () => {
    const [amd64] = await push(registry, 'app', ['x86_64-linux'])
    const [again] = await push(registry, 'app', ['x86_64-linux'], { content: 'again' })
    const job = { id: 'build', total: 2 }
    const digests = [rewrite(amd64.record, { job }), rewrite(again.record, { job, run: { id: '1', attempt: 2 } })]
    expect(await refusalOf(registry, { digests: digests.join('\n') })).toContain('Only 1 of the 2 jobs of "build"')
  })
})

describe('a complete matrix is published', () => {
  test.each([
    ['if its jobs are numbered', numbered],
    ['if its jobs are not numbered', counted],
  ])('%s', async (_, of) => {
    await mergeWith(registry, { digests: records(of(await push(registry, 'app', THREE), 3)) })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm/v7', 'linux/arm64'])
  })

  test('if it builds several images, each with a separate merge', async () => {
    const app = numbered(await push(registry, 'app', TWO_SYSTEMS), 4)
    const api = numbered(await push(registry, 'api', TWO_SYSTEMS, { content: 'api' }), 4, 2)
    const digests = records([...app, ...api])
    for (const name of ['app', 'api']) {
      await mergeWith(registry, { image: `${registry.host}/${name}`, digests })
      expect(platformsOf(registry, 'latest', name)).toEqual(['linux/amd64', 'linux/arm64'])
    }
  })

  test('if each of its jobs has pushed to two repositories', async () => {
    const app = counted(await push(registry, 'app', TWO_SYSTEMS), 2)
    await push(registry, 'mirror', TWO_SYSTEMS)
    const image = `${registry.host}/mirror`
    const digests = records([...app, ...app.map((one) => ({ record: rewrite(one.record, { image }) }))])
    await mergeWith(registry, { image: `${registry.host}/app\n${image}`, digests })
    expect(registry.tags('app').get('latest')).toBe(registry.tags('mirror').get('latest'))
  })

  test('if its workflow is called twice and has the same job names in both calls', async () => {
    const app = numbered(await push(registry, 'app', TWO_SYSTEMS), 2)
    const api = numbered(await push(registry, 'api', THREE, { content: 'api' }), 3)
    const digests = records([...app, ...api])
    for (const [name, platforms] of Object.entries({
      app: ['linux/amd64', 'linux/arm64'],
      api: ['linux/amd64', 'linux/arm/v7', 'linux/arm64'],
    })) {
      await mergeWith(registry, { image: `${registry.host}/${name}`, digests })
      expect(platformsOf(registry, 'latest', name)).toEqual(platforms)
    }
    const incomplete = records([...app, ...api.slice(1)])
    const refusal = await refusalOf(registry, { image: `${registry.host}/api`, digests: incomplete })
    expect(refusal).toContain('Only 2 of the 3 jobs of "build"')
  })

  test('if only its failed jobs ran again', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS)
    const job = { id: 'build', total: 2 }
    const digests = [rewrite(amd64.record, { job }), rewrite(arm64.record, { job, run: { id: '1', attempt: 2 } })]
    await mergeWith(registry, { digests: digests.join('\n') })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })

  test('if some of its jobs build no image and `systems` lists the systems of the others', async () => {
    const digests = records(numbered(await push(registry, 'app', TWO_SYSTEMS), 5))
    await mergeWith(registry, { digests, systems: 'aarch64-linux, x86_64-linux' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
  })
})

test.each([1, -1])('records of the last attempt replace earlier ones in any order of the input (%i)', async (order) => {
  const [stale] = await push(registry, 'app', ['x86_64-linux'], { content: 'stale' })
  const [fresh, arm64] = await push(registry, 'app', TWO_SYSTEMS)
  // Compared as text, 9 would come after 10.
  const attempts = [
    rewrite(stale.record, { run: { id: '1', attempt: 9 } }),
    rewrite(fresh.record, { run: { id: '1', attempt: 10 } }),
    rewrite(arm64.record, { run: { id: '1', attempt: 9 } }),
  ]
  const { outputs } = await mergeWith(registry, { digests: (order > 0 ? attempts : attempts.toReversed()).join('\n') })
  expect(JSON.parse(outputs.platforms ?? '')).toEqual([
    { system: 'x86_64-linux', platform: 'linux/amd64', digest: fresh.image.digest },
    { system: 'aarch64-linux', platform: 'linux/arm64', digest: arm64.image.digest },
  ])
})

describe('a tag never loses a platform', () => {
  test('of its index', async () => {
    const images = await push(registry, 'app', THREE, { content: 'old' })
    pushIndex(registry, images, 'latest')
    const refusal = await refusalOf(registry, { digests: records(await push(registry, 'app', TWO_SYSTEMS)) })
    expect(refusal).toContain(`${registry.host}/app:latest would lose linux/arm/v7\n`)
    expect(refusal).toContain(
      ':latest has linux/amd64, linux/arm64, linux/arm/v7; this run did not build linux/arm/v7\n',
    )
    expect(refusal).toContain('  allow-missing-platforms: true')
    expect(writesTo(registry)).toEqual([])
  })

  test('of its single image', async () => {
    const refusal = await refusalOf(registry, { digests: records(await push(registry, 'app', ['aarch64-linux'])) })
    expect(refusal).toContain(':latest would lose linux/amd64\n')
  })

  test('of a Docker manifest list', async () => {
    const [, , armv7] = await push(registry, 'app', THREE, { content: 'old' })
    const mediaType = 'application/vnd.docker.distribution.manifest.list.v2+json'
    const list = { schemaVersion: 2, mediaType, manifests: [armv7?.entry] }
    registry.seedManifest('app', Buffer.from(JSON.stringify(list)), mediaType, 'latest')
    const refusal = await refusalOf(registry, { digests: records(await push(registry, 'app', TWO_SYSTEMS)) })
    expect(refusal).toContain(':latest would lose linux/arm/v7\n')
  })

  test('when several tags move: if one of them would, none moves', async () => {
    const [, arm64] = await push(registry, 'app', TWO_SYSTEMS, { content: 'old' })
    seedIndex(registry, 'app', [arm64.entry], 'v1')
    const digests = records(await push(registry, 'app', ['x86_64-linux']))
    const refusal = await refusalOf(registry, { digests, tags: 'v0,latest,v1' })
    expect(refusal).toContain(':v1 would lose linux/arm64\n')
  })

  test('in any of the registries', async () => {
    const other = await openRegistry()
    const [, arm64] = await push(other, 'app', TWO_SYSTEMS, { content: 'old' })
    other.seedTag('app', 'latest', arm64.image.digest)
    const image = `${registry.host}/app\n${other.host}/app`
    const refusal = await refusalOf(registry, {
      image,
      digests: records(await push(registry, 'app', ['x86_64-linux'])),
    })
    expect(refusal).toContain(`${other.host}/app:latest would lose linux/arm64\n`)
  })

  test('of an index whose platforms can’t be read', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS, { content: 'old' })
    const odd = { ...amd64.entry, digest: `sha512:${'0'.repeat(128)}` }
    seedIndex(registry, 'app', [odd, arm64.entry], 'latest')
    const digests = records(await push(registry, 'app', ['x86_64-linux']))
    expect(await refusalOf(registry, { digests, tags: 'latest' })).toContain('is not a sha256 digest')
    await mergeWith(registry, { digests, tags: 'latest', 'allow-missing-platforms': 'true' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
    expect(said).toEqual([expect.stringContaining('is not a sha256 digest')])
  })

  test('unless `allow-missing-platforms` is set, and then a warning names the platforms', async () => {
    const images = await push(registry, 'app', THREE, { content: 'old' })
    pushIndex(registry, images, 'latest')
    const digests = records(await push(registry, 'app', ['x86_64-linux']))
    await mergeWith(registry, { digests, tags: 'latest,new', 'allow-missing-platforms': 'true' })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
    expect(said).toEqual([
      `warning: ${registry.host}/app:latest has linux/amd64, linux/arm64, linux/arm/v7; this run did not build linux/arm64, linux/arm/v7. \`allow-missing-platforms: true\` permits this.`,
    ])
  })
})

describe('a merge does not count as losing a platform', () => {
  test('if the index only has another notation for it', async () => {
    const [amd64, arm64] = await push(registry, 'app', TWO_SYSTEMS, { content: 'old' })
    const entries = [amd64.entry, { ...arm64.entry, platform: { ...arm64.platform, variant: 'v8' } }]
    seedIndex(registry, 'app', entries, 'latest')
    await mergeWith(registry, { digests: records(await push(registry, 'app', TWO_SYSTEMS)) })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
    expect(said).toEqual([])
  })

  test('if the published index also has attestations', async () => {
    seedIndex(registry, 'app', [old[0].entry, await seedAttestation(registry, 'app', old[0].image)], 'latest')
    await mergeWith(registry, { digests: records(await push(registry, 'app', ['x86_64-linux'])) })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })

  test('if the tag does not point to an image', async () => {
    const config = Buffer.from('{"name":"a chart"}')
    const digest = await registry.seedBlob('app', config)
    const mediaType = 'application/vnd.oci.image.manifest.v1+json'
    const type = 'application/vnd.cncf.helm.config.v1+json'
    const chart = { schemaVersion: 2, mediaType, config: { mediaType: type, digest, size: config.length }, layers: [] }
    registry.seedManifest('app', Buffer.from(JSON.stringify(chart)), mediaType, 'latest')
    await mergeWith(registry, { digests: records(await push(registry, 'app', ['x86_64-linux'])) })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })
})

describe('an incomplete push is not published:', () => {
  test('an image without one of its layers, which the error names', async () => {
    const [{ image, record }] = await push(registry, 'app', ['x86_64-linux'])
    const { layers } = JSON.parse(String(registry.manifest('app', image.digest)?.bytes))
    await loseBlob(registry, 'app', layers[0].digest)
    const refusal = await refusalOf(registry, { digests: record })
    expect(refusal).toContain(`/app@${image.digest} is incomplete: 1 of its layers is missing from the registry\n`)
    expect(refusal).toContain(layers[0].digest)
    expect(refusal).toContain(
      'Run this job again. If that does not help, run the build of this system again. If it still fails, set `reuse-from: ""`',
    )
  })

  test('an image without its config', async () => {
    const [{ image, record }] = await push(registry, 'app', ['x86_64-linux'])
    const { config } = JSON.parse(String(registry.manifest('app', image.digest)?.bytes))
    await loseBlob(registry, 'app', config.digest)
    expect(await refusalOf(registry, { digests: record })).toContain(
      `The config of ${registry.host}/app@${image.digest} is not in the registry`,
    )
  })

  test('an attestation without one of its layers', async () => {
    const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'])
    const attestation = await seedAttestation(registry, 'app', image)
    const { layers } = JSON.parse(String(registry.manifest('app', attestation.digest)?.bytes))
    await loseBlob(registry, 'app', layers[0].digest)
    const digests = seedIndex(registry, 'app', [entry, attestation])
    expect(await refusalOf(registry, { digests })).toContain(layers[0].digest)
  })

  test('an index without one of its attestations', async () => {
    const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'])
    const elsewhere = await openRegistry()
    const attestation = await seedAttestation(elsewhere, 'app', image)
    const digests = seedIndex(registry, 'app', [entry, attestation])
    expect(await refusalOf(registry, { digests })).toContain(`/app@${attestation.digest} is not in the registry`)
  })
})

describe('attestations', () => {
  test('of BuildKit are published with their image and are not listed as platforms', async () => {
    const pushed = await push(registry, 'app', TWO_SYSTEMS)
    const attested = await Promise.all(
      pushed.map(async ({ image, entry }) => ({ entry, attestation: await seedAttestation(registry, 'app', image) })),
    )
    const digests = attested.map(({ entry, attestation }) => seedIndex(registry, 'app', [entry, attestation]))
    const { outputs } = await mergeWith(registry, { digests: digests.join('\n') })
    const { manifests } = JSON.parse(String(registry.manifest('app', 'latest')?.bytes))
    expect(manifests).toHaveLength(4)
    expect(manifests).toEqual(
      expect.arrayContaining(attested.flatMap(({ entry, attestation }) => [entry, attestation])),
    )
    expect(JSON.parse(outputs.platforms ?? '')).toHaveLength(2)
  })

  test('of other images are not published', async () => {
    const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'])
    const foreign = await seedAttestation(registry, 'app', { ...image, digest: `sha256:${'0'.repeat(64)}` })
    await mergeWith(registry, { digests: seedIndex(registry, 'app', [entry, foreign]) })
    expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64'])
  })
})

test.each([
  ['size', { size: 1 }, 'has 1 bytes'],
  ['media type', { mediaType: DOCKER_MANIFEST }, `bytes of type ${DOCKER_MANIFEST}`],
])('a record whose %s differs from its manifest is refused', async (_, fields, detail) => {
  const platform = { os: 'linux', architecture: 'amd64' }
  const image = await seedImage(registry, 'app', platform)
  const digests = recordOf(`${registry.host}/app`, 'x86_64-linux', platform, { ...image, ...fields })
  const refusal = await refusalOf(registry, { digests })
  expect(refusal).toContain('does not match its record\n')
  expect(refusal).toContain(detail)
  expect(refusal).toContain(`but it has ${image.size} bytes of type ${image.mediaType}`)
})
