import { beforeEach, describe, expect, jest, test } from '@jest/globals'
import { run } from '../../src/run.ts'
import { type GitHost, type GitHostAnswer, startGitHost } from '../support/git-host.ts'
import {
  afterwards,
  COMMIT,
  EARLIER,
  indexAt,
  LATER,
  lines,
  type MergeCall,
  mergeWith,
  ORIGIN,
  openGitHost,
  openRegistry,
  push,
  pushCommit,
  pushOld,
  REVISION,
  records,
  SIBLING,
  SOURCE,
  said,
  shortCode,
  TOKEN,
  TWO_SYSTEMS,
  UNKNOWN,
} from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { prepareRunner } from '../support/runner.ts'
import { seedIndex } from '../support/seed.ts'

let registry: TestRegistry
let host: GitHost

beforeEach(async () => {
  registry = await openRegistry()
  host = await openGitHost()
})

/** Publishes a tag like the merge of that commit. Returns the digest of the index. */
function publish(tag: string, commit: string, annotations: Readonly<Record<string, string>> = {}): Promise<string> {
  return pushCommit(registry, commit, { tag, annotations })
}

async function mergeOnto(tags: string, inputs: Readonly<Record<string, string>> = {}, call: MergeCall = {}) {
  const digests = records(await push(registry, 'app', ['x86_64-linux']))
  const all = { digests, tags, token: TOKEN, ...inputs }
  return await mergeWith(registry, all, { ...call, env: { GITHUB_API_URL: host.api, ...call.env } })
}

describe('on Gitea and Forgejo, which do not return the order of two commits,', () => {
  beforeEach(async () => {
    host = await openGitHost({ countsOnly: true })
  })

  test('a tag that points to a later commit does not move', async () => {
    const later = await publish('latest', LATER)
    const { outputs } = await mergeOnto('latest')
    expect(registry.tags('app').get('latest')).toBe(later)
    expect(outputs['skipped-tags']).toBe(`${registry.host}/app:latest`)
  })

  test.each([
    ['an earlier commit', EARLIER],
    ['a commit of another branch', SIBLING],
  ])('a tag that points to %s moves without a warning', async (_, commit) => {
    await publish('latest', commit)
    const { outputs } = await mergeOnto('latest')
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(said.filter((text) => text.startsWith('warning'))).toEqual([])
  })
})

describe('the commit that was built, if it is not the commit of the run,', () => {
  const built = (revision: string) => ({ record: { revision } })

  async function mergeBuilt(tags: string, revision: string, inputs: Readonly<Record<string, string>> = {}) {
    const digests = records(await push(registry, 'app', ['x86_64-linux'], built(revision)))
    const all = { digests, tags, token: TOKEN, ...inputs }
    return mergeWith(registry, all, { env: { GITHUB_API_URL: host.api } })
  }

  test('is the revision of the index and replaces {sha} in tags', async () => {
    await mergeBuilt('v1-{sha}', EARLIER)
    expect(indexAt(registry, `v1-${EARLIER.slice(0, 7)}`).annotations).toMatchObject({ [REVISION]: EARLIER })
  })

  test('is compared with the commit of a tag', async () => {
    const published = await publish('latest', COMMIT)
    await mergeBuilt('latest', EARLIER)
    expect(registry.tags('app').get('latest')).toBe(published)
    expect(said.join('\n')).toContain(`it points to commit ${COMMIT}, which is newer than ${EARLIER}`)
  })

  test('is replaced by the revision in the annotations', async () => {
    const published = await publish('latest', COMMIT)
    const annotations = `manifest:${REVISION}=${EARLIER}`
    await mergeBuilt('latest\nv1', COMMIT, { annotations })
    expect(registry.tags('app').get('latest')).toBe(published)
    expect(indexAt(registry, 'v1').annotations).toMatchObject({ [REVISION]: EARLIER })
  })

  test('is listed for each system in a warning if the builds have different commits', async () => {
    const [amd64] = await push(registry, 'app', ['x86_64-linux'], built(EARLIER))
    const [arm64] = await push(registry, 'app', ['aarch64-linux'], built(LATER))
    await mergeWith(registry, { digests: records([amd64, arm64]), tags: 'v1' })
    expect(said.join('\n')).toContain(
      `The images were built from different commits:\n  x86_64-linux: ${EARLIER}\n  aarch64-linux: ${LATER}\nThe index names ${EARLIER}.`,
    )
  })
})

/** A reason why the order of two commits is unknown. */
interface Trouble {
  readonly token?: string
  /** The commit that the tag points to. */
  readonly of?: string
  readonly api?: string
  readonly fault?: GitHostAnswer | 'reset'
}

const unknowns = (): readonly string[] => said.filter((line) => line.includes('without knowing which one is newer'))

