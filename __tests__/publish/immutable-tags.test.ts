import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  COMMIT,
  EARLIER,
  LATER,
  mergeWith,
  namesIn,
  ORIGIN,
  openGitHost,
  openRegistry,
  push,
  pushCommit,
  pushOld,
  records,
  refusalOf,
  TOKEN,
  writesTo,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { OCI_INDEX } from '../support/seed.ts'

let registry: TestRegistry

beforeEach(async () => {
  registry = await openRegistry()
})

const CREATED = 'org.opencontainers.image.created'
const immutable = { 'immutable-tags': 'v*' }

async function inputsFor(tags: string, more: Readonly<Record<string, string>> = immutable) {
  return { digests: records(await push(registry, 'app', ['x86_64-linux'])), tags, ...more }
}

const pointsTo = () => Object.fromEntries(registry.tags('app'))

describe('an immutable tag', () => {
  test('is created like any other tag', async () => {
    const { outputs } = await mergeWith(registry, await inputsFor('v1.2.3,latest'))
    expect(pointsTo()).toEqual({ 'v1.2.3': outputs.digest, latest: outputs.digest })
  })

  test('with other content stops the merge before it writes anything', async () => {
    const old = await pushOld(registry, ['v1.2.3'])
    const inputs = await inputsFor('latest,v1.2.3')
    const before = writesTo(registry)
    const refusal = await refusalOf(registry, inputs)
    expect(refusal).toContain(`${registry.host}/app:v1.2.3 exists with other content, and \`immutable-tags\``)
    expect(refusal).toContain(`  ${registry.host}/app:v1.2.3 points to ${old}\n  the index of this run is sha256:`)
    expect(refusal).toContain('No tag has moved. Publish this image under a new tag')
    expect(refusal).toContain('remove v* from `immutable-tags`')
    expect(writesTo(registry)).toEqual(before)
  })

  test('with other content stops a rehearsal', async () => {
    await pushOld(registry, ['v1.2.3'])
    expect(await refusalOf(registry, { ...(await inputsFor('v1.2.3')), push: 'false' })).toContain(
      'v1.2.3 exists with other content',
    )
  })

  test('that points to a later commit is not skipped silently', async () => {
    const host = await openGitHost()
    registry.seedTag('app', 'v1', await pushCommit(registry, LATER))
    const inputs = await inputsFor('v1,latest', { ...immutable, token: TOKEN })
    const refusal = await refusalOf(registry, inputs, { env: { GITHUB_API_URL: host.api } })
    expect(refusal).toContain(`(commit ${LATER})`)
  })

  test('with the same content passes, and other tags are pointed to its index', async () => {
    const first = await mergeWith(
      registry,
      await inputsFor('v1.2.3', { ...immutable, annotations: `${CREATED}=first` }),
    )
    const again = await inputsFor('latest,v1.2.3', { ...immutable, annotations: `${CREATED}=second` })
    const { outputs } = await mergeWith(registry, again, { sha: EARLIER })
    expect(outputs).toMatchObject({ digest: first.outputs.digest, changed: 'false' })
    expect(pointsTo()).toEqual({ 'v1.2.3': first.outputs.digest, latest: first.outputs.digest })
  })

  test('keeps its index if a tag that may move has another one with the same content', async () => {
    const of = async (tags: string, created: string) =>
      mergeWith(registry, await inputsFor(tags, { annotations: `${CREATED}=${created}`, ...immutable }))
    const [latest, release] = [await of('latest', 'first'), await of('v1', 'second')]
    expect(latest.outputs.digest).not.toBe(release.outputs.digest)
    await of('latest,v1', 'third')
    expect(pointsTo()).toEqual({ latest: release.outputs.digest, v1: release.outputs.digest })
  })

  test('is not replaced by a new index with `republish`', async () => {
    const created = (text: string) => inputsFor('v1', { annotations: `${CREATED}=${text}`, ...immutable })
    await mergeWith(registry, await created('first'))
    const refusal = await refusalOf(registry, { ...(await created('second')), republish: 'true' })
    expect(refusal).toContain('If the images are the same, remove `republish`.')
  })

  test('in any repository stops the merge', async () => {
    await push(registry, 'mirror', ['x86_64-linux'])
    await pushOld(registry, ['v1'], 'mirror')
    const image = namesIn(registry, 'app', 'mirror')
    expect(await refusalOf(registry, { ...(await inputsFor('v1')), image })).toContain('/mirror:v1 exists with other')
  })

  test.each([
    ['v*', 'v1', true],
    ['v?', 'v1', true],
    ['v?', 'v10', false],
    ['1.*', '1.2', true],
    ['1.*', '102', false],
    ['*-rc', 'v1-rc', true],
    ['v', 'v1', false],
    ['1', 'v1', false],
    ['x\nv1', 'v1', true],
  ])('matches a whole pattern: %j and %s', async (pattern, tag, held) => {
    const old = await pushOld(registry, [tag])
    const inputs = await inputsFor(tag, { 'immutable-tags': pattern })
    if (held) expect(await refusalOf(registry, inputs)).toContain(`:${tag} exists with other content`)
    else expect((await mergeWith(registry, inputs)).outputs.digest).toBe(pointsTo()[tag])
    expect(pointsTo()[tag] === old).toBe(held)
  })
})

