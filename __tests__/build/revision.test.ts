import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { chooseRevision, findRevision, sourceFolder } from '../../src/build/revision.ts'
import { readCheckedOut, sameGitRepository } from '../../src/git.ts'
import { readWorkflow } from '../../src/workflow.ts'

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
      expect.stringContaining(`The image is of commit ${head}, which is checked out, and not of ${RUN}`),
    ])
  })

  test('is the run’s where nothing is checked out, or Git knows no commit', async () => {
    expect(await find(folder)).toEqual({ revision: RUN, notices: [] })
    await git('init', '-q')
    expect(await find(folder)).toEqual({ revision: RUN, notices: [] })
    expect(await find(`${folder}/absent`)).toEqual({ revision: RUN, notices: [] })
  })

  test('is the run’s where another repository is checked out', async () => {
    await commit()
    await git('remote', 'add', 'origin', 'https://github.com/owner/other.git')
    expect(await find(folder)).toEqual({ revision: RUN, notices: [] })
  })

  test('is the run’s for a flake that Nix fetches', async () => {
    expect(await find('github:owner/app')).toEqual({ revision: RUN, notices: [] })
  })
})

test('a work tree tells its commit and its origin', async () => {
  const head = await commit()
  expect(await readCheckedOut(folder)).toEqual({ commit: head, origin: undefined })
  await git('remote', 'add', 'origin', 'git@github.com:Owner/App.git')
  expect(await readCheckedOut(folder)).toEqual({ commit: head, origin: 'git@github.com:Owner/App.git' })
})

test.each<[string, string, boolean]>([
  ['https://github.com/owner/app', 'https://github.com/Owner/App', true],
  ['git@github.com:owner/app.git', 'https://github.com/owner/app', true],
  ['ssh://git@github.com:22/owner/app.git/', 'https://github.com/owner/app', true],
  ['https://x-access-token:abc@github.com/owner/app', 'https://github.com/owner/app', true],
  ['https://github.com/owner/app-api', 'https://github.com/owner/app', false],
  ['https://gitlab.com/owner/app', 'https://github.com/owner/app', false],
  ['', '', false],
])('%s and %s are one repository: %s', (one, other, same) => {
  expect(sameGitRepository(one, other)).toBe(same)
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
    expect(chooseRevision({ commit: RUN }, run).revision).toBe(HEAD)
    expect(chooseRevision(undefined, run).revision).toBe(HEAD)
    expect(chooseRevision({ commit: HEAD }, run).revision).toBe(HEAD)
    expect(chooseRevision({ commit: BUILT }, run).revision).toBe(BUILT)
  })

  test.each([
    ['without the head', { pull_request: {} }, 'pull_request'],
    ['with something else', { pull_request: { head: { sha: '; rm' } } }, 'pull_request'],
    ['of another kind', event, 'pull_request_target'],
  ])('an event %s changes nothing', async (_, content, name) => {
    expect(chooseRevision({ commit: RUN }, await workflow(content, name)).revision).toBe(RUN)
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
  [{ installable: '/nix/store/00000000000000000000000000000000-app' }, '.'],
])('%j is in %s', (inputs, expected) => {
  expect(sourceFolder({ ...source, ...inputs })).toBe(expected)
})