describe('the index names', () => {
  test('the commit and the repository of the run', async () => {
    await mergeOnto('latest', {}, { sha: LATER, repository: 'some/where' })
    expect(indexAt(registry, 'latest').annotations).toEqual({
      [REVISION]: LATER,
      [SOURCE]: 'https://github.com/some/where',
    })
  })

  test('the commit and the repository in annotations of docker/metadata-action', async () => {
    const annotations = `index:${REVISION}=${EARLIER}\n${SOURCE}=https://example.org/app`
    await mergeOnto('latest', { annotations })
    expect(indexAt(registry, 'latest').annotations).toEqual({
      [REVISION]: EARLIER,
      [SOURCE]: 'https://example.org/app',
    })
  })
})

describe('a tag that points to a later commit', () => {
  test('does not move: a warning names both commits, and the other tags are published', async () => {
    const later = await publish('latest', LATER)
    const { outputs, summary } = await mergeOnto('latest,v1')
    expect(Object.fromEntries(registry.tags('app'))).toEqual({ latest: later, v1: outputs.digest })
    expect(outputs).toMatchObject({ tags: `${registry.host}/app:v1`, 'skipped-tags': `${registry.host}/app:latest` })
    expect(summary).toContain(
      `| \`latest\` | not moved: ${shortCode(later)} is from the newer commit \`${LATER.slice(0, 12)}\` |`,
    )
    expect(said).toEqual([expect.stringContaining(`warning: Not moving ${registry.host}/app:latest`)])
    expect(said[0]).toContain(LATER)
    expect(said[0]).toContain(COMMIT)
    expect(said[0]).toContain('`allow-older: true`')
  })

  test('does not move, even if its index lacks a platform of this run', async () => {
    const [{ entry }, arm64] = await push(registry, 'app', TWO_SYSTEMS, { content: 'later' })
    const later = seedIndex(registry, 'app', [entry, arm64.entry], 'latest', { ...ORIGIN, [REVISION]: LATER })
    await mergeOnto('latest,v1')
    expect(registry.tags('app').get('latest')).toBe(later)
  })

  test('does not move if it points to a single image whose label names the commit', async () => {
    const labels = { [REVISION]: LATER, [SOURCE]: 'https://github.com/owner/app.git' }
    const [{ image }] = await push(registry, 'app', ['x86_64-linux'], { content: 'later', labels })
    registry.seedTag('app', 'latest', image.digest)
    await mergeOnto('latest,v1')
    expect(registry.tags('app').get('latest')).toBe(image.digest)
  })

  test('moves with `allow-older`, without a request to the Git host', async () => {
    await publish('latest', LATER)
    const { outputs } = await mergeOnto('latest', { 'allow-older': 'true' })
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(outputs).toMatchObject({ 'skipped-tags': '', changed: 'true' })
    expect(said).toEqual([])
    expect(host.requests).toEqual([])
  })
})

describe('a tag moves', () => {
  test.each([
    ['an earlier commit', EARLIER],
    ['the same commit', COMMIT],
    ['a commit of another branch', SIBLING],
  ])('from %s without a message', async (_, commit) => {
    await publish('latest', commit)
    const { outputs } = await mergeOnto('latest')
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect([...said, ...unknowns()]).toEqual([])
  })

  test('after one authenticated request to the Git host for each commit', async () => {
    await publish('latest', EARLIER)
    await publish('v1', EARLIER)
    await publish('v2', SIBLING)
    await mergeOnto('latest,v1,v2,new')
    expect(host.requests.toSorted((one, other) => (one.path < other.path ? -1 : 1))).toEqual([
      { path: `/repos/Owner/App/compare/${EARLIER}...${COMMIT}`, authorization: `Bearer ${TOKEN}` },
      { path: `/repos/Owner/App/compare/${SIBLING}...${COMMIT}`, authorization: `Bearer ${TOKEN}` },
    ])
  })

  test('if its current image names no commit, and the log says so', async () => {
    await pushOld(registry, ['latest'])
    const { outputs } = await mergeOnto('latest')
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(lines).toContain(`Moving ${registry.host}/app:latest, whose current image names no commit`)
    expect(said).toEqual([])
  })
})