describe('an immutable tag that another run creates during this run', () => {
  /** Creates the tag when this run writes a reference: `index` is the index by its digest. */
  function createAt(written: string, tag: string, digest: string): void {
    let created = false
    registry.setFault(({ method, reference = '' }) => {
      const isWrite = method === 'PUT' && (reference === written || (written === 'index' && reference.includes(':')))
      if (isWrite && !created) registry.seedTag('app', tag, digest)
      created ||= isWrite
      return undefined
    })
  }

  test.each([EARLIER, COMMIT])('stays, and the tags are as they were, if it has other content (%s)', async (commit) => {
    const host = await openGitHost()
    const other = await pushCommit(registry, commit)
    const old = await pushOld(registry, ['latest'])
    const inputs = await inputsFor('v1,latest', { ...immutable, token: TOKEN })
    createAt('index', 'v1', other)
    const refusal = await mergeWith(registry, inputs, { env: { GITHUB_API_URL: host.api } }).catch(String)
    expect(refusal).toContain(`${registry.host}/app:v1 exists with other content`)
    expect(refusal).toContain(`${registry.host}/app:v1 points to ${other} (commit ${commit})`)
    expect(refusal).toContain('No tag has moved.')
    expect(pointsTo()).toEqual({ v1: other, latest: old })
  })

  test('stops a merge that has moved other tags, which are restored', async () => {
    const other = await pushCommit(registry, EARLIER)
    const old = await pushOld(registry, ['edge'])
    const inputs = await inputsFor('edge,latest', { 'immutable-tags': 'latest' })
    createAt('edge', 'latest', other)
    const refusal = await mergeWith(registry, inputs).catch(String)
    expect(refusal).toContain(`${registry.host}/app:latest exists with other content`)
    expect(refusal).toContain('All other tags are as they were.')
    expect(pointsTo()).toEqual({ edge: old, latest: other })
  })
})

test('an immutable tag does not move to the Docker manifest list that another repository needs', async () => {
  const docker = async (path: string) =>
    records(await push(registry, path, ['x86_64-linux'], { docker: true, labels: ORIGIN }))
  await docker('mirror')
  const digests = await docker('app')
  const { outputs } = await mergeWith(registry, { digests, tags: 'v1', ...immutable })
  registry.setFault(({ method, path, headers }) =>
    method === 'PUT' && path.startsWith('/v2/mirror/') && headers['content-type'] === OCI_INDEX
      ? { kind: 'status', status: 400, body: '{"errors":[{"code":"MANIFEST_INVALID","message":"invalid"}]}' }
      : undefined,
  )
  const image = namesIn(registry, 'app', 'mirror')
  expect(await refusalOf(registry, { image, digests, tags: 'v1', ...immutable })).toContain('/app:v1 exists with other')
  expect(pointsTo()).toEqual({ v1: outputs.digest })
})
