import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type PublishedIndex, readIndex } from './contents.ts'
import { type Gitea, startGitea } from './gitea.ts'
import { openWorkflowRepository, type WorkflowRepository } from './gitea-workflow.ts'
import type { Login } from './server.ts'

// Runs the example for Gitea on a real Gitea with its runner. The tests run in order, and each pushes one commit.

let gitea: Gitea
let login: Login
let repository: WorkflowRepository
beforeAll(async () => {
  gitea = await startGitea()
  login = await gitea.login('read:package')
  repository = await openWorkflowRepository(gitea)
})
afterAll(async () => {
  await repository?.close()
  await gitea?.close()
})

/** Pushes a commit and returns it with the log of its run, in which all jobs must succeed. */
async function publish(
  files: Readonly<Record<string, string>>,
): Promise<{ readonly tag: string; readonly log: string }> {
  const commit = await repository.push(files)
  const { conclusions, log } = await repository.finished(commit)
  const names = ['build (ubuntu-24.04, x86_64-linux)', 'build (ubuntu-24.04-arm, aarch64-linux)', 'merge']
  if (names.some((name) => conclusions[name] !== 'success')) {
    throw new Error(`The run did not succeed: ${JSON.stringify(conclusions)}\n${log}`)
  }
  return { tag: commit.slice(0, 7), log }
}

function published(tag: string): Promise<PublishedIndex> {
  const registry = { host: gitea.host, owner: 'writer', login, readers: [], close: gitea.close }
  return readIndex(registry, 'writer/app', tag)
}

test('gitea.yml publishes an image for two systems, passing digests in artifacts', async () => {
  const { tag, log } = await publish({})
  const index = await published('latest')
  expect([...index.images.keys()]).toEqual(['amd64', 'arm64'])
  expect(await published(tag)).toEqual(index)
  expect(log).not.toMatch(/::warning::|there is no artifact service/)
})

test('the next commit is recognised as newer, and moves `latest`', async () => {
  const script = await readFile(new URL('../../examples/hello/make-image.sh', import.meta.url), 'utf8')
  const { tag, log } = await publish({ 'make-image.sh': `${script}# Changed.\n` })
  expect(await published('latest')).toEqual(await published(tag))
  expect(log).not.toMatch(/::warning::|did not say/)
})

test('a commit that does not change the image builds nothing', async () => {
  const before = await published('latest')
  const { log } = await publish({ 'README.md': 'A new file.\n' })
  expect(await published('latest')).toEqual(before)
  expect(log).not.toMatch(/building '.*\.drv'/)
})