describe('a tag moves with a warning that says why the order of commits is unknown', () => {
  const broken = { status: 500, body: '<h1>Oh\n::error::no</h1>' }
  const endless = { status: 200, body: ' '.repeat(17 * 1024 * 1024) }

  test.each<[string, Trouble, string]>([
    ['without a token', { token: '' }, 'there is no token for the API'],
    ['with an invalid token', { token: 'ghs_expired' }, 'with status 401 (Bad credentials)'],
    ['if it points to a commit that the host does not have', { of: UNKNOWN }, 'with status 404 (Not Found)'],
    ['if its revision is not a commit ID', { of: '../../../user' }, '"../../../user" is not a commit'],
    ['if its revision contains a workflow command', { of: 'x\n::warning::x' }, '"x ::warning::x" is not a commit'],
    ['without the address of the API', { api: '' }, 'the runner does not provide the address of the API'],
    ['if the host can’t be reached', { api: 'http://127.0.0.1:1' }, "127.0.0.1:1 can't be reached"],
    ['if the connection breaks', { fault: 'reset' }, "can't be reached"],
    ['if the host answers with 500', { fault: broken }, 'with status 500 ('],
    [
      'if the answer is not JSON',
      { fault: { status: 200, body: 'ahead' } },
      'has neither a status nor a number of commits',
    ],
    [
      'if the answer has an unknown status',
      { fault: { status: 200, body: '{"status":"great"}' } },
      'has neither a status nor a number of commits',
    ],
    ['if the answer is too long', { fault: endless }, 'has neither a status nor a number of commits'],
  ])('%s', async (_, { token = TOKEN, of = LATER, api = host.api, fault }, why) => {
    if (fault !== undefined) host.setFault(fault)
    await publish('latest', of)
    const { outputs } = await mergeOnto('latest', { token }, { env: { GITHUB_API_URL: api } })
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(said).toEqual(unknowns())
    const commit = of.replace('\n', ' ')
    expect(said[0]).toContain(
      `Moving ${registry.host}/app:latest from commit ${commit} to commit ${COMMIT} without knowing`,
    )
    expect(said[0]).toContain(why)
    expect(said[0]).toContain('`concurrency` group')
    expect(said[0]).toContain('`allow-older: true`')
    expect(unknowns()[0]).not.toContain('\n')
  })

  test('if it points to an image of another repository, without a request to the Git host', async () => {
    await publish('latest', LATER, { [SOURCE]: 'https://github.com/other/app' })
    const { outputs } = await mergeOnto('latest')
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(unknowns()[0]).toContain('is from another repository, https://github.com/other/app')
    expect(host.requests).toEqual([])
  })

  test('if it points to an image of another repository, whose name contains a workflow command', async () => {
    await publish('latest', LATER, { [SOURCE]: 'https://example.org/\n::warning::not by this action' })
    await mergeOnto('latest')
    expect(unknowns()).toHaveLength(1)
    expect(said.join('\n')).not.toMatch(/^\s*::/m)
  })

  test('if the host redirects to another host, which never receives the token', async () => {
    const elsewhere = await startGitHost({ repository: 'Owner/App', token: TOKEN, parents: {} })
    afterwards(elsewhere.close)
    host.setFault({ status: 302, headers: { location: `${elsewhere.api}/compare` } })
    await publish('latest', LATER)
    await mergeOnto('latest')
    expect(unknowns()).toHaveLength(1)
    expect(elsewhere.requests).toEqual([])
  })
})

describe('a tag that points to a later commit does not move', () => {
  test.each<[string, GitHostAnswer | 'reset']>([
    ['429', { status: 429, body: 'slow down' }],
    ['502', { status: 502, body: '<html></html>' }],
    ['503', { status: 503 }],
    ['404, as for a commit that has just been pushed', { status: 404, body: '{"message":"Not Found"}' }],
    ['HTML', { status: 200, body: '<html><body>Welcome</body></html>' }],
    ['incomplete', { status: 200, body: '{"status":"beh' }],
    ['a broken connection', 'reset'],
  ])('if the first answer of the Git host is %s', async (_, fault) => {
    host.setFault(fault, 1)
    const later = await publish('latest', LATER)
    const { outputs } = await mergeOnto('latest,v1')
    expect(registry.tags('app').get('latest')).toBe(later)
    expect(outputs['skipped-tags']).toBe(`${registry.host}/app:latest`)
    expect(host.requests).toHaveLength(2)
    expect(lines.filter((line) => /(retrying|trying again) in \d/.test(line))).toHaveLength(1)
  })
})

test('the token is masked before anything else is logged, even if the Git host repeats it', async () => {
  host.setFault({ status: 403, body: JSON.stringify({ message: `The token ${TOKEN} may not read that` }) })
  await publish('latest', LATER)
  const digests = records(await push(registry, 'app', ['x86_64-linux']))
  const { env, close } = await prepareRunner({
    inputs: { mode: 'merge', image: `${registry.host}/app`, digests, tags: 'latest', token: TOKEN },
    env: { GITHUB_API_URL: host.api },
  })
  afterwards(close)
  const environment = process.env
  let written = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    written += String(text)
    return true
  })
  afterwards(async () => {
    process.env = environment
    jest.restoreAllMocks()
  })
  process.env = { ...env }
  await run(env)
  expect(written).toContain('with status 403 (The token ')
  expect(written.slice(0, written.indexOf(TOKEN))).toMatch(/^::add-mask::$/)
})
