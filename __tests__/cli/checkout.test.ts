import { execFile } from 'node:child_process'
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { compareInCheckout, findUncommitted, readCheckout, sourceOf } from '../../src/cli/checkout.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'checkout-'))
})
afterEach(() => rm(folder, { recursive: true }))

async function git(cwd: string, ...args: readonly string[]): Promise<string> {
  const options = ['-c', 'user.name=A', '-c', 'user.email=a@example.com', '-c', 'init.defaultBranch=main']
  return (await promisify(execFile)('git', [...options, ...args], { cwd })).stdout.trim()
}

async function commit(cwd: string, message: string): Promise<string> {
  await git(cwd, 'commit', '--quiet', '--allow-empty', '--message', message)
  return git(cwd, 'rev-parse', 'HEAD')
}

test.each([
  ['https://github.com/owner/app.git', 'https://github.com/owner/app'],
  ['https://gitlab-ci-token:secret@gitlab.com/group/sub/app.git', 'https://gitlab.com/group/sub/app'],
  ['git@github.com:owner/app.git', 'https://github.com/owner/app'],
  ['ssh://git@git.example.org:2222/owner/app', 'https://git.example.org/owner/app'],
  ['http://git.example.org:3000/owner/app/', 'https://git.example.org/owner/app'],
  ['/srv/git/app.git', ''],
  ['../app', ''],
  ['', ''],
])('the source of a checkout with the remote %j is %j', (remote, expected) => {
  expect(sourceOf(remote)).toBe(expected)
})

test('a command has no run, but the remote and the folder of records', async () => {
  await git(folder, 'init', '--quiet')
  await git(folder, 'remote', 'add', 'origin', 'git@git.example.org:owner/app.git')
  expect(await readCheckout(folder, 'records', {})).toMatchObject({
    run: { id: '', attempt: 1 },
    source: 'https://git.example.org/owner/app',
    recordFolder: 'records',
  })
  expect(await readCheckout('/', 'records', {})).toMatchObject({ source: '' })
})

describe('two commits', () => {
  test('are compared in the history that is checked out', async () => {
    await git(folder, 'init', '--quiet')
    const [first, second] = [await commit(folder, 'first'), await commit(folder, 'second')]
    await git(folder, 'checkout', '--quiet', '-b', 'other', first)
    const other = await commit(folder, 'other')
    const compare = (base: string, head: string) => compareInCheckout(folder, base, head)
    expect(await compare(first, second)).toBe('ahead')
    expect(await compare(second, first)).toBe('behind')
    expect(await compare(first, first)).toBe('identical')
    expect(await compare(second, other)).toBe('diverged')
    const unknown = { unknown: 'the history that is checked out here does not connect the two' }
    expect(await compare('1'.repeat(40), first)).toEqual(unknown)
    expect(await compareInCheckout(tmpdir(), first, second)).toEqual(unknown)
    expect(await compare('--help', first)).toEqual({ unknown: '"--help" is not a commit' })
  })

  test('are not called diverged by a shallow clone, which may lack the commits between them', async () => {
    const [origin, clone] = [join(folder, 'origin'), join(folder, 'clone')]
    await git(folder, 'init', '--quiet', origin)
    await commit(origin, 'first')
    const second = await commit(origin, 'second')
    await git(folder, 'clone', '--quiet', '--depth', '1', `file://${origin}`, clone)
    await git(clone, 'checkout', '--quiet', '--orphan', 'other')
    const other = await commit(clone, 'other')
    expect(await compareInCheckout(clone, second, other)).toMatchObject({ unknown: expect.any(String) })
  })
})

test('uncommitted changes of the source are a warning', async () => {
  await git(folder, 'init', '--quiet')
  await writeFile(join(folder, 'flake.nix'), '{ }\n')
  await git(folder, 'add', '.')
  await commit(folder, 'first')
  const source = { flake: folder, installable: '', file: '' }
  await writeFile(join(folder, 'untracked'), '')
  expect(await findUncommitted(source)).toBeUndefined()
  await appendFile(join(folder, 'flake.nix'), '# changed\n')
  expect(await findUncommitted(source)).toMatch(/^1 file has uncommitted changes\. The image contains them, although/)
  expect(await findUncommitted({ ...source, flake: 'github:owner/app' })).toBeUndefined()
})
