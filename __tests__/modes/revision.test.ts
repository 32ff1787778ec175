import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { readWorkflow } from '../../src/context.ts'
import { chooseRevision, findRevision, findSourceRepository, sourceFolder, sourceOf } from '../../src/modes/revision.ts'

const RUN = '1'.repeat(40)
const BUILT = '2'.repeat(40)
const HEAD = '3'.repeat(40)
const env = { GITHUB_SHA: RUN, GITHUB_SERVER_URL: 'https://github.com', GITHUB_REPOSITORY: 'Owner/App' }
const source = { flake: '.', installable: '', file: '' }

let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'revision-'))
})

afterEach(() => rm(folder, { recursive: true }))

async function git(...args: readonly string[]): Promise<string> {
  const identity = ['-c', 'user.email=a@example.com', '-c', 'user.name=a']
  const { stdout } = await promisify(execFile)('git', ['-C', folder, ...identity, ...args])
  return stdout.trim()
}

async function commit(): Promise<string> {
  await git('init', '-q')
  await git('commit', '-q', '--allow-empty', '-m', 'first')
  return git('rev-parse', 'HEAD')
}

async function find(flake: string): Promise<{ readonly revision: string; readonly notices: readonly string[] }> {
  const notices: string[] = []
  const note = (text: string) => void notices.push(text)
  const log = { ...console, info: () => undefined, notice: note } as unknown as Parameters<typeof findRevision>[2]
  return { revision: await findRevision({ ...source, flake }, readWorkflow(env), log), notices }
}

describe('the commit of a build', () => {
  test('is the one that is checked out where the flake is, and a notice says so', async () => {
    const head = await commit()
    await mkdir(join(folder, 'nix'))
    const { revision, notices } = await find(`${folder}/nix?dir=x`)
    expect(revision).toBe(head)
    expect(notices).toEqual([
      expect.stringContaining(
        `Building commit ${head}, which is checked out, instead of the commit of this run, ${RUN} (GITHUB_SHA).`,
      ),
    ])
  })

  test('is the run’s where nothing is checked out, or Git knows no commit', async () => {
    expect(await find(folder)).toEqual({ revision: RUN, notices: [] })
    await git('init', '-q')
    expect(await find(folder)).toEqual({ revision: RUN, notices: [] })
    expect(await find(`${folder}/absent`)).toEqual({ revision: RUN, notices: [] })
  })

  test('is that of a fork which is checked out: its code is not that of the run’s commit', async () => {
    const head = await commit()
    await git('remote', 'add', 'origin', 'https://github.com/fork/app.git')
    expect((await find(folder)).revision).toBe(head)
  })

  test('is the run’s for a flake that Nix fetches', async () => {
    expect(await find('github:owner/app')).toEqual({ revision: RUN, notices: [] })
  })
})

describe('the repository of the commit', () => {
  const OWN = 'https://github.com/Owner/App'
  const sourceAt = (flake: string, revision: string) =>
    findSourceRepository({ ...source, flake }, revision, readWorkflow(env))

  test('is the remote of the checkout, which may be of another repository than the run’s', async () => {
    const head = await commit()
    expect(await sourceAt(folder, head)).toBeUndefined()
    await git('remote', 'add', 'origin', 'https://user:not-to-be-seen@github.com/o/app.git')
    expect(await sourceAt(folder, head)).toBe('https://github.com/o/app')
    await git('remote', 'set-url', 'origin', 'git@github.com:owner/app.git')
    expect(await sourceAt(folder, head)).toBe(OWN)
  })

  test('is the run’s for its commit, unless Nix fetches the source', async () => {
    expect(await sourceAt(folder, RUN)).toBe(OWN)
    expect(await sourceAt('github:owner/app', RUN)).toBeUndefined()
  })

  test.each(['ref=v1', 'dir=x&rev=1'])(
    'is unknown for a flake with ?%s: another commit may be built',
    async (query) => {
      expect(await sourceAt(`git+file://${folder}?${query}`, RUN)).toBeUndefined()
    },
  )

  test.each([
    ['https://github.com/Owner/App', OWN],
    ['https://x:y@github.com/owner/app.git/', OWN],
    ['ssh://git@github.com:22/Owner/App.git', OWN],
    ['git@github.com:Owner/App', OWN],
    ['github.com:Owner/App.git', OWN],
    ['http://127.0.0.1:3000/o/app.git?a#b', 'http://127.0.0.1:3000/o/app'],
    ['git@github.com:o/app.git', undefined],
    ['https://github.com/Owner/App2', 'https://github.com/Owner/App2'],
    ['https://example.org/Owner/App', 'https://example.org/Owner/App'],
    ['/srv/git/app.git', undefined],
    ['file:///srv/git/app.git', undefined],
    ['../app', undefined],
  ])('of the remote %s is %s', (remote, expected) => {
    expect(sourceOf(remote, OWN)).toBe(expected)
  })
})

describe('in a pull request', () => {
  async function workflow(event: unknown, name = 'pull_request') {
    const file = join(folder, 'event.json')
    await writeFile(file, JSON.stringify(event))
    return readWorkflow({ ...env, GITHUB_EVENT_NAME: name, GITHUB_EVENT_PATH: file })
  }
  const event = { pull_request: { head: { sha: HEAD } } }

  test('it is the head’s, not that of the temporary merge', async () => {
    const run = await workflow(event)
    expect(chooseRevision(RUN, run)).toBe(HEAD)
    expect(chooseRevision(undefined, run)).toBe(HEAD)
    expect(chooseRevision(HEAD, run)).toBe(HEAD)
    expect(chooseRevision(BUILT, run)).toBe(BUILT)
    for (const name of ['pull_request_review', 'pull_request_review_comment'])
      expect(chooseRevision(RUN, await workflow(event, name))).toBe(HEAD)
  })

  test.each([
    ['without the head', { pull_request: {} }, 'pull_request'],
    ['with something else', { pull_request: { head: { sha: '; rm' } } }, 'pull_request'],
    ['of another kind', event, 'pull_request_target'],
  ])('an event %s changes nothing', async (_, content, name) => {
    expect(chooseRevision(RUN, await workflow(content, name))).toBe(RUN)
  })
})

test.each<[Partial<typeof source>, string | undefined]>([
  [{}, '.'],
  [{ flake: './apps/a?submodules=1' }, './apps/a'],
  [{ flake: 'path:./apps/a' }, './apps/a'],
  [{ flake: 'git+file:///src/app?ref=main' }, '/src/app'],
  [{ flake: 'github:owner/app' }, undefined],
  [{ flake: 'nixpkgs' }, undefined],
  [{ file: 'nix/docker.nix' }, 'nix'],
  [{ file: '<nixpkgs>' }, undefined],
  [{ installable: './nix#app' }, './nix'],
  [{ installable: '#app' }, '.'],
  [{ installable: 'nixpkgs#hello' }, undefined],
  [{ installable: './result' }, '.'],
  [{ installable: 'images/app.tar.gz' }, 'images'],
  [{ installable: '..' }, '..'],
  [{ installable: 'hello' }, undefined],
  [{ installable: 'github:owner/app' }, undefined],
  [{ installable: '/nix/store/00000000000000000000000000000000-app' }, '.'],
])('%j is in %s', (inputs, expected) => {
  expect(sourceFolder({ ...source, ...inputs })).toBe(expected)
})
